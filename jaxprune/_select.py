"""The kernel: exactly the k lowest, by counting.

Nothing here sorts, gathers or flattens. A score becomes an integer key of the same order; the k-th
lowest key is found by trying places in the range of keys and counting, over the whole array, how
many keys lie at or below; what ties with it is told apart by position, again by counting. Each step
reads the array once and reduces it to one number a group, so it costs a pass over memory, and on a
sharded array one scalar all-reduce. Integers make the answer the same bits however the array is
laid out.

Three ideas keep the passes few and cheap. A strided sample of some 30,000 scores brackets the
answer before the first pass. In so narrow a range counts grow along a straight line, and reading
the answer off that line takes a fraction of the passes of halving. And a count is
summed in int8 along short runs before it is widened, which keeps a CPU's whole pass in its vector
registers: four times the speed of int32.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._bits import from_keys, keys
from jaxprune._sharding import on_any_mesh

Ties: TypeAlias = Literal["first", "last"]
Limbs: TypeAlias = tuple[
    jax.Array, jax.Array
]  # int32 high and low: high * 2**16 + low may exceed int32

LARGEST = 2**31 - 1  # scores that one array may hold: its counts are int32

_SAMPLE = 2**15  # scores that bracket the answer of one group,
_SAMPLE_PER_GROUP = 64  # and of each group, where there are many
_SPREAD = 2.5  # standard deviations of the sample's rank that the bracket allows for
_RUN = 16  # neighbours along an axis whose count is summed in int8,
_LANES = 8  # abreast of so many others, where the axis is the last and they share its vectors
_LEAST = 32  # indices of an axis that a sample keeps


@functools.partial(jax.jit, static_argnames=("axes", "ties"))
@on_any_mesh
def survivors(
    scores: jax.Array,
    count: jax.Array,
    *,
    axes: tuple[int, ...] | None = None,
    ties: Ties = "first",
    near: jax.Array | None = None,
) -> jax.Array:
    """Marks all scores of every group but the `count` lowest.

    Args:
        scores: Floats of any shape, at most `LARGEST` of them.
        count: int32, a scalar or one number a group (shaped as `scores`, with length 1 along
            `axes`).
        axes: The axes that a group spans; each index along the others is a group. None: one group.
        ties: Which of equal scores go, the `first` or the `last` in row-major order.
        near: Where `shares` saw the cut, if it did: saves the search, and changes nothing else.

    Returns:
        bool, shaped and sharded as `scores`: False for the `count` lowest.
    """
    grid = _grid(scores, axes)
    # Zeros of the type that counts will have: a loop must know it beforehand, under shard_map too.
    none = grid.tally(jnp.zeros_like(scores, bool).reshape(grid.keys.shape))
    rank = none + (count.reshape(none.shape) if count.ndim else count)
    start = none.astype(grid.counter)
    guesses = _bracket([grid], rank) if near is None else (start + near, start + near - 1)

    def excess(at: jax.Array) -> jax.Array:
        return grid.tally(grid.keys <= grid.key(at)) - rank

    # A line pays only where passes are long, and those are bracketed.
    end = grid.size - rank if guesses and near is None else None
    at, need = _cut(excess, start + grid.top, -rank, guesses, end=end)
    threshold = grid.key(at)
    kept = lax.cond(
        jnp.any(need > 0),
        lambda: (grid.keys >= threshold) & ~_tied(grid, grid.keys == threshold, need, ties),
        lambda: grid.keys >= threshold,
    )
    return kept.reshape(scores.shape)


@jax.jit
@on_any_mesh
def shares(
    scores: Sequence[jax.Array], count: Limbs, most: Sequence[jax.Array]
) -> tuple[list[jax.Array], jax.Array]:
    """Splits one budget over arrays: how many of the `count` lowest of all of them lie in each.

    Among equals the earlier array gives first. An array never gives more than its `most`; what it
    holds back, the others give.

    Args:
        scores: Arrays of floats of one dtype.
        count: The budget, in limbs.
        most: For each array the int32 limit of its share. Their sum is at least the budget.

    Returns:
        The int32 shares, and the place of the common cut for `survivors(..., near=)`.
    """
    grids = [_grid(array, None) for array in scores]
    limits = jnp.stack(most)

    def counts(at: jax.Array) -> jax.Array:
        return jnp.minimum(_counts(scores, at), limits)

    at = _common_cut(grids, counts, count)
    # Everything below the cut goes; what lies on it goes array by array until the budget is met.
    below, upto = lax.map(counts, jnp.stack([jnp.maximum(at, 1) - 1, at]))
    below = jnp.where(at > 0, below, 0)
    high, low = (-limb for limb in _difference(below, count))
    given = []
    for i in range(len(scores)):
        more = jnp.clip(_saturated(high, low), 0, upto[i] - below[i])
        given.append(below[i] + more)
        high, low = high - (more >> 16), low - (more & 0xFFFF)
    return given, at


@jax.jit
@on_any_mesh
def nth_lowest(scores: Sequence[jax.Array], rank: Limbs) -> jax.Array:
    """The score of a `rank`, counted from 1 up in limbs, among all of `scores`, of one dtype."""
    grids = [_grid(array, None) for array in scores]
    at = _common_cut(grids, functools.partial(_counts, scores), rank, slack=-1)
    return from_keys(grids[0].key(at), scores[0].dtype)


def limbs(count: int | jax.Array, most: int | None = None) -> Limbs:
    """A whole number of 0 or more, an integer or float32 data, in limbs and at most `most`."""
    if isinstance(count, int):
        return jnp.int32(count >> 16), jnp.int32(count & 0xFFFF)
    upper = jnp.floor(count / 2.0**16)
    high, low = upper.astype(jnp.int32), (count - upper * 2.0**16).astype(jnp.int32)
    if most is None:
        return high, low
    limit = limbs(most)
    over = (high > limit[0]) | ((high == limit[0]) & (low > limit[1]))
    return jnp.where(over, limit[0], high), jnp.where(over, limit[1], low)


@jax.jit
@on_any_mesh
def count_true(hits: jax.Array) -> jax.Array:
    """How many of `hits` are true: an int32 scalar."""
    return _tally(hits, range(hits.ndim), None).reshape(())


class _Grid(NamedTuple):
    """An array's keys, folded so that they count fast, and the axes that a group spans."""

    keys: jax.Array
    axes: tuple[int, ...]
    runs: int | None  # which of the axes, if any, is made of runs short enough for int8

    @property
    def size(self) -> int:
        """How many keys a group holds."""
        return math.prod(self.keys.shape[axis] for axis in self.axes)

    @property
    def counter(self) -> Any:
        """The unsigned type that counts keys from the lowest up, so that ranges never overflow."""
        return jnp.uint64 if self.keys.dtype == jnp.int64 else jnp.uint32

    @property
    def top(self) -> Any:
        """The highest key, counted so."""
        return self.counter(2 ** (8 * self.keys.dtype.itemsize) - 1)

    def key(self, at: jax.Array) -> jax.Array:
        """The key that is `at` places above the lowest."""
        low = np.iinfo(self.keys.dtype).min
        signed = lax.bitcast_convert_type(
            at, jnp.int64 if self.counter is jnp.uint64 else jnp.int32
        )
        return (signed + signed.dtype.type(low)).astype(self.keys.dtype)

    def tally(self, hits: jax.Array, axes: Sequence[int] | None = None) -> jax.Array:
        """How many of `hits`, shaped as the keys, are true along `axes` of the group, or all."""
        return _tally(hits, self.axes if axes is None else axes, self.runs)


