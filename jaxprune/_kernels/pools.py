"""Where budgets cut: one search over all leaves at once.

Each leaf belongs to a pool, and a pool has one budget: a leaf's own, or that of many leaves. All
pools are searched together: a pass counts every leaf once, so a tree of any size is one loop to
compile. Once the cuts of the pools are known, their leaves share the budgets out, and each leaf is
searched for the cut of its share: among scores that tie with the cut of their pool, as a rule.
Where each leaf is a pool of its own, its share is known from the start.
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
from jaxprune._kernels.parts import Parts, counts_before, kept_after, parts_of
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.samples import Guesses, pool_guesses
from jaxprune._kernels.search import (
    ALL,
    NONE,
    CutSearch,
    Range,
    advanced,
    begun,
    finished,
    narrowed,
    new_range,
    next_place,
    place_of_turn,
    tried,
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
        sums = jax.ops.segment_sum(jnp.stack(split(counts), 1), self.member, self.budgets[0].size)
        high, low = sums[:, 0], sums[:, 1]
        return high, low


class _Brackets(NamedTuple):
    """What is known of the pools' cuts.

    Attributes:
        range: The range of each pool's cut.
        below: For each leaf how many scores lie below that range.
        upto: The same up to its end.
    """

    range: Range
    below: jax.Array
    upto: jax.Array


class _Search(NamedTuple):
    """The search of the pools' cuts, and then of the leaves'.

    Attributes:
        turn: How many passes have run.
        brackets: The pools' cuts.
        sharing: Whether these are known, so that leaves are searched.
        shares: How many scores each leaf loses, once they are.
        cuts: The search of each leaf's cut.
    """

    turn: jax.Array
    brackets: _Brackets
    sharing: jax.Array
    shares: jax.Array
    cuts: CutSearch


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

    brackets = _begun(of, tops)
    if max(np.bincount(of.member)) > 1:
        cuts = _cuts_of_shares(of, brackets, guesses, parts)
    else:
        shares, search = _shared(of, brackets)
        cuts = finished(
            search,
            lambda key, last, turn: counts_before(parts, key, last, turn >= 0) - shares,
            sizes,
            [guess[of.member] for guess in guesses],
        )
    return kept_after(parts, cuts.key, cuts.last, jnp.all(cuts.last >= NONE))


def _cuts_of_shares(of: Pools, brackets: _Brackets, guesses: Guesses, parts: Parts) -> CutSearch:
    """The cuts of leaves that share budgets.

    First the pools' cuts are searched, then the leaves': in one loop, for two would be twice as
    much to compile. Whichever of the two searches is closed stays as it is.
    """

    def step(search: _Search) -> _Search:
        pool_at = place_of_turn(search.brackets.range, search.turn, guesses)
        leaf_at = next_place(search.cuts.range)
        key, last = tried(search.cuts, leaf_at)
        key = jnp.where(search.sharing, key, pool_at[of.member])
        last = jnp.where(search.sharing, last, ALL)
        counts = counts_before(parts, key, last, search.turn >= 0)
        brackets = _narrowed(of, search.brackets, pool_at, counts)
        cuts = advanced(search.cuts, leaf_at, counts - search.shares, of.sizes)
        waits = search.sharing | jnp.any(brackets.range.open)
        shares, cuts = lax.cond(waits, lambda: (search.shares, cuts), lambda: _shared(of, brackets))
        sharing = search.sharing | ~waits
        return _Search(search.turn + 1, brackets, sharing, shares, cuts)

    zeros = brackets.below
    start = zeros.astype(of.counter)
    closed = CutSearch(new_range(start, start, zeros, zeros, zeros > 0), zeros > 0, start, zeros)
    begin = _Search(jnp.int32(0), brackets, jnp.bool_(False), zeros, closed)
    return lax.while_loop(
        lambda search: ~search.sharing | jnp.any(search.cuts.range.open), step, begin
    ).cuts


def _begun(of: Pools, tops: np.ndarray[Any, Any]) -> _Brackets:
    # All arrays are derived from the budgets: under `vmap` and `shard_map` a loop's state must vary
    # from the start over what it will vary over.
    nothing = of.budgets[0] * 0
    low = nothing.astype(of.counter)
    zeros = nothing[of.member]
    span = new_range(
        low,
        low + tops,
        below=saturated(minus((nothing, nothing), of.budgets)),
        above=saturated(minus(of.sum(zeros + of.most), of.budgets)),
        active=saturated(of.budgets) > 0,
    )
    return _Brackets(span, zeros, zeros + of.sizes)


def _narrowed(of: Pools, brackets: _Brackets, at: jax.Array, counts: jax.Array) -> _Brackets:
    """The brackets after a count of each leaf's scores up to the place tried in its pool."""
    span, below, upto = brackets
    excess = saturated(minus(of.sum(jnp.minimum(counts, of.most)), of.budgets))
    short = (span.open & (excess < 0))[of.member]
    over = (span.open & (excess >= 0))[of.member]
    return _Brackets(
        narrowed(span, at, excess),
        below=jnp.where(short, counts, below),
        upto=jnp.where(over, counts, upto),
    )


def _shared(of: Pools, brackets: _Brackets) -> tuple[jax.Array, CutSearch]:
    """How many scores each leaf loses, and the search of its cut."""
    pool, below, upto = brackets
    sure = jnp.minimum(below, of.most)
    spare = jnp.minimum(upto, of.most) - sure
    shares = sure + _given_in_turn(of.member, spare, minus(of.budgets, of.sum(sure)))
    low, high = pool.low[of.member], pool.high[of.member]
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
    return shares, begun(span, jnp.where(whole, high, low), last, of.sizes)


def _given_in_turn(member: np.ndarray[Any, Any], spare: jax.Array, left: Limbs) -> jax.Array:
    """How much of its spare each leaf gives: all of it, until its pool has nothing left to give."""
    order = np.argsort(member, stable=True)  # the leaves of a pool one after the other
    first = np.searchsorted(member[order], member[order])  # where each one's pool begins

    limbs = jnp.stack(split(spare))[:, order]
    sums = jnp.cumsum(limbs, axis=1) - limbs
    high, low = (sums - sums[:, first])[:, np.argsort(order)]  # what those before it hold
    here = minus((left[0][member], left[1][member]), (high, low))
    return jnp.clip(saturated(here), 0, spare)
