"""Where budgets cut: one search over all leaves at once.

Each leaf belongs to a pool, and a pool has one budget: a leaf's own, or that of many leaves. All
pools are searched together: a pass counts every leaf once, so a tree of any size is one loop to
compile. Once the cuts of the pools are known, their leaves share the budgets out, and where the
share of a leaf falls among scores that tie with the cut, the search goes on among their positions.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._kernels.counting import counter_of, top_of
from jaxprune._kernels.limbs import Limbs, as_float, minus, saturated, split
from jaxprune._kernels.parts import counts_before, kept_after, parts_of
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.samples import pool_guesses
from jaxprune._kernels.search import (
    ALL,
    NONE,
    CutSearch,
    Range,
    advanced,
    begun,
    narrowed,
    new_range,
    next_place,
    tried,
    within,
)


class Pools(NamedTuple):
    """Leaves and their budgets, as arrays.

    Attributes:
        member: For each leaf the number of its pool.
        budgets: How many scores of each pool go.
        most: How many each leaf loses at the most.
        sizes: How many scores each leaf holds.
        counter: The unsigned type of places.
    """

    member: np.ndarray[Any, Any]
    budgets: Limbs
    most: jax.Array
    sizes: np.ndarray[Any, Any]
    counter: Any

    def sum(self, counts: jax.Array) -> Limbs:
        """The sum of the int32 counts of each pool's leaves."""
        high, low = (
            jax.ops.segment_sum(limb, self.member, self.budgets[0].size) for limb in split(counts)
        )
        return high, low


class _Search(NamedTuple):
    """The search of the pools' cuts, and then of the leaves'.

    Attributes:
        turn: How many passes have run.
        pool: The range of each pool's cut.
        below: For each leaf how many scores lie below that range.
        upto: The same up to its end.
        sharing: Whether all pools are done, so that leaves are searched.
        share: How many scores each leaf loses, once pools are done.
        leaf: The search of each leaf's cut.
    """

    turn: jax.Array
    pool: Range
    below: jax.Array
    upto: jax.Array
    sharing: jax.Array
    share: jax.Array
    leaf: CutSearch


def pool_masks(
    leaves: Sequence[Ranked], pools: Sequence[int], budgets: Limbs, most: jax.Array
) -> list[jax.Array]:
    """Cuts every leaf so that each pool loses exactly its budget of lowest scores.

    Args:
        leaves: The leaves, with keys of one width, and at most `counting.LARGEST` scores each.
        pools: For each leaf the number of its pool. Among equals the earlier leaf gives first.
        budgets: How many scores of each pool go.
        most: int32, how many scores each leaf loses at the most; together they can give the budget.

    Returns:
        bool arrays like the leaves: False for what goes.
    """
    sizes = np.array([math.prod(leaf.values.shape) for leaf in leaves], np.int32)
    counter = counter_of(leaves[0].key_dtype)
    of = Pools(np.asarray(pools), budgets, most, sizes, counter)
    parts = parts_of(leaves)
    guesses = pool_guesses(parts, pools, as_float(budgets), counter)
    tops = np.zeros(budgets[0].shape, counter)
    np.maximum.at(tops, of.member, [top_of(leaf.key_dtype) for leaf in leaves])

    def unsettled(search: _Search) -> jax.Array:
        return ~search.sharing | jnp.any(search.leaf.range.open)

    def step(search: _Search) -> _Search:
        pool_at, leaf_at = next_place(search.pool), next_place(search.leaf.range)
        for i, guess in enumerate(guesses):
            pool_at = jnp.where(search.turn == i, within(search.pool, guess), pool_at)
        key, last = tried(search.leaf, leaf_at)
        key = jnp.where(search.sharing, key, pool_at[of.member])
        last = jnp.where(search.sharing, last, ALL)
        counts = counts_before(parts, key, last, search.turn >= 0)
        search = lax.cond(
            search.sharing,
            lambda: search._replace(
                leaf=advanced(search.leaf, leaf_at, counts - search.share, sizes)
            ),
            lambda: _pools_advanced(of, search, pool_at, counts),
        )
        return search._replace(turn=search.turn + 1)

    found = lax.while_loop(unsettled, step, _begun(of, tops))
    return kept_after(parts, found.leaf.key, found.leaf.last, found.turn >= 0)


def _begun(of: Pools, tops: np.ndarray[Any, Any]) -> _Search:
    # All arrays are derived from the budgets: under `vmap` and `shard_map` a loop's state must vary
    # from the start over what it will vary over.
    nothing = of.budgets[0] * 0
    low = nothing.astype(of.counter)
    pool = new_range(
        low,
        low + tops,
        below=saturated(minus((nothing, nothing), of.budgets)),
        above=saturated(minus(of.sum(nothing[of.member] + of.most), of.budgets)),
        active=saturated(of.budgets) > 0,
    )
    zeros = nothing[of.member]
    start = zeros.astype(of.counter)
    closed = new_range(start, start, zeros, zeros, zeros > 0)
    leaf = CutSearch(closed, zeros > 0, start, zeros)
    return _shared(
        of, _Search(jnp.int32(0), pool, zeros, zeros + of.sizes, jnp.bool_(False), zeros, leaf)
    )


def _pools_advanced(of: Pools, search: _Search, at: jax.Array, counts: jax.Array) -> _Search:
    """The search after a count of each leaf's scores up to the place tried in its pool."""
    excess = saturated(minus(of.sum(jnp.minimum(counts, of.most)), of.budgets))
    short = (search.pool.open & (excess < 0))[of.member]
    over = (search.pool.open & (excess >= 0))[of.member]
    return _shared(
        of,
        search._replace(
            pool=narrowed(search.pool, at, excess),
            below=jnp.where(short, counts, search.below),
            upto=jnp.where(over, counts, search.upto),
        ),
    )


def _shared(of: Pools, search: _Search) -> _Search:
    """The search of the leaves, if all pools are done."""

    def share() -> _Search:
        below, upto = search.below, search.upto
        sure = jnp.minimum(below, of.most)
        spare = jnp.minimum(upto, of.most) - sure
        shares = sure + _given_in_turn(of.member, spare, minus(of.budgets, of.sum(sure)))
        low, high = search.pool.low[of.member], search.pool.high[of.member]
        limited = shares < below  # such a leaf loses less than what lies below its pool's cut
        span = new_range(
            jnp.where(limited, 0, low).astype(of.counter),
            jnp.where(limited, low - (low > 0).astype(of.counter), high),
            below=jnp.where(limited, 0, below) - shares,
            above=jnp.where(limited, below, upto) - shares,
            active=(shares != below) & (shares != upto),
        )
        whole = shares == upto
        last = jnp.where(whole, jnp.int32(ALL), NONE)
        leaf = begun(span, jnp.where(whole, high, low), last, of.sizes)
        return search._replace(sharing=~search.sharing, share=shares, leaf=leaf)

    return lax.cond(jnp.any(search.pool.open), lambda: search, share)


def _given_in_turn(member: np.ndarray[Any, Any], spare: jax.Array, left: Limbs) -> jax.Array:
    """How much of its spare each leaf gives: all of it, until nothing is left to give."""

    def give(left: Limbs, leaf: tuple[jax.Array, jax.Array]) -> tuple[Limbs, jax.Array]:
        pool, most = leaf
        here = left[0][pool], left[1][pool]
        given = jnp.clip(saturated(here), 0, most)
        high, low = minus(here, split(given))
        return (left[0].at[pool].set(high), left[1].at[pool].set(low)), given

    return lax.scan(give, left, (jnp.asarray(member), spare))[1]