def _tally(hits: jax.Array, axes: Sequence[int], runs: int | None) -> jax.Array:
    """How many of `hits` are true along `axes`, as int32, the axes kept with length 1."""
    narrow: type[np.signedinteger[Any]] = np.int8
    if runs is None or runs not in axes or hits.shape[runs] == 1:
        # Whole axes are longer than int8 can count, but most fit int16: twice int32's speed. The
        # last is the likeliest to lie on one device.
        fits = [axis for axis in axes if 1 < hits.shape[axis] < 2**15]
        narrow, runs = np.int16, max(fits, default=None)
    if runs is None:
        return jnp.sum(hits, axes, keepdims=True, dtype=jnp.int32)
    partial = lax.reduce(hits.astype(narrow), narrow(0), lax.add, (runs,))
    return jnp.sum(jnp.expand_dims(partial, runs), axes, keepdims=True, dtype=jnp.int32)


def _grid(scores: jax.Array, axes: tuple[int, ...] | None) -> _Grid:
    """Folds one axis of a group into runs, where its length and its sharding allow it."""
    order = keys(scores)
    axes = tuple(range(scores.ndim)) if axes is None else axes
    last = scores.ndim - 1
    for axis in sorted(axes, reverse=True):
        block = (_RUN, _LANES) if axis == last else (_RUN,)
        if _divides(scores, axis, math.prod(block)):
            shape = order.shape
            outer = shape[axis] // math.prod(block)
            folded = order.reshape(*shape[:axis], outer, *block, *shape[axis + 1 :])
            kept = [a if a <= axis else a + len(block) for a in axes]
            return _Grid(
                folded, tuple(sorted([*kept, *range(axis + 1, axis + 1 + len(block))])), axis + 1
            )
    return _Grid(order, axes, None)


def _divides(array: jax.Array, axis: int, block: int) -> bool:
    """Whether cutting `axis` into blocks leaves every block on one device.

    Only the compiler knows how an array is sharded; blocks that divide among all the devices there
    are divide among those along any axis.
    """
    return array.shape[axis] % (block * jax.device_count()) == 0


