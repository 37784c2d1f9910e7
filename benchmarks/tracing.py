"""How long reading a model takes beside tracing it at all: `python -m benchmarks.tracing`.

Both are run in turn on descriptions of a ResNet-50 at its real size and of a decoder of 28 layers
with grouped queries and 151,936 tokens; the ratio is that of the two medians.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxprune as jp

ROUNDS = 7


class Bottleneck(nn.Module):
    """Three convolutions and what goes around them."""

    features: int
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """One block."""
        conv = functools.partial(nn.Conv, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=True)
        y = nn.relu(norm()(conv(self.features, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.features, (3, 3), strides=self.strides)(y)))
        y = norm()(conv(4 * self.features, (1, 1))(y))
        if x.shape != y.shape:
            x = norm()(conv(4 * self.features, (1, 1), strides=self.strides)(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """Sixteen blocks of three convolutions each."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of 1000 classes."""
        x = nn.Conv(64, (7, 7), strides=2, use_bias=False)(x)
        x = nn.max_pool(nn.relu(nn.BatchNorm(use_running_average=True)(x)), (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                x = Bottleneck(64 * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


def rotated(x: jax.Array) -> jax.Array:
    """Rotary positions for x [batch, time, heads, features]."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None, None] / 1e6 ** (jnp.arange(half) / half)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    one, two = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([one * cos - two * sin, two * cos + one * sin], -1)


class DecoderLayer(nn.Module):
    """Sixteen heads that share eight keys and values, and a gated network."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """One layer."""
        dense = functools.partial(
            nn.DenseGeneral, use_bias=False, dtype=x.dtype, param_dtype=x.dtype
        )
        norm = functools.partial(nn.RMSNorm, dtype=x.dtype, param_dtype=x.dtype)
        y = norm()(x)
        q, k = (rotated(norm()(dense((heads, 128))(y))) for heads in (16, 8))
        v = dense((8, 128))(y)
        q = q.reshape(*q.shape[:2], 8, 2, 128)
        weights = jax.nn.softmax(jnp.einsum("btgrd,bsgd->bgrts", q, k))
        y = jnp.einsum("bgrts,bsgd->btgrd", weights, v).reshape(*x.shape[:2], 16, 128)
        x = x + dense(1024, axis=(-2, -1))(y)
        y = norm()(x)
        return x + dense(1024)(nn.silu(dense(3072)(y)) * dense(3072)(y))


class Decoder(nn.Module):
    """Twenty-eight layers, and an embedding that is read at both ends."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of the next token."""
        embed = nn.Embed(151_936, 1024, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
        x = embed(tokens)
        for _ in range(28):
            x = DecoderLayer()(x)
        return embed.attend(nn.RMSNorm(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)(x))


def seconds(function: Callable[[], Any]) -> float:
    """What one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measured(model: nn.Module, x: jax.ShapeDtypeStruct) -> str:
    """How long each of the two takes for one model, in words."""
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    bare, read = [], []
    for _ in range(ROUNDS):
        # What JAX remembers of the last round would be found again by whichever comes second.
        jax.clear_caches()
        bare.append(seconds(lambda: jax.make_jaxpr(model.apply)(params, x)))
        jax.clear_caches()
        read.append(seconds(lambda: jp.trace(model.apply, params, x)))
    one, two = statistics.median(bare), statistics.median(read)
    count = len(jax.tree.leaves(params))
    return f"{count} leaves, make_jaxpr {one:.2f} s, trace {two:.2f} s, ratio {two / one:.2f}"


def main() -> None:
    """Measures both models, and prints a line for each."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, 512), jnp.int32)
    print("ResNet-50:", measured(ResNet50(), image))
    print("decoder:", measured(Decoder(), tokens))


if __name__ == "__main__":
    main()
