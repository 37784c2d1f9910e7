"""Time of models from which whole units were cut, beside the dense and the masked ones.

`python -m benchmarks.shrinking [--only TEXT] [--rounds N]` reads the dependencies of ResNet-50 and
of a 28-layer decoder with 151,936 words, and runs ResNet-50 (224 x 224, batch 8), ViT-B/16 (224 x
224, batch 1) and a decoder of 12 layers of 768 features over 512 tokens, with random weights:
dense, masked, and with 75, 50 and 25 % of the multiply-adds left, in any widths and in multiples
of 16. The models of one table take turns in every round, and the ratios are those of the medians.

"memory" is what one call holds: parameters, inputs, results and temporary buffers, by XLA's
analysis. "file" is what `jax.export` writes and the bytes of the parameters.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export

import jaxprune as jp
from benchmarks import networks
from benchmarks.race import megabytes
from benchmarks.tracing import Decoder, ResNet50, seconds

_HEADER = ("model", "multiply-adds", "weights", "time", "quartiles", "memory", "file")


class Layer(nn.Module):
    """Attention of twelve heads, and an MLP."""

    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """One layer."""
        mask = nn.make_causal_mask(x[..., 0]) if self.causal else None
        x = x + nn.MultiHeadDotProductAttention(12)(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(768)(nn.gelu(nn.Dense(3072)(nn.LayerNorm()(x))))


class SmallDecoder(nn.Module):
    """Twelve layers."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of the next token."""
        x = nn.Embed(1000, 768)(tokens)
        for _ in range(12):
            x = Layer(causal=True)(x)
        return nn.Dense(1000)(nn.LayerNorm()(x))


class ViT(nn.Module):
    """ViT-B/16: patches, a token for the class, and twelve layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of 1000 classes."""
        x = nn.Conv(768, (16, 16), strides=16, padding="VALID")(x)
        x = x.reshape(len(x), -1, x.shape[-1])
        first = self.param("cls", nn.initializers.zeros, (1, 1, 768))
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, 768)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for _ in range(12):
            x = Layer(causal=False)(x)
        return nn.Dense(1000)(nn.LayerNorm()(x)[:, 0])


class Contender(NamedTuple):
    """A model that is ready to run, and what is known of it without running it.

    Attributes:
        label: What the table calls it.
        run: Runs it once.
        multiply_adds: The share of the dense model's multiply-adds.
        weights: The share of its weights.
        memory: The bytes that a call holds.
        file: The bytes of the exported function and of the parameters.
    """

    label: str
    run: Callable[[], Any]
    multiply_adds: float
    weights: float
    memory: float
    file: float


def contenders(
    model: nn.Module, x: jax.Array, left: Sequence[float], multiples: Sequence[int]
) -> Iterator[Contender]:
    """The dense model, one that is masked, and the small ones."""
    params = jax.jit(model.init)(jax.random.key(0), x)
    deps = jp.dependencies(model.apply, params, x)
    dense = _contender("dense", model.apply, params, x)
    yield dense
    half = deps.choose(params, 0.5, budget="multiply_adds")
    masked = jp.apply_mask(params, deps.mask(params, half))
    yield _contender("half is masked", model.apply, masked, x)
    for share in left:
        for multiple in multiples:
            cut = deps.choose(params, 1 - share, budget="multiply_adds", multiple_of=multiple)
            cost = deps.cost(cut)
            label = f"cut to {share:.0%}" + f", in {multiple}s" * (multiple > 1)
            small = _contender(label, deps.function(cut), deps.shrink(params, cut), x)
            yield small._replace(
                multiply_adds=cost.multiply_adds / cost.of_multiply_adds,
                weights=cost.weights / cost.of_weights,
            )


def _contender(label: str, function: Callable[..., Any], params: Any, x: jax.Array) -> Contender:
    jitted = jax.jit(function)
    compiled = jitted.lower(params, x).compile()
    found: Any = compiled.memory_analysis()
    memory = found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes
    file = len(export.export(jitted)(params, x).serialize()) + networks.bytes_of(params)
    return Contender(label, functools.partial(compiled, params, x), 1, 1, memory, file)


def running(name: str, field: Sequence[Contender], rounds: int) -> None:
    """Prints a table of how long each contender takes beside the first; they take turns."""
    times: list[list[float]] = [[] for _ in field]
    for contender in field:
        _run(contender)  # the first call meets cold memory
    for _ in range(rounds):
        for contender, taken in zip(field, times, strict=True):
            taken.append(seconds(functools.partial(_run, contender)))
    dense = statistics.median(times[0])
    rows = [_HEADER]
    for each, taken in zip(field, times, strict=True):
        ratios = [mine / theirs for mine, theirs in zip(taken, times[0], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        shares = f"{each.multiply_adds:.3f}", f"{each.weights:.3f}"
        clock = f"{statistics.median(taken) / dense:.2f}", f"{low:.2f}-{high:.2f}"
        rows.append((each.label, *shares, *clock, megabytes(each.memory), megabytes(each.file)))
    print(f"\n{name}: dense {dense * 1e3:.0f} ms, the median of {rounds} rounds\n")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip(), flush=True)


def _run(contender: Contender) -> None:
    jax.block_until_ready(contender.run())


def reading(name: str, model: nn.Module, x: jax.ShapeDtypeStruct) -> None:
    """Prints how long the dependencies of a model take, beside a bare trace."""
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    jax.clear_caches()
    bare = seconds(lambda: jax.make_jaxpr(model.apply)(params, x))
    jax.clear_caches()
    read = seconds(lambda: jp.dependencies(model.apply, params, x))
    print(f"{name}: make_jaxpr {bare:.2f} s, dependencies {read:.2f} s", flush=True)


_READ: dict[str, Callable[[], tuple[nn.Module, jax.ShapeDtypeStruct]]] = {
    "reading ResNet-50": lambda: (
        ResNet50(),
        jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
    ),
    "reading a decoder of 28 layers": lambda: (
        Decoder(),
        jax.ShapeDtypeStruct((1, 512), jnp.int32),
    ),
}

_RUN: dict[str, Callable[[], tuple[nn.Module, jax.Array]]] = {
    "ResNet-50, batch 8": lambda: (ResNet50(), jnp.ones((8, 224, 224, 3))),
    "ViT-B/16, batch 1": lambda: (ViT(), jnp.ones((1, 224, 224, 3))),
    "decoder of 12 layers": lambda: (SmallDecoder(), jnp.zeros((1, 512), jnp.int32)),
}


def main() -> None:
    """Measures, and prints a line or a table for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shrinking", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", default="", help="what has this in its name")
    parser.add_argument("--rounds", type=int, default=15, help="2 or more")
    parser.add_argument("--left", type=float, nargs="+", default=[0.75, 0.5, 0.25])
    parser.add_argument("--multiples", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"--rounds is 2 or more, got {options.rounds}")

    def wanted(name: str) -> bool:
        return options.only.lower() in name.lower()

    start = time.perf_counter()
    for name in filter(wanted, _READ):
        reading(name, *_READ[name]())
    for name in filter(wanted, _RUN):
        field = list(contenders(*_RUN[name](), options.left, options.multiples))
        running(name, field, options.rounds)
    print(f"\nin {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