def _counts(scores: Sequence[jax.Array], at: jax.Array) -> jax.Array:
    """How many keys of each array lie at or below the place `at`."""
    counts = []
    for array in scores:
        # Tied to the place, the keys are made anew in every pass. Otherwise the compiler makes them
        # once, before the search, and keeps those of all arrays in memory.
        fresh, here = lax.optimization_barrier((array, at))
        grid = _grid(fresh, None)
        counts.append(grid.tally(grid.keys <= grid.key(here)).reshape(()))
    return jnp.stack(counts)


def _common_cut(
    grids: Sequence[_Grid],
    counts: Callable[[jax.Array], jax.Array],
    rank: Limbs,
    slack: float = 0,
) -> jax.Array:
    """The place below which all, and on which some, of the keys of several grids make up `rank`."""
    near = _bracket(grids, rank[0].astype(jnp.float32) * 2.0**16 + rank[1].astype(jnp.float32))
    start = _surplus(jnp.zeros(1, jnp.int32), rank)
    # At the top all are counted: only roughly, with limits, but so is the line.
    end = _surplus(jnp.array([grid.size for grid in grids], jnp.int32), rank) if near else None
    high = jnp.full((), grids[0].top)
    return _cut(lambda at: _surplus(counts(at), rank), high, start, near, end=end, slack=slack)[0]


def _cut(
    excess: Callable[[jax.Array], jax.Array],
    high: jax.Array,
    start: jax.Array,
    guesses: Sequence[jax.Array] = (),
    *,
    end: jax.Array | None = None,
    slack: float = 0,
) -> tuple[jax.Array, jax.Array]:
    """Where a count that never falls meets the wanted one: elementwise, in integers.

    Args:
        excess: How far the count at a place lies above the wanted one.
        high: The last place that can be the cut; there the excess is not negative.
        start: The excess before place 0, not positive.
        guesses: Places to try first: good ones save passes, bad ones cost one each.
        end: The excess at `high`. With it the search goes where a straight line through the ends of
            the open range points, which takes fewer passes than halving, and longer to compile.
        slack: An excess of this size or smaller ends the search. With -1 nothing does before the
            place of the wanted rank itself is found.

    Returns:
        The first place below which all is to be taken, and how much of what lies on it, so that
        together they meet the wanted count: 0 wherever a place splits the count exactly.
    """
    one = high.dtype.type(1)
    # The open range, the excess before it, the turn; and of a line, its end and how wide the range
    # may be.
    State: TypeAlias = tuple[jax.Array, ...]

    def unsettled(state: State) -> jax.Array:
        return jnp.any(state[0] < state[1])

    def step(state: State) -> State:
        low, high, below, turn, *line = state
        open_ = low < high
        if line:
            above, room = line
            width = (high - low).astype(jnp.float32)
            room = jnp.where(turn <= len(guesses), 2 * width, room / 2)
            at = low + _on_the_line(width, below, above, room).astype(low.dtype)
        else:
            at = low + (high - low) // 2
        for i, guess in enumerate(guesses):
            at = jnp.where(turn == i, guess, at)
        at = jnp.clip(at, low, jnp.where(open_, high - one, low))
        found = excess(at)
        exact = open_ & (jnp.abs(found) <= slack)
        short = open_ & (found < 0) & ~exact
        over = open_ & ~short & ~exact
        if line:
            line = [jnp.where(over, found, above), room]
        low = jnp.where(exact | short, at + one, low)
        high = jnp.where(exact, at + one, jnp.where(over, at, high))
        below = jnp.where(exact, 0, jnp.where(short, found, below))
        return low, high, below, turn + 1, *line

    line = () if end is None else (end, jnp.zeros_like(high, jnp.float32))
    state = (jnp.zeros_like(high), high, start, jnp.int32(0), *line)
    low, _, below, *_ = lax.while_loop(unsettled, step, state)
    return low, -below


def _on_the_line(
    width: jax.Array, below: jax.Array, above: jax.Array, room: jax.Array
) -> jax.Array:
    """How far into a range of `width` places to try next.

    That is where the line meets zero, less what chance may add, so that both ends close in; and so
    near the middle that the range never takes more steps than by halving, and one. (The
    projection of the ITP method, Oliveira and Takahashi, 2020.)
    """
    held = jnp.maximum(above.astype(jnp.float32) - below, 1)
    share = -below / held
    at = share * (width + 1) - 1
    chance = (width + 1) * jnp.sqrt((share * (1 - share)).clip(0) / held) + 0.5
    half = width / 2
    at += jnp.clip(half - at, -chance, chance)
    reach = jnp.maximum(room - width, 0) / 2
    # A width is rounded to float32: short of all of it, the integer cannot overflow.
    return jnp.clip(at, half - reach, half + reach).clip(0, 0.999 * width)


