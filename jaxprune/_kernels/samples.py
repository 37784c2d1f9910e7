"""Where cuts should lie, by a strided sample of the keys: two places to try first.

A guess changes nothing but the number of passes: a good one saves most of them, and a bad one costs
one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._kernels.counting import Grid, counter_of, fold
from jaxprune._kernels.parts import Alone, Parts, Sizes, leaf_order

Guesses: TypeAlias = tuple[jax.Array, ...]
Counter: TypeAlias = Callable[[jax.Array], jax.Array]

_SAMPLE = 2**13  # keys of a leaf that bracket its cut, at the least,
_SAMPLE_PER_GROUP = 64  # and keys of each group, where a leaf has many
_SPREAD = 2.5  # standard deviations of the sample's rank that the bracket allows for
_LEAST = 32  # indices of an axis that a sample keeps


def pool_guesses(parts: Parts, pools: Sequence[int], rank: jax.Array, counter: Any) -> Guesses:
    """Two places for the cut of each pool of leaves; none where all leaves are small.

    Args:
        parts: The leaves, with keys of one width.
        pools: The pool of each.
        rank: float32, how many scores of each pool go.
        counter: The unsigned type of places.
    """
    sizes = np.concatenate([part.sizes for part in parts])[leaf_order(parts)].astype(np.float32)
    if sizes.max() <= 2 * _SAMPLE:
        return ()
    # Samples may be laid side by side where no other device holds a part of them.
    count, kept = (_side_by_side if jax.device_count() == 1 else _in_place)(parts)
    member = np.asarray(pools)

    def total(places: jax.Array) -> jax.Array:
        weighted = count(places[member]).astype(jnp.float32) * (sizes / kept)
        return jax.ops.segment_sum(weighted, member, rank.size)

    group, taken = (np.bincount(member, of).astype(np.float32) for of in (sizes, kept))
    return _bracket(total, rank, group, taken, counter)


def group_guesses(grid: Grid, rank: jax.Array) -> Guesses:
    """Two places for the cut of each group of a leaf; none where groups are small.

    Args:
        grid: The leaf's keys.
        rank: float32, how many scores of each group go.
    """
    thin = _thinned(grid, grid.size // (_SAMPLE if rank.size == 1 else _SAMPLE_PER_GROUP))
    if thin.size * 8 > grid.size:
        return ()
    weight = np.float32(grid.size / thin.size)

    def total(places: jax.Array) -> jax.Array:
        return thin.before(places).astype(jnp.float32) * weight

    size, taken = np.float32(grid.size), np.float32(thin.size)
    return _bracket(total, rank, size, taken, counter_of(grid.keys.dtype))


def _bracket(total: Counter, rank: jax.Array, group: Any, taken: Any, counter: Any) -> Guesses:
    """The places of two ranks of the sample, below and above the wanted one."""
    share = (rank / group).clip(0, 1)
    margin = _SPREAD * jnp.sqrt(share * (1 - share) / taken) * group + group / taken
    bits = 8 * np.dtype(counter).itemsize

    def place(wanted: jax.Array) -> jax.Array:
        def halved(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = ends
            middle = low + (high - low) // 2
            enough = total(middle) >= wanted
            return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

        ends = jnp.zeros_like(rank, counter), jnp.full_like(rank, counter(2**bits - 1), counter)
        return lax.fori_loop(0, bits, halved, ends)[1]

    # One loop for both ends: half as many kernels to compile.
    wanted = jnp.stack([rank - margin, rank + margin]).clip(1, group)
    low, high = jax.vmap(place)(wanted)
    return low - (low > 0), high


def _side_by_side(parts: Parts) -> tuple[Counter, Sizes]:
    """What counts the sampled keys up to a place of each leaf, and how many there are of each."""
    samples, counts = zip(*(part.sample(_SAMPLE) for part in parts), strict=True)
    longest = max(sample.shape[1] for sample in samples)
    padded = [jnp.pad(s, ((0, 0), (0, longest - s.shape[1]))) for s in samples]
    order = leaf_order(parts)
    places, kept = jnp.concatenate(padded)[order], np.concatenate(counts)[order]
    padding = lax.broadcasted_iota(jnp.int32, places.shape, 1) >= kept[:, None]

    def count(at: jax.Array) -> jax.Array:
        return jnp.sum((places <= at[:, None]) & ~padding, 1, dtype=jnp.int32)

    return count, kept.astype(np.float32)


def _in_place(parts: Parts) -> tuple[Counter, Sizes]:
    """The same of leaves that are spread over devices, each a part."""
    grids = [fold(part.leaf.keys()) for part in parts if isinstance(part, Alone)]
    thin = [_thinned(grid, grid.size // _SAMPLE) for grid in grids]

    def count(at: jax.Array) -> jax.Array:
        return jnp.stack([grid.before(at[i]).reshape(()) for i, grid in enumerate(thin)])

    return count, np.array([grid.size for grid in thin], np.float32)


def _thinned(grid: Grid, stride: int) -> Grid:
    """A strided sample of each group's keys: along its runs first, then along its longest axes."""
    steps = [1] * grid.keys.ndim
    stride = max(stride, 1)
    for axis in sorted(grid.axes, key=lambda axis: (axis != grid.runs, -grid.keys.shape[axis])):
        length = grid.keys.shape[axis]
        most = length if axis == grid.runs else max(1, length // _LEAST)
        steps[axis] = 2 ** int(math.log2(min(stride, most)))
        stride //= steps[axis]
    thin = grid.keys[tuple(slice(None, None, step) for step in steps)]
    return Grid(thin, grid.axes, None)
