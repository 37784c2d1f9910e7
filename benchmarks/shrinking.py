"""Time of models from which whole units were cut, beside the dense and the masked ones.

`python -m benchmarks.shrinking` reads the dependencies of ResNet-50 and of a 28-layer decoder with
151,936 words, and runs ResNet-50 (224 x 224, batch 8) and a decoder of 12 layers of 768 features
over 512 tokens, with random weights: dense, masked, and with 75, 50 and 25 % of the multiply-adds
left. The models of one row take turns, and the ratios are those of the medians.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxprune as jp
from benchmarks.tracing import Decoder, ResNet50, seconds


class Layer(nn.Module):
    """Attention of twelve heads, and an MLP."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """One layer."""
        mask = nn.make_causal_mask(x[..., 0])
        x = x + nn.MultiHeadDotProductAttention(12)(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(768)(nn.gelu(nn.Dense(3072)(nn.LayerNorm()(x))))


class SmallDecoder(nn.Module):
    """Twelve layers."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of the next token."""
        x = nn.Embed(1000, 768)(tokens)
        for _ in range(12):
            x = Layer()(x)
        return nn.Dense(1000)(nn.LayerNorm()(x))


def reading(name: str, model: nn.Module, x: jax.ShapeDtypeStruct) -> None:
    """Prints how long the dependencies of a model take, beside a bare trace."""
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    jax.clear_caches()
    bare = seconds(lambda: jax.make_jaxpr(model.apply)(params, x))
    jax.clear_caches()
    read = seconds(lambda: jp.dependencies(model.apply, params, x))
    print(f"{name}: make_jaxpr {bare:.2f} s, dependencies {read:.2f} s")


def running(
    name: str, model: nn.Module, x: jax.Array, *, left: Sequence[float], rounds: int
) -> None:
    """Prints how long calls of a model take, dense, masked, and at sizes that are left."""
    params = jax.jit(model.init)(jax.random.key(0), x)
    deps = jp.dependencies(model.apply, params, x)
    whole = jax.jit(model.apply).lower(params, x).compile()
    calls: dict[str, Callable[[], Any]] = {"dense": lambda: whole(params, x)}
    notes = {"dense": _memory(whole)}
    for share in left:
        for multiple in (1, 16):
            cut = deps.choose(params, 1 - share, budget="multiply_adds", multiple_of=multiple)
            small = deps.shrink(params, cut)
            run = jax.jit(deps.function(cut)).lower(small, x).compile()
            cost = deps.cost(cut)
            label = f"{cost.multiply_adds / cost.of_multiply_adds:.2f}" + f" by {multiple}" * (
                multiple > 1
            )
            calls[label] = functools.partial(run, small, x)
            notes[label] = _memory(run)
        if share == 0.5:
            masked = jp.apply_mask(params, deps.mask(params, cut))
            calls["masked"] = lambda masked=masked: whole(masked, x)
    times: dict[str, list[float]] = {label: [] for label in calls}
    for _ in range(rounds):
        for label, call in calls.items():
            times[label].append(seconds(lambda call=call: jax.block_until_ready(call())))
    dense = statistics.median(times["dense"])
    print(f"{name}: dense {dense:.3f} s, {notes['dense']}")
    for label, taken in times.items():
        if label != "dense":
            ratio = statistics.median(taken) / dense
            print(f"  multiply-adds {label:12} time {ratio:.2f}  {notes.get(label, '')}")


def _memory(compiled: Any) -> str:
    found = compiled.memory_analysis()
    size = found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes
    return f"{size / 2**20:.0f} MiB"


def main() -> None:
    """Measures, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--left", type=float, nargs="+", default=[0.75, 0.5, 0.25])
    choices = parser.parse_args()
    reading("ResNet-50", ResNet50(), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    reading("decoder of 28 layers", Decoder(), jax.ShapeDtypeStruct((1, 512), jnp.int32))
    several = {"left": choices.left, "rounds": choices.rounds}
    start = time.perf_counter()
    running("ResNet-50", ResNet50(), jnp.ones((8, 224, 224, 3)), **several)
    running("decoder of 12 layers", SmallDecoder(), jnp.zeros((1, 512), jnp.int32), **several)
    print(f"in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
