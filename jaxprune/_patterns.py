"""Which pattern the zeros of a leaf form: found by counting, whatever made them."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._select import nonzero
from jaxprune._sharding import on_any_mesh

_SIZES = (
    2,
    4,
    8,
    16,
    32,
)  # the m of N:M patterns, and the sides of square blocks, that are looked for
_FULL = 0.9  # an N:M pattern explains the zeros if its groups hold so much of what they may


def find_pattern(weights: jax.Array, nonzeros: int) -> str:
    """Names the pattern that accounts for every zero of a leaf.

    Args:
        weights: Floats of any shape.
        nonzeros: How many of them are not zero.

    Returns:
        "dense", "all zero", "rows", "columns", "rows and columns", "channels of axis 2",
        "blocks of 16x16", "2:4 along axis -2" or "unstructured".
    """
    zeros = weights.size - nonzeros
    if not zeros:
        return "dense"
    if not nonzeros:
        return "all zero"
    shape = weights.shape
    found = jax.device_get(_counts(weights))
    dead = [int(count) for count in found["slices"]]
    for axis, count in enumerate(dead):
        if count * (weights.size // shape[axis]) == zeros:
            named = {0: "rows", 1: "columns"} if len(shape) == 2 else {}
            return named.get(axis, f"channels of axis {axis}")
    if len(shape) == 2 and dead[0] * shape[1] + dead[1] * shape[0] - dead[0] * dead[1] == zeros:
        return "rows and columns"
    for side, count in sorted(found["blocks"].items(), reverse=True):
        if int(count) * side * side == zeros:
            return f"blocks of {side}x{side}"
    best = min(
        (
            (int(most) / m, m, int(most), axis)
            for axis, by_size in found["groups"].items()
            for m, most in by_size.items()
            if int(most) < m and nonzeros * m >= _FULL * int(most) * weights.size
        ),
        default=None,
    )
    return "unstructured" if best is None else f"{best[2]}:{best[1]} along axis {best[3]}"


@jax.jit
@on_any_mesh
def _counts(weights: jax.Array) -> dict[str, Any]:
    """Dead slices along each axis, dead square blocks, and the fullest group of each size.

    Sums of neighbours are summed again, so all sizes together cost little more than the first.
    """
    alive = nonzero(weights).astype(jnp.int8)
    ndim = alive.ndim
    if ndim > 1:
        slices = [
            jnp.sum(~jnp.any(alive, [other for other in range(ndim) if other != axis]))
            for axis in range(ndim)
        ]
    else:
        slices = []
    groups: dict[int, dict[int, jax.Array]] = {axis: {} for axis in range(-ndim, 0)}
    blocks: dict[int, jax.Array] = {}
    for axis, fullest in groups.items():
        sums = alive
        for m in _SIZES:
            if sums.shape[axis] % 2:
                break
            sums = _summed(sums, ndim + axis, 2)
            fullest[m] = jnp.max(sums)
            if axis == -1 and ndim > 1 and not alive.shape[-2] % m:
                blocks[m] = jnp.sum(~jnp.any(_runs(sums, ndim - 2, m), ndim - 1))
    return {"slices": slices, "blocks": blocks, "groups": groups}


def _summed(counts: jax.Array, axis: int, run: int) -> jax.Array:
    return jnp.sum(_runs(counts, axis, run), axis + 1, dtype=jnp.int8)


def _runs(counts: jax.Array, axis: int, run: int) -> jax.Array:
    shape = counts.shape
    return counts.reshape(*shape[:axis], shape[axis] // run, run, *shape[axis + 1 :])
