"""Which pattern the zeros of a leaf form: found by counting, whatever made them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune._sharding import on_any_mesh

_SIZES = (2, 4, 8, 16, 32)  # the m of N:M patterns, and the sides of blocks, that are looked for

# Chance alone fills small groups: an N:M pattern must hold in so many groups, three quarters of
# them exactly, and together they must hold so much of what they may.
_GROUPS, _EXACT, _FULL = 8, 0.75, 0.9


class _Runs(NamedTuple):
    """What the neighbours along an axis, taken `m` at a time, hold."""

    dead: Any  # how many runs hold zeros alone
    most: Any  # how many nonzeros the fullest run holds
    full: Any  # how many runs hold so many


def find_pattern(alive: jax.Array, nonzeros: int) -> str:
    """Names the pattern that accounts for every zero of a leaf.

    Args:
        alive: Where the weights are not zero.
        nonzeros: How many of them are not.

    Returns:
        "dense", "all zero", "rows", "columns", "rows and columns", "channels of axis 2",
        "blocks of 16x16", "2:4 along axis -2" or "unstructured".
    """
    size, shape, ndim = alive.size, alive.shape, alive.ndim
    zeros = size - nonzeros
    if not zeros:
        return "dense"
    if not nonzeros:
        return "all zero"
    slices, runs = jax.device_get(_counts(alive))
    dead = [int(count) for count in slices]
    for axis, count in enumerate(dead):
        if count * (size // shape[axis]) == zeros:
            named = {0: "rows", 1: "columns"} if ndim == 2 else {}
            return named.get(axis, f"channels of axis {axis}")
    if ndim == 2 and dead[0] * shape[1] + dead[1] * shape[0] - dead[0] * dead[1] == zeros:
        return "rows and columns"
    if ndim > 1:
        # A zero that lies in a dead run down and in a dead run across lies in a dead block.
        high, wide = (
            max((m for m, run in runs[axis].items() if int(run.dead) * m == zeros), default=1)
            for axis in (-2, -1)
        )
        if high * wide >= 4:
            return f"blocks of {high}x{wide}"
    best = min(
        (
            (int(run.most) / m, m, int(run.most), axis)
            for axis, by_size in runs.items()
            for m, run in by_size.items()
            if int(run.most) < m
            and size // m >= _GROUPS
            and int(run.full) * m >= _EXACT * size
            and nonzeros * m >= _FULL * int(run.most) * size
        ),
        default=None,
    )
    return "unstructured" if best is None else f"{best[2]}:{best[1]} along axis {best[3]}"


@jax.jit
@on_any_mesh
def _counts(alive: jax.Array) -> tuple[list[jax.Array], dict[int, dict[int, _Runs]]]:
    """Dead slices along each axis, and along each, from the front backwards, runs of each size.

    Sums of neighbours are summed again, so all sizes together cost little more than the first.
    """
    axes = range(alive.ndim)
    slices = [
        jnp.sum(~jnp.any(alive, [other for other in axes if other != axis]))
        for axis in (axes if alive.ndim > 1 else ())
    ]
    runs: dict[int, dict[int, _Runs]] = {}
    for axis in axes:
        by_size = runs[axis - alive.ndim] = {}
        sums = alive.astype(jnp.int8)
        for m in _SIZES:
            if sums.shape[axis] % 2:
                break
            sums = _summed(sums, axis, 2)
            most = jnp.max(sums)
            by_size[m] = _Runs(jnp.sum(sums == 0), most, jnp.sum(sums == most))
    return slices, runs


def _summed(counts: jax.Array, axis: int, run: int) -> jax.Array:
    shape = counts.shape
    runs = counts.reshape(*shape[:axis], shape[axis] // run, run, *shape[axis + 1 :])
    return jnp.sum(runs, axis + 1, dtype=jnp.int8)
