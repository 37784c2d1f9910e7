"""Exactly the lowest scores, in compiled code: masks by counting.

Nothing here sorts parameters, gathers or flattens them across devices. The cuts of all leaves are
found together (`pools`), those of the groups of one leaf side by side; a mask then compares each
score with its cut, where it lies.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._kernels.counting import Grid, counter_of, fold, key_at, tally, top_of
from jaxprune._kernels.floats import GONE, exponent, from_keys, keys, scaled_down, scaled_up
from jaxprune._kernels.limbs import Limbs, split
from jaxprune._kernels.pools import pool_masks
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.samples import group_guesses
from jaxprune._kernels.search import (
    ALL,
    NONE,
    begun,
    finished,
    new_range,
)
from jaxprune._kernels.sharding import on_any_mesh

Ties: TypeAlias = Literal["first", "last"]

_PAIRWISE = 32  # the widest N:M group in which every pair of scores is compared
_SHORT = 2**13  # the most units that are ranked by `top_k`; beyond, counting is as fast to run


def pool_survivors(
    leaves: Sequence[Ranked], pools: Sequence[int], budgets: Limbs, most: Sequence[int]
) -> list[jax.Array]:
    """Marks all scores of every pool of leaves but the lowest.

    Args:
        leaves: The leaves, at most `counting.LARGEST` scores each.
        pools: For each leaf the number of its pool. Among equals the earlier leaf goes first, and
            of a leaf the lower row-major index.
        budgets: How many scores of each pool go.
        most: How many scores each leaf loses at the most. What it holds back, the others of its
            pool give; together they can give the budget.

    Returns:
        bool arrays like the leaves: False for what goes.
    """
    kept: dict[int, jax.Array] = {}
    widths = [leaf.key_dtype.itemsize == 8 for leaf in leaves]
    for wide in set(widths):  # keys of 64 bits are searched by themselves
        at = [i for i, is_wide in enumerate(widths) if is_wide == wide]
        numbers = sorted({pools[i] for i in at})
        masks = _pool_survivors(
            [leaves[i] for i in at],
            (budgets[0][np.array(numbers)], budgets[1][np.array(numbers)]),
            jnp.array([most[i] for i in at], jnp.int32),
            pools=tuple(numbers.index(pools[i]) for i in at),
        )
        kept |= dict(zip(at, masks, strict=True))
    return [kept[i] for i in range(len(leaves))]


@functools.partial(jax.jit, static_argnames="pools")
@functools.partial(on_any_mesh, like=lambda leaves, *_: [leaf.values for leaf in leaves])
def _pool_survivors(
    leaves: list[Ranked], budgets: Limbs, most: jax.Array, *, pools: tuple[int, ...]
) -> list[jax.Array]:
    return pool_masks(leaves, pools, budgets, most)


@functools.partial(jax.jit, static_argnames=("axes", "ties"))
@functools.partial(on_any_mesh, like=lambda leaf, *_: leaf.values)
def group_survivors(
    leaf: Ranked, count: jax.Array, *, axes: tuple[int, ...], ties: Ties = "first"
) -> jax.Array:
    """Marks all scores of every group of a leaf but the lowest.

    Args:
        leaf: The leaf.
        count: int32, how many go: a scalar, or one number a group (shaped as the leaf, with length
            1 along `axes`).
        axes: The axes that a group spans, at most `counting.LARGEST` scores; each index along the
            others is a group.
        ties: Which of equal scores go, the `first` or the `last` in row-major order.

    Returns:
        bool like the leaf: False for what goes.
    """
    return _group_survivors(leaf, count, axes, ties)


def _group_survivors(
    leaf: Ranked, count: jax.Array, axes: tuple[int, ...], ties: Ties
) -> jax.Array:
    grid = fold(leaf.keys(), axes)
    # Zeros of the type that counts will have: a loop must know it beforehand, under shard_map too.
    zeros = grid.tally(grid.keys != grid.keys)
    wanted = zeros + (count.reshape(zeros.shape) if count.ndim else count)
    guesses = group_guesses(grid, wanted.astype(jnp.float32))
    size, counter = jnp.int32(grid.size), counter_of(grid.keys.dtype)

    def in_order(grid: Grid, first: Any = 0) -> jax.Array:
        position = grid.positions(first)
        return position if ties == "first" else size - 1 - position

    def excess(key: jax.Array, last: jax.Array, turn: jax.Array) -> jax.Array:
        # Keys and positions are computed again in every pass. Without the barrier, which the turn
        # ties to the loop, the compiler would compute them once and keep them in memory.
        again, first, _ = lax.optimization_barrier((leaf, jnp.int32(0), turn))
        here = fold(again.keys(), axes)
        return here.before(key, last, in_order(here, first)) - wanted

    low = zeros.astype(counter)
    high = low + counter(top_of(grid.keys.dtype))
    all_go = wanted >= size
    span = new_range(low, high, -wanted, size - wanted, (wanted > 0) & ~all_go)
    search = begun(span, jnp.where(all_go, high, low), jnp.where(all_go, ALL, zeros + NONE), size)
    search = finished(search, excess, size, guesses)
    # Made anew once more: only the sample and this comparison read keys outside of the loop.
    leaf, search = lax.optimization_barrier((leaf, search))
    grid = fold(leaf.keys(), axes)
    tied = (in_order(grid) <= search.last).astype(grid.keys.dtype)
    cut = key_at(search.key, grid.keys.dtype) + tied
    return (grid.keys >= cut).reshape(leaf.values.shape)


@functools.partial(jax.jit, static_argnames=("view", "axis"))
@functools.partial(on_any_mesh, like=lambda leaf, *_: leaf.values)
def n_of_m(leaf: Ranked, n: jax.Array, *, view: tuple[int, ...], axis: int) -> jax.Array:
    """Marks the `n` highest of every group; among equals the lower index is kept.

    Args:
        leaf: The leaf.
        n: int32, how many of each group stay.
        view: A shape of the same scores, in which groups lie along an axis.
        axis: That axis.

    Returns:
        bool like the leaf.
    """
    viewed = jax.tree.map(lambda array: array.reshape(view), leaf)
    if view[axis] > _PAIRWISE:
        kept = _group_survivors(viewed, view[axis] - n, (axis,), "last")
    else:
        kept = _highest_by_pairs(viewed.keys(), n, axis)
    return kept.reshape(leaf.values.shape)


def _highest_by_pairs(order: jax.Array, n: jax.Array, axis: int) -> jax.Array:
    """Marks the `n` highest along an axis by comparing every pair.

    For groups of 2 to 32 that is several times as fast as a selection.
    """
    columns = [lax.index_in_dim(order, i, axis) for i in range(order.shape[axis])]
    # A score stays if fewer than n of its group beat it. To beat an earlier one it must be higher.
    beaten = [jnp.zeros_like(column, jnp.int8) for column in columns]
    for i, later in enumerate(columns):
        for j, earlier in enumerate(columns[:i]):
            wins = (later > earlier).astype(jnp.int8)
            beaten[j] = beaten[j] + wins
            beaten[i] = beaten[i] + 1 - wins
    return jnp.concatenate([b < n for b in beaten], axis)


@functools.partial(jax.jit, static_argnames=("view", "axes", "reduce"))
@functools.partial(on_any_mesh, like=lambda leaf, *_: leaf.values)
def unit_survivors(
    leaf: Ranked, count: jax.Array, *, view: tuple[int, ...], axes: tuple[int, ...], reduce: str
) -> jax.Array:
    """Marks all units but the `count` of the lowest score; among equals the first go.

    Args:
        leaf: The leaf.
        count: int32, how many units go.
        view: A shape of the same weights.
        axes: The axes of it that a unit spans.
        reduce: How the scores of a unit become one: "sum", "mean", "l2" or "max".

    Returns:
        bool like the leaf.
    """
    units = _unit_scores(leaf, view, axes, reduce)
    if units.values.size <= _SHORT:
        kept = _ranked_survivors(units.keys(), count)
    else:
        kept = _group_survivors(units, count, tuple(range(len(view))), "first")
    return jnp.broadcast_to(kept, view).reshape(leaf.values.shape)


@functools.partial(jax.jit, static_argnames=("view", "axes", "reduce"))
def unit_scores(
    leaf: Ranked, *, view: tuple[int, ...], axes: tuple[int, ...], reduce: str
) -> Ranked:
    """The scores of units, as `unit_survivors` ranks them, with length 1 along their `axes`."""
    return _unit_scores(leaf, view, axes, reduce)


def _unit_scores(leaf: Ranked, view: tuple[int, ...], axes: tuple[int, ...], reduce: str) -> Ranked:
    viewed = jax.tree.map(lambda array: array.reshape(view), leaf)
    scores, alive, held = viewed.scores(), viewed.alive, viewed.held
    living = None if alive is None else jnp.any(alive, axes, keepdims=True)
    safe = None if held is None else jnp.any(held, axes, keepdims=True)
    wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if reduce == "max":
        order = keys(scores)
        if alive is not None:
            order = jnp.where(alive, order, GONE(order.dtype))
        order = jnp.max(order, axes, keepdims=True)
        return Ranked(from_keys(order, scores.dtype), alive=living, held=safe)
    if alive is not None:
        wide = jnp.where(alive, wide, 0)  # a unit is scored by what is left of it
    if reduce == "l2":
        # Squares are taken of numbers scaled to a magnitude below 2: of any others they would
        # overflow, or be flushed to zero.
        largest = jnp.max(keys(jnp.abs(wide)), axes, keepdims=True)
        largest = from_keys(largest, wide.dtype)
        power = jnp.where(jnp.isfinite(largest), exponent(largest), 0)
        length = jnp.sqrt(jnp.sum(jnp.square(scaled_down(wide, power)), axes, keepdims=True))
        # Squared, the score that is below all others would be above them.
        lowest = jnp.any(wide == -jnp.inf, axes, keepdims=True)
        units = jnp.where(lowest, -jnp.inf, scaled_up(length, power))
        return Ranked(units, alive=living, held=safe)
    units = jnp.sum(wide, axes, keepdims=True)
    if reduce == "mean":
        units = units / math.prod(view[axis] for axis in axes)
    return Ranked(units, alive=living, held=safe)


def _ranked_survivors(order: jax.Array, count: jax.Array) -> jax.Array:
    """Marks all of a short array of keys but the `count` lowest; among equals the first go.

    `top_k` of all of them takes the count as data, and compiles at once.
    """
    flat = order.reshape(-1)
    lowest_first = lax.top_k(~flat, flat.size)[1]
    rank = jnp.zeros_like(lowest_first).at[lowest_first].set(lax.iota(jnp.int32, flat.size))
    return (rank >= count).reshape(order.shape)


@jax.jit
@on_any_mesh
def nth_lowest(leaves: Sequence[Ranked], rank: Limbs) -> jax.Array:
    """The score of a `rank`, counted from 1 up in limbs, among all of `leaves`, of one dtype."""
    sizes = [leaf.values.size for leaf in leaves]
    budgets, most = (rank[0][None], rank[1][None]), jnp.array(sizes, jnp.int32)
    kept = pool_masks(leaves, [0] * len(sizes), budgets, most)
    highest = [
        jnp.max(jnp.where(kept[i], GONE(order.dtype), order))
        for i, order in enumerate(leaf.keys() for leaf in leaves)
    ]
    return from_keys(jnp.stack(highest).max(), leaves[0].score_dtype)


@jax.jit
@on_any_mesh
def count_true(hits: jax.Array) -> Limbs:
    """How many of `hits` are true, in limbs."""
    if hits.ndim == 0 or hits.size <= ALL:
        return split(tally(hits, range(hits.ndim)).reshape(()))
    high, low = split(tally(hits, range(1, hits.ndim)))
    return jnp.sum(high, dtype=jnp.int32), jnp.sum(low, dtype=jnp.int32)
