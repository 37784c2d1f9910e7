"""The search for a cut: elementwise, in integers, by counting.

A cut says which scores go: all whose key lies below `key`, and of those on it the ones up to the
position `last`. It is found by trying places in the range of keys, and counting how many scores
each of them would remove. Where several scores share the key of the cut, the search goes on among
their positions.

Every function here works elementwise on arrays of any shape, one element a search, so that all
leaves, or all groups of a leaf, are searched at once. Nothing here knows what is counted.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

Excess: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

ALL = 2**31 - 1  # as a position: everything on the cut goes
NONE = -1  # as a position: nothing on the cut goes


class Range(NamedTuple):
    """The places that may still be the answer, from `low` to `high`, both included.

    Attributes:
        low: Unsigned integers.
        high: Unsigned integers.
        below: How far the count at `low - 1` lies above the wanted one: negative.
        above: The same at `high`: not negative.
        room: How wide the range may be after the next step, float32: what keeps interpolation as
            fast as halving.
        open: Whether the search still goes on.
    """

    low: jax.Array
    high: jax.Array
    below: jax.Array
    above: jax.Array
    room: jax.Array
    open: jax.Array


class CutSearch(NamedTuple):
    """A search for cuts: first among keys, then, if need be, among positions.

    Attributes:
        range: Places of keys, or positions where `tied`.
        tied: Whether the key is known and the position is searched.
        key: The place of the cut's key, counted from the lowest key.
        last: The cut's position, int32.
    """

    range: Range
    tied: jax.Array
    key: jax.Array
    last: jax.Array


def new_range(low: Any, high: Any, below: jax.Array, above: jax.Array, active: Any) -> Range:
    """A range whose room is what halving would need."""
    return Range(low, high, below, above, 2 * _width(low, high), jnp.asarray(active))


def next_place(span: Range) -> jax.Array:
    """The place to try next.

    It lies where the straight line through the counts at both ends meets the wanted count, moved
    towards the middle by what chance may add, so that both ends close in; and so near the middle
    that the range never takes more steps than halving would, and one. (The projection of the ITP
    method, Oliveira and Takahashi, 2020.)
    """
    width = _width(span.low, span.high)
    held = jnp.maximum(span.above.astype(jnp.float32) - span.below, 1)
    share = -span.below / held
    at = share * (width + 1) - 1
    chance = (width + 1) * jnp.sqrt((share * (1 - share)).clip(0) / held) + 0.5
    half = width / 2
    at += jnp.clip(half - at, -chance, chance)
    reach = jnp.maximum(span.room - width, 0) / 2
    # A width is rounded to float32: short of all of it, the integer cannot overflow.
    at = jnp.clip(at, half - reach, half + reach).clip(0, 0.999 * width)
    return _within(span, span.low + at.astype(span.low.dtype))


def place_of_turn(span: Range, turn: jax.Array, guesses: Sequence[jax.Array]) -> jax.Array:
    """The place to try at a turn: a guess, as long as there are any."""
    at = next_place(span)
    for i, guess in enumerate(guesses):
        at = jnp.where(turn == i, _within(span, guess), at)
    return at


def _within(span: Range, at: jax.Array) -> jax.Array:
    """`at` as a place worth trying: below the end, whose count is known."""
    end = jnp.where(span.low < span.high, span.high - span.high.dtype.type(1), span.low)
    return jnp.clip(at, span.low, end)


def narrowed(span: Range, at: jax.Array, excess: jax.Array) -> Range:
    """The range after a count at the place `at` that lay by `excess` above the wanted one.

    An exact count closes it, with `high` at the place.
    """
    short, over = span.open & (excess < 0), span.open & (excess >= 0)
    low = jnp.where(short, at + at.dtype.type(1), span.low)
    high = jnp.where(over, at, span.high)
    return Range(
        low,
        high,
        below=jnp.where(short, excess, span.below),
        above=jnp.where(over, excess, span.above),
        room=span.room / 2,
        open=span.open & (excess != 0) & (low < high),
    )


def tried(search: CutSearch, at: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The key and the position of which a count is wanted, if `at` is the next place."""
    key = jnp.where(search.tied, search.key, at)
    return key, jnp.where(search.tied, at.astype(jnp.int32), ALL)


def advanced(search: CutSearch, at: jax.Array, excess: jax.Array, size: Any) -> CutSearch:
    """The search after a count of what lies before the place `at`.

    Args:
        search: The search.
        at: What `place_of_turn` gave.
        excess: How far the count lies above the wanted one.
        size: How many positions there are.

    Returns:
        The search, a step further. Once nothing is open, `key` and `last` are the cut.
    """
    was = search.range.open
    span, exact = narrowed(search.range, at, excess), was & (excess == 0)
    key, last = tried(search, at)
    after = CutSearch(
        span,
        search.tied,
        jnp.where(exact, key, search.key),
        jnp.where(exact, last, search.last),
    )
    # One key is left, and some of what lies on it stays: from here on positions are searched.
    return _tied(after, was & ~span.open & ~exact & ~search.tied, size)


def finished(
    search: CutSearch, excess: Excess, size: Any, guesses: Sequence[jax.Array] = ()
) -> CutSearch:
    """The search at its end: `key` and `last` are the cuts.

    Args:
        search: The search.
        excess: How far the counts before keys and positions lie above the wanted ones. It is also
            told the number of the turn, which no compiler knows.
        size: How many positions there are.
        guesses: Places of keys to try first.
    """

    def step(state: tuple[jax.Array, CutSearch]) -> tuple[jax.Array, CutSearch]:
        turn, search = state
        at = place_of_turn(search.range, turn, guesses)
        return turn + 1, advanced(search, at, excess(*tried(search, at), turn), size)

    def going_on(state: tuple[jax.Array, CutSearch]) -> jax.Array:
        return jnp.any(state[1].range.open)

    _, search = lax.while_loop(going_on, step, (jnp.int32(0), search))
    return search


def begun(span: Range, key: jax.Array, last: jax.Array, size: Any) -> CutSearch:
    """A search over keys of which some may be one key wide; closed ones have their cut already."""
    search = CutSearch(span, jnp.zeros_like(span.open), key, last)
    return _tied(search, span.open & (span.low == span.high), size)


def _tied(search: CutSearch, now: jax.Array, size: Any) -> CutSearch:
    span = search.range
    end = jnp.maximum(size - 1, 0).astype(span.high.dtype)
    low, high = jnp.where(now, 0, span.low), jnp.where(now, end, span.high)
    return CutSearch(
        span._replace(
            low=low.astype(span.low.dtype),
            high=high,
            room=jnp.where(now, 2 * _width(low, high), span.room),
            open=span.open | now,
        ),
        search.tied | now,
        jnp.where(now, span.high, search.key),
        search.last,
    )


def _width(low: Any, high: Any) -> jax.Array:
    return (high - low).astype(jnp.float32)