def _bracket(grids: Sequence[_Grid], rank: jax.Array) -> tuple[jax.Array, ...]:
    """Two places between which the key of this `rank` should lie, by a sample of the keys."""
    group = float(sum(grid.size for grid in grids))
    stride = int(group) // (_SAMPLE if rank.size == 1 else _SAMPLE_PER_GROUP)
    if not stride:
        return ()
    samples = [_thinned(grid, stride) for grid in grids]
    weights = [grid.size / sample.size for grid, sample in zip(grids, samples, strict=True)]
    size = float(sum(sample.size for sample in samples))
    if size * 8 > group:
        return ()
    share = rank.astype(jnp.float32) / group
    margin = _SPREAD * jnp.sqrt(share * (1 - share) / size) * group + group / size
    ends = jnp.stack([rank - margin, rank + margin]).clip(1, group)

    def excess(at: jax.Array) -> jax.Array:
        counts = jnp.zeros(at.shape, jnp.float32)
        for sample, weight in zip(samples, weights, strict=True):
            places = at.reshape(2, *(1,) * sample.keys.ndim) if rank.ndim == 0 else at
            hits = sample.keys[None] <= sample.key(places)
            tally = _tally(hits, [axis + 1 for axis in sample.axes], None)
            counts += (tally.astype(jnp.float32) * weight).reshape(at.shape)
        return counts - ends

    high = jnp.full_like(ends, samples[0].top, samples[0].counter)
    places, _ = _cut(excess, high, -ends, slack=group / size / 4)
    return places[0] - (places[0] > 0), places[1]


def _thinned(grid: _Grid, stride: int) -> _Grid:
    """Every so manyth key of a group: along its runs first, then along its longest axes."""
    steps = [1] * grid.keys.ndim
    for axis in sorted(grid.axes, key=lambda axis: (axis != grid.runs, -grid.keys.shape[axis])):
        length = grid.keys.shape[axis]
        most = length if axis == grid.runs else max(1, length // _LEAST)
        steps[axis] = 2 ** int(math.log2(min(stride, most)))
        stride //= steps[axis]
    thin = grid.keys[tuple(slice(None, None, step) for step in steps)]
    return _Grid(thin, grid.axes, None)


def _tied(grid: _Grid, tied: jax.Array, need: jax.Array, ties: Ties) -> jax.Array:
    """Marks the first (or last) `need` of the `tied` of every group.

    It walks down the axes: on each it finds the index at which the count of the indices before it
    falls short for the last time, and goes on inside that index alone.
    """
    inside = tied
    steps = []
    for axis in grid.axes:
        length = tied.shape[axis]
        line = [length if other == axis else 1 for other in range(tied.ndim)]
        place = lax.broadcasted_iota(jnp.int32, line, axis)
        if ties == "last":
            place = length - 1 - place
        each = grid.tally(inside, [other for other in grid.axes if other != axis])
        short = functools.partial(_excess_upto, each, place, axis, need)
        at, need = _cut(short, jnp.full_like(need, length), -need)
        inside = jnp.any(inside & (place == at), axis, keepdims=True)
        steps.append((place, at))
    taken = need > 0
    for place, at in reversed(steps):
        taken = (place < at) | ((place == at) & taken)
    return tied & taken


def _excess_upto(
    each: jax.Array, place: jax.Array, axis: int, need: jax.Array, at: jax.Array
) -> jax.Array:
    """How far the sum of `each` over the places up to `at` lies above `need`."""
    return jnp.sum(jnp.where(place <= at, each, 0), axis, keepdims=True, dtype=jnp.int32) - need


def _surplus(counts: jax.Array, count: Limbs) -> jax.Array:
    """The sum of int32 `counts` less `count`: exact within int32, saturated beyond it."""
    return _saturated(*_difference(counts, count))


def _difference(counts: jax.Array, count: Limbs) -> Limbs:
    """The sum of int32 `counts` less `count`, in limbs that may carry."""
    high = jnp.sum(counts >> 16, dtype=jnp.int32) - count[0]
    return high, jnp.sum(counts & 0xFFFF, dtype=jnp.int32) - count[1]


def _saturated(high: jax.Array, low: jax.Array) -> jax.Array:
    """`high * 2**16 + low` as int32, the nearest it can hold."""
    high, low = high + (low >> 16), low & 0xFFFF
    whole = jnp.clip(high, -(2**15), 2**15 - 1) * 2**16 + low
    lowest, highest = jnp.int32(-LARGEST - 1), jnp.int32(LARGEST)
    return jnp.where(high < -(2**15), lowest, jnp.where(high >= 2**15, highest, whole))
