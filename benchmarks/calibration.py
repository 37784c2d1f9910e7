"""What gathering statistics costs beside the forward pass: `python -m benchmarks.calibration`.

Three models on one batch: a decoder of four layers, a ResNet-18, and a transformer of six layers by
`nn.scan` and `nn.remat`. CPU seconds of compiled programs, taken in turn; the ratio is that of the
medians. The forward pass is the function itself, of which one number leaves the program.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._tree import arrays_in
from jaxprune.calibration._gathering import chosen_pieces, compiled, gathering_of
from jaxprune.tracing._trace import read

ROUNDS = 7


class Layer(nn.Module):
    """Attention and a gated network."""

    @nn.compact
    def __call__(self, x: jax.Array, _: Any = None) -> tuple[jax.Array, None]:
        """One layer."""
        y = nn.RMSNorm()(x)
        mask = nn.make_causal_mask(y[..., 0])
        x = x + nn.MultiHeadDotProductAttention(8, use_bias=False)(y, mask=mask)
        y = nn.RMSNorm()(x)
        hidden = nn.silu(nn.Dense(1024, use_bias=False)(y)) * nn.Dense(1024, use_bias=False)(y)
        return x + nn.Dense(x.shape[-1], use_bias=False)(hidden), None


class Unrolled(nn.Module):
    """Four layers, one after another."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of the next token."""
        x = nn.Embed(1000, 384)(tokens)
        for _ in range(4):
            x, _ = Layer()(x)
        return nn.Dense(1000)(nn.RMSNorm()(x))


class Scanned(nn.Module):
    """Six layers by a loop, each computed again on the way back."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of the next token."""
        x = nn.Embed(1000, 384)(tokens)
        layers = nn.scan(
            nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=6
        )
        x, _ = layers()(x, None)
        return nn.Dense(1000)(nn.RMSNorm()(x))


class Block(nn.Module):
    """Two convolutions and what goes around them."""

    features: int
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """One block."""
        conv = functools.partial(nn.Conv, self.features, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=True)
        y = nn.relu(norm()(conv((3, 3), strides=self.strides)(x)))
        y = norm()(conv((3, 3))(y))
        if x.shape != y.shape:
            x = norm()(conv((1, 1), strides=self.strides)(x))
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """Eight blocks of two convolutions each."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of 1000 classes."""
        x = nn.Conv(64, (7, 7), strides=2, use_bias=False)(x)
        x = nn.max_pool(nn.relu(nn.BatchNorm(use_running_average=True)(x)), (3, 3), (2, 2), "SAME")
        for stage in range(4):
            for block in range(2):
                x = Block(64 * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


def cpu_seconds(function: Callable[[], Any]) -> float:
    """What one call takes of all cores together."""
    start = time.process_time()
    jax.block_until_ready(function())
    return time.process_time() - start


def measured(model: nn.Module, x: np.ndarray[Any, Any]) -> str:
    """How long the three take, in words."""
    params = jax.jit(model.init)(jax.random.key(0), x)
    program = read(model.apply, params, x)
    gathering = gathering_of(program, chosen_pieces(program, lambda path: True))
    arrays = arrays_in((params, (x,)))
    forward = jax.jit(lambda params: jnp.sum(model.apply(params, x)))
    work: dict[str, Callable[[], Any]] = {
        "forward": functools.partial(forward, params),
        "squares": functools.partial(compiled(program, gathering, "squares"), arrays),
        "gram": functools.partial(compiled(program, gathering, "gram"), arrays),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS + 1):  # the first compiles
        for name, function in work.items():
            times[name].append(cpu_seconds(function))
    medians = {name: statistics.median(each[1:]) for name, each in times.items()}
    ratios = [f"{name} {medians[name] / medians['forward']:.2f}" for name in ("squares", "gram")]
    shared = f"{len(gathering.pieces)} leaves, {len(gathering.members)} statistics"
    return f"{shared}, forward {medians['forward']:.2f} CPU-s, {', '.join(ratios)}"


def main() -> None:
    """Measures the models, and prints a line for each."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, 1000, (8, 256), np.int32)
    images = random.standard_normal((8, 112, 112, 3), np.float32)
    print("decoder:", measured(Unrolled(), tokens), flush=True)
    print("ResNet-18:", measured(ResNet18(), images), flush=True)
    print("scan + remat:", measured(Scanned(), tokens), flush=True)


if __name__ == "__main__":
    main()
