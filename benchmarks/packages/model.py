"""A model of another package, as a function of parameters and inputs."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune._tree import Leaf, is_array, leaves, rebuild

# By path the axes of a leaf that its layer sums over, and those that it leaves.
Layout: TypeAlias = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


class PackageModel(NamedTuple):
    """A model that another package defines.

    Attributes:
        f: Called as f(params, *inputs), in inference mode.
        params: Descriptions or values of everything that units are cut out of.
        inputs: Inputs with values, as few as are enough to run it.
        layout: What the documentation of the package says of the layers' kernels.
        squares: Sums of the squares that each kernel is multiplied with, by path, from what the
            package's own layers are given; None where the package has no way to see that.
        quiet: A part of the paths of kernels that the package draws eight times smaller.
    """

    f: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    layout: Layout
    squares: Callable[[Any], dict[str, np.ndarray]] | None = None
    quiet: str = ""


def filled(params: Any, uses: jp.Uses, quiet: str = "") -> Any:
    """Random parameters in which no leaf is zero, scaled so that activations stay finite."""
    random = np.random.default_rng(0)

    def value(leaf: Leaf) -> Any:
        if not is_array(leaf.value) or not jnp.issubdtype(leaf.value.dtype, jnp.floating):
            return leaf.value if _has_value(leaf.value) else jnp.zeros(*_described(leaf.value))
        shape, name = leaf.value.shape, leaf.path.lower()
        rows = [row for row in uses.of(leaf.path) if row.is_contraction]
        if rows:
            fan_in = math.prod(shape[axis] for axis in rows[0].input_axes)
            draw = random.normal(size=shape) * math.sqrt(1.5 / max(fan_in, 1))
            draw = draw / 8 if quiet and quiet in leaf.path else draw
        elif any(word in name for word in ("bias", "beta", "offset", "mean")) or name[-2:] == "/b":
            draw = random.normal(size=shape) * 0.1
        elif len(shape) < 2 or any(word in name for word in ("var", "scale", "norm")):
            draw = random.uniform(0.5, 1.5, shape)
        else:
            draw = random.normal(size=shape) * 0.3 + 0.05
        return jnp.asarray(draw, leaf.value.dtype)

    return rebuild(params, [value(leaf) for leaf in leaves(params)])


def _has_value(value: Any) -> bool:
    return not isinstance(value, jax.ShapeDtypeStruct)


def _described(value: Any) -> tuple[Any, Any]:
    return value.shape, value.dtype


def images(*shape: int) -> jax.Array:
    """Random pictures of pixels from 0 to 1."""
    draw = np.random.default_rng(1).uniform(size=shape)
    return jnp.asarray(draw, jnp.float32)


def tokens(vocabulary: int, *shape: int) -> jax.Array:
    """Random words."""
    return jnp.asarray(np.random.default_rng(1).integers(0, vocabulary, shape), jnp.int32)


def window_squares(
    x: Any, window: tuple[int, ...], strides: tuple[int, ...], padding: Any
) -> np.ndarray:
    """The sums of squares that the taps of a convolution meet, [*window, channels].

    Args:
        x: What the layer is given, [batch, *space, channels].
        window: The sizes of its kernel.
        strides: How far it moves.
        padding: "same", "valid", or a pair for each axis of space.
    """
    x = np.asarray(x, np.float64) ** 2
    pairs = []
    for size, k, s in zip(x.shape[1:-1], window, strides, strict=True):
        over = max((-(-size // s) - 1) * s + k - size, 0) if padding == "same" else 0
        pairs.append((over // 2, over - over // 2))
    pairs = pairs if isinstance(padding, str) else list(padding)
    x = np.pad(x, [(0, 0), *pairs, (0, 0)])
    counts = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], window, strides, strict=True)]
    sums = np.empty((*window, x.shape[-1]))
    for tap in np.ndindex(*window):
        taken = tuple(
            slice(t, t + (n - 1) * s + 1, s) for t, n, s in zip(tap, counts, strides, strict=True)
        )
        sums[tap] = x[(slice(None), *taken)].sum(tuple(range(x.ndim - 1)))
    return sums
