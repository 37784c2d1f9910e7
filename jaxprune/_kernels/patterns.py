"""Which pattern the zeros of a leaf form: found by counting, whatever made them."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._kernels.sharding import on_any_mesh

_SIZES = (2, 4, 8, 16, 32)  # the m of N:M patterns, and the sides of blocks, that are looked for

# Chance alone makes N:M patterns of few groups: those must be full to the last, and of many groups
# they must hold so much of what they may, of weights and of zeros.
_FEW, _MANY, _FULL = 8, 32, 0.9


def find_pattern(alive: Any, nonzeros: int) -> str:
    """Names the pattern that accounts for every zero of a leaf.

    Args:
        alive: Where the weights are not zero: bool, of JAX or, to be counted there, of NumPy.
        nonzeros: How many of them are not.

    Returns:
        "dense", "all zero", "rows", "columns", "rows and columns", "channels of axis 2",
        "blocks of 16x16", "2:4 along axis -2" or "unstructured".
    """
    if isinstance(alive, np.ndarray):
        return find_patterns(alive[None], [nonzeros])[0]
    plain = _plain(alive.size, nonzeros)
    return plain or _named(alive.shape, nonzeros, *jax.device_get(_counts(alive)))


def find_patterns(alive: np.ndarray[Any, Any], nonzeros: Sequence[int]) -> list[str]:
    """The patterns of leaves of one shape, counted together in NumPy.

    Args:
        alive: Where the weights are not zero: bool, along the first axis leaf by leaf.
        nonzeros: How many of each leaf are not.

    Returns:
        The pattern of each, as `find_pattern` names it.
    """
    shape = alive.shape[1:]
    names = [_plain(math.prod(shape), count) for count in nonzeros]
    left = [i for i, name in enumerate(names) if not name]
    if not left:
        return names
    slices, most, mixed = _counts_on_host(alive if len(left) == len(names) else alive[left])
    for place, i in enumerate(left):
        names[i] = _named(
            shape,
            nonzeros[i],
            [counts[place] for counts in slices],
            {axis: {m: of[place] for m, of in sizes.items()} for axis, sizes in most.items()},
            {axis: {m: of[place] for m, of in sizes.items()} for axis, sizes in mixed.items()},
        )
    return names


def _plain(size: int, nonzeros: int) -> str:
    """The pattern, where the counts alone tell it; or ""."""
    if nonzeros == size:
        return "dense"
    return "" if nonzeros else "all zero"


def _named(
    shape: tuple[int, ...], nonzeros: int, slices: Any, most: "_BySize", mixed: "_BySize"
) -> str:
    """The pattern that these counts show, which `_counts` describes."""
    size, ndim = math.prod(shape), len(shape)
    zeros = size - nonzeros
    dead = [int(count) for count in slices]
    for axis, count in enumerate(dead):
        if count * (size // shape[axis]) == zeros:
            named = {0: "rows", 1: "columns"} if ndim == 2 else {}
            return named.get(axis, f"channels of axis {axis}")
    if ndim == 2 and dead[0] * shape[1] + dead[1] * shape[0] - dead[0] * dead[1] == zeros:
        return "rows and columns"
    if ndim > 1:
        # Zeros that all lie in dead runs down, and in dead runs across, lie in dead blocks.
        high, wide = (
            max((m for m, worst in mixed[axis].items() if not worst), default=1)
            for axis in (-2, -1)
        )
        if high * wide >= 4:
            return f"blocks of {high}x{wide}"
    candidates = (
        (n / m, m, int(n), axis)
        for axis, by_size in most.items()
        for m, n in by_size.items()
        if _explains(int(n), m, nonzeros, zeros)
    )
    best = min(candidates, default=None)
    return "unstructured" if best is None else f"{best[2]}:{best[1]} along axis {best[3]}"


def _explains(n: int, m: int, nonzeros: int, zeros: int) -> bool:
    """Whether groups of `m`, the fullest of which holds `n`, are as good as n:m."""
    groups = (nonzeros + zeros) // m
    if n == m or groups < _FEW:
        return False
    if groups < _MANY:
        return nonzeros == n * groups
    return nonzeros >= _FULL * n * groups and (m - n) * groups >= _FULL * zeros


_BySize: TypeAlias = dict[int, dict[int, Any]]


@jax.jit
@on_any_mesh
def _counts(alive: jax.Array) -> tuple[list[jax.Array], _BySize, _BySize]:
    """Dead slices along each axis, and what runs of neighbours hold, by their axis and size.

    That is how many weights the fullest run holds, and how mixed the most mixed is: 0 if each is
    either dead or full. Sums of neighbours are summed again, so all sizes cost little more than the
    first.
    """
    axes = range(alive.ndim)
    slices = [
        jnp.sum(~jnp.any(alive, [other for other in axes if other != axis]))
        for axis in (axes if alive.ndim > 1 else ())
    ]
    most: _BySize = {axis - alive.ndim: {} for axis in axes}
    mixed: _BySize = {axis - alive.ndim: {} for axis in axes}
    for axis in most:
        sums = alive.astype(jnp.int8)
        for m in _SIZES:
            if sums.shape[axis] % 2:
                break
            sums = _summed(sums, axis + alive.ndim, 2)
            most[axis][m], mixed[axis][m] = jnp.max(sums), jnp.max(jnp.minimum(sums, m - sums))
    return slices, most, mixed


def _summed(counts: jax.Array, axis: int, run: int) -> jax.Array:
    shape = counts.shape
    runs = counts.reshape(*shape[:axis], shape[axis] // run, run, *shape[axis + 1 :])
    return jnp.sum(runs, axis + 1, dtype=jnp.int8)


def _counts_on_host(alive: np.ndarray[Any, Any]) -> tuple[list[Any], Any, Any]:
    """The same of many leaves of one shape, each count a list, in NumPy.

    It has nothing to compile for each shape that is seen once.
    """
    axes = range(alive.ndim - 1)
    slices = [
        np.count_nonzero(~alive.any(tuple(o + 1 for o in axes if o != axis)), 1).tolist()
        for axis in (axes if len(axes) > 1 else ())
    ]
    most: dict[int, dict[int, list[int]]] = {axis - len(axes): {} for axis in axes}
    mixed: dict[int, dict[int, list[int]]] = {axis - len(axes): {} for axis in axes}
    inner = tuple(axis for axis in range(alive.ndim) if axis != 1)
    for axis, of_axis in most.items():
        # The axis first, then the leaves.
        sums = np.moveaxis(alive.view(np.int8), axis, 0)
        for m in _SIZES:
            if len(sums) % 2:
                break
            sums = sums[::2] + sums[1::2]
            of_axis[m] = sums.max(inner).tolist()
            mixed[axis][m] = np.minimum(sums, m - sums).max(inner).tolist()
    return slices, most, mixed
