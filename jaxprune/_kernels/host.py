"""Exactly the lowest scores, in NumPy: what `device.py` does, to the bit, with nothing to compile.

A file has tensors of many shapes, each seen once, and a first call has leaves of many shapes: the
compiled kernel takes longer to compile than this takes to run.

Keys are computed a piece at a time, in the cache, and again in every pass: a fraction of the time
of writing them to memory, where a page that is new costs more than all of the arithmetic.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from jaxprune._kernels.ranked import Ranked

Array: TypeAlias = np.ndarray[Any, Any]

_DIGIT = 16  # bits of a key that one pass over many leaves tells
_PIECE = 1 << 16  # keys that are computed at a time
_PAIRWISE = 16  # the widest N:M group in which every pair is compared
_SAMPLE = 1 << 15  # keys that bracket a cut,
_SPREAD = 1.5 * _SAMPLE**0.5  # and by how many ranks of the sample, three standard deviations

_T = TypeVar("_T", bound=Hashable)
_R = TypeVar("_R")


def keys(scores: Array) -> Array:
    """Unsigned integers that order as the scores do, from 1 for -inf on.

    -0.0 and 0.0 share a key, and every NaN has the one highest. 0 is left for what is gone, and the
    highest integer for what is held.
    """
    width = 8 * scores.dtype.itemsize
    signed, unsigned = (np.dtype(f"{kind}{width}").type for kind in ("int", "uint"))
    infinity = int(scores.dtype.type(np.inf).view(unsigned))
    bits = scores.view(signed)
    if bits.size and bits.min() >= 0:
        places = bits.view(unsigned) + unsigned(infinity + 1)
    else:
        minus = bits >> signed(width - 1)  # all ones where the sign is
        order = bits & np.iinfo(signed).max
        broken = order > signed(infinity)
        order ^= minus
        order -= minus  # the magnitude, negated where the sign is
        places = order.view(unsigned)
        places += unsigned(infinity + 1)
        places[broken] = 2 * infinity + 2
    return np.minimum(places, unsigned(2 * infinity + 2), out=places)


def magnitudes(weights: Array) -> Array:
    """|w| in the dtype of the weights, NaN and subnormals included."""
    unsigned = unsigned_of(weights.dtype)
    return (weights.view(unsigned) & unsigned(np.iinfo(unsigned).max >> 1)).view(weights.dtype)


def unsigned_of(dtype: Any) -> Any:
    """The unsigned integers as wide as a dtype."""
    return np.dtype(f"uint{8 * np.dtype(dtype).itemsize}").type


def zeroed(weights: Array, kept: Array, out: Array | None = None) -> Array:
    """The weights with 0.0 wherever they are not kept; written to `out`, if there is one."""
    # Of integers: a NaN that goes is gone, and no -0.0 is left.
    bits = unsigned_of(weights.dtype)
    place = None if out is None else out.view(bits)
    return np.multiply(weights.view(bits), kept, out=place, dtype=bits).view(weights.dtype)


def key_pieces(leaf: Ranked) -> Iterator[Array]:
    """The keys of a leaf's scores in row-major order, piece by piece."""
    values, alive, held = (
        None if array is None else np.asarray(array).reshape(-1)
        for array in (leaf.values, leaf.alive, leaf.held)
    )
    assert values is not None
    for at in range(0, values.size, _PIECE):
        here = slice(at, at + _PIECE)
        order = keys(_scores(leaf, values[here]))
        if alive is not None:
            order[~alive[here]] = 0
        if held is not None:
            order[held[here]] = np.iinfo(order.dtype).max
        yield order


def all_keys(leaf: Ranked) -> Array:
    """The keys of a leaf's scores in row-major order."""
    pieces = list(key_pieces(leaf))
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint32)


def highest(order: Array, count: int) -> Array:
    """The places of the `count` highest keys; among equals the first."""
    if count >= order.size:
        return np.arange(order.size)
    return _lowest(~order, count)


def nonzero(weights: Array) -> Array:
    """Where floats are neither 0.0 nor -0.0: by their bits, which takes NaNs of every kind."""
    found = np.empty(weights.shape, bool)
    flat = found.reshape(-1)
    for at, bits in _shifted(weights):
        np.not_equal(bits, 0, out=flat[at : at + bits.size])
    return found


def count_nonzero(weights: Array) -> int:
    """How many floats are neither 0.0 nor -0.0."""
    return sum(int(np.count_nonzero(bits)) for _, bits in _shifted(weights))


def _shifted(weights: Array) -> Iterator[tuple[int, Array]]:
    """The bits of floats without their signs, piece by piece, each with its position."""
    flat = np.ascontiguousarray(weights).reshape(-1).view(unsigned_of(weights.dtype))
    return ((at, flat[at : at + _PIECE] << 1) for at in range(0, flat.size, _PIECE))


def survivors(leaf: Ranked, count: int) -> Array:
    """Marks all scores of a leaf but the `count` lowest; among equals the first go.

    Args:
        leaf: The leaf, its arrays NumPy's.
        count: How many go, at most all.

    Returns:
        bool like the leaf.
    """
    kept = np.ones(leaf.values.shape, bool)
    flat = kept.reshape(-1)
    if not 0 < count < flat.size:
        kept[...] = not count
        return kept
    low, high = _bracket(leaf, count)
    left, near, places = count, [], []  # what goes at `low` or above it
    on_low = on_high = 0
    for at, order in _beside(leaf):
        here = flat[at : at + order.size]
        np.greater(order, low, out=here)
        on_here = int(np.count_nonzero(order == low))
        on_low += on_here
        left -= order.size - on_here - int(np.count_nonzero(here))
        on_high += int(np.count_nonzero(order == high))
        inside = np.flatnonzero(here & (order < high))
        near.append(order[inside])
        places.append(inside + at)
    between = np.concatenate(near)
    if on_low <= left <= on_low + between.size:
        flat[np.concatenate(places)[_lowest(between, left - on_low)]] = False
        return kept
    upper = left - on_low - between.size
    if 0 <= left < on_low:
        cut = low
    elif 0 < upper <= on_high:
        cut, left = high, upper
    else:
        order = all_keys(leaf)
        cut = np.partition(order, count - 1)[count - 1]
        left = count - int(np.count_nonzero(order < cut))
    for at, order in _beside(leaf):
        here = flat[at : at + order.size]
        np.greater(order, cut, out=here)
        tied = np.flatnonzero(order == cut)
        here[tied[left:]] = True
        left -= min(left, tied.size)
    return kept


def _lowest(order: Array, count: int) -> Array:
    """The places of the `count` lowest keys; among equals the first."""
    if not count:
        return np.empty(0, np.int64)
    cut = np.partition(order, count - 1)[count - 1]
    below, tied = np.flatnonzero(order < cut), np.flatnonzero(order == cut)
    return np.concatenate([below, tied[: count - below.size]])


def pool_survivors(leaves: Sequence[Ranked], count: int, most: Sequence[int]) -> list[Array]:
    """Marks all scores of a pool of leaves but the `count` lowest.

    Args:
        leaves: The leaves. Among equals the earlier leaf goes first.
        count: How many go.
        most: How many each leaf loses at the most: all of its scores but a number that is the same
            for all leaves.
    """
    if len(leaves) == 1 or not count:
        return [survivors(leaf, count) for leaf in leaves]
    numbers = [i for i, some in enumerate(most) if some]

    def pieces(i: int) -> Iterator[Array]:
        return key_pieces(leaves[i])

    held = leaves[numbers[0]].values.size - most[numbers[0]]
    width = 8 * np.dtype(leaves[0].score_dtype).itemsize
    shares = find_shares(numbers, pieces, count, held=held, width=width)
    return list(in_threads(survivors, leaves, [shares.get(i, 0) for i in range(len(leaves))]))


def in_threads(function: Callable[..., _R], *arguments: Iterable[Any]) -> list[_R]:
    """`map` over several threads: NumPy computes outside of the interpreter's lock."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, *arguments))


def survivors_along(leaf: Ranked, count: int, axis: int) -> Array:
    """The same for every index along an axis, each of which loses `count`."""
    kept = np.ones(leaf.values.shape, bool)
    across = np.moveaxis(kept, axis, 0)
    size = across[0].size if across.size else 0
    if not 0 < count < size:
        kept[...] = not count
        return kept
    values, alive, held = (
        None if array is None else np.moveaxis(np.asarray(array), axis, 0)
        for array in (leaf.values, leaf.alive, leaf.held)
    )
    assert values is not None
    groups = max(1, _PIECE // size)
    for at in range(0, len(values), groups):
        here = slice(at, at + groups)
        part = Ranked(
            np.ascontiguousarray(values[here]),
            leaf.score,
            leaf.dtype,
            None if alive is None else np.ascontiguousarray(alive[here]),
            None if held is None else np.ascontiguousarray(held[here]),
        )
        order = all_keys(part).reshape(-1, size)
        cut = np.partition(order, count - 1, axis=1)[:, count - 1 : count]
        stay = order > cut
        spare = size - count - np.count_nonzero(stay, axis=1)  # of those on the cut, how many stay
        for group in np.flatnonzero(spare):
            tied = np.flatnonzero(order[group] == cut[group])
            stay[group, tied[tied.size - spare[group] :]] = True
        across[here] = stay.reshape(across[here].shape)
    return kept


def highest_of_groups(leaf: Ranked, n: int, axis: int) -> Array:
    """Marks the `n` highest along an axis; among equals the lower index is kept."""
    m, inner = leaf.values.shape[axis], math.prod(leaf.values.shape[axis + 1 :])
    values, alive, held = (
        None if array is None else np.asarray(array).reshape(-1, m, inner)
        for array in (leaf.values, leaf.alive, leaf.held)
    )
    assert values is not None
    kept = np.empty(values.shape, bool)
    step = max(1, _PIECE // (m * inner))
    for at in range(0, len(values), step):
        here = slice(at, at + step)
        part = Ranked(
            values[here],
            leaf.score,
            leaf.dtype,
            None if alive is None else alive[here],
            None if held is None else held[here],
        )
        _highest_here(all_keys(part).reshape(-1, m, inner), n, kept[here])
    return kept.reshape(leaf.values.shape)


def _highest_here(order: Array, n: int, kept: Array) -> None:
    """Writes into `kept` which of the axis in the middle are the `n` highest."""
    m = order.shape[1]
    if m > _PAIRWISE:
        highest = np.argsort(~order, axis=1, kind="stable")[:, :n]
        kept[...] = False
        np.put_along_axis(kept, highest, True, axis=1)
        return
    beaten = np.zeros((m, len(order), order.shape[2]), np.int8)
    for i in range(m):
        for j in range(i):
            wins = order[:, i] > order[:, j]
            beaten[j] += wins
            beaten[i] += ~wins
    for i in range(m):
        np.less(beaten[i], n, out=kept[:, i])


def find_shares(
    leaves: Sequence[_T],
    pieces: Callable[[_T], Iterator[Array]],
    count: int,
    *,
    held: int,
    width: int,
    order: Sequence[_T] | None = None,
) -> dict[_T, int]:
    """Finds how many each leaf gives to one budget, by counting: a pass for each 16 bits of a key.

    A leaf's `held` highest are out of reach (among equals the last), so that it keeps as many. A
    leaf is passed over once its keys are known to lie on one side of the cut.

    Args:
        leaves: What is pruned, in the order in which it is read.
        pieces: Makes the keys of a leaf, piece by piece.
        count: How many go: at least 1, and at most what is within reach.
        held: How many each leaf keeps at the least.
        width: The bits of a key.
        order: The leaves in the order in which they give what lies on the cut; that of `leaves` by
            default.

    Returns:
        How many of each leaf go.
    """
    prefix, rank = 0, count
    safe = dict.fromkeys(leaves, np.empty(0, f"uint{width}"))
    found: dict[_T, _Digits] = {}

    def first_pieces(leaf: _T) -> Iterator[Array]:
        for piece in pieces(leaf):
            if held:
                safe[leaf] = _highest(safe[leaf], piece, held)
            yield piece

    for shift in range(width - _DIGIT, -1, -_DIGIT):
        histogram = np.zeros(1 << _DIGIT, np.int64)
        for leaf in leaves:
            digits = found.get(leaf)
            if digits is None:
                digits = _counted(first_pieces(leaf), prefix, shift)
            elif digits.places.size:
                digits = _counted(pieces(leaf), prefix, shift)
            else:
                continue
            digits = digits.without(_counted(iter([safe[leaf]]), prefix, shift))
            histogram[digits.places] += digits.counts
            found[leaf] = digits
        upto = histogram.cumsum()
        digit = int(np.searchsorted(upto, rank))
        rank -= int(upto[digit] - histogram[digit])
        prefix = prefix << _DIGIT | digit
        found = {leaf: digits.at(digit) for leaf, digits in found.items()}
    shares = {}
    for leaf in leaves if order is None else order:
        taken = min(rank, int(found[leaf].counts.sum()))
        rank -= taken
        shares[leaf] = found[leaf].below + taken
    return shares


class _Digits(NamedTuple):
    """The keys of a leaf that begin with a prefix, by the digit that follows it.

    Attributes:
        below: How many keys lie below all that begin so.
        places: The digits that occur, in order.
        counts: How often each does.
    """

    below: int
    places: Array
    counts: Array

    def without(self, other: "_Digits") -> "_Digits":
        """The same without other keys, all of which are among these."""
        counts = self.counts.copy()
        counts[np.searchsorted(self.places, other.places)] -= other.counts
        return _Digits(self.below - other.below, self.places[counts > 0], counts[counts > 0])

    def at(self, digit: int) -> "_Digits":
        """Those that go on with a digit."""
        low, high = np.searchsorted(self.places, [digit, digit + 1])
        below = self.below + int(self.counts[:low].sum())
        return _Digits(below, self.places[low:high].copy(), self.counts[low:high].copy())


def _counted(pieces: Iterator[Array], prefix: int, shift: int) -> _Digits:
    """Counts the keys of a leaf by the 16 bits above `shift`, if those before them are `prefix`."""
    below, small, histogram = 0, np.empty(0, np.uint16), None
    for piece in pieces:
        digits = piece >> piece.dtype.type(shift)
        if shift + _DIGIT < 8 * piece.dtype.itemsize:
            before = digits >> piece.dtype.type(_DIGIT)
            below += int(np.count_nonzero(before < prefix))
            digits = digits[before == prefix]
        digits = digits.astype(np.uint16)
        if histogram is None and piece.size < _PIECE:
            small = digits  # and the last: only a whole piece is followed by another
        else:
            if histogram is None:
                histogram = np.zeros(1 << _DIGIT, np.int64)
            histogram += np.bincount(digits, minlength=1 << _DIGIT)
    if histogram is None:
        return _Digits(below, *np.unique(small, return_counts=True))
    places = np.flatnonzero(histogram)
    return _Digits(below, places.astype(np.uint16), histogram[places])


def _scores(leaf: Ranked, values: Array) -> Array:
    scores = leaf.score.host(values)
    if leaf.dtype is None or scores.dtype == leaf.dtype:
        return scores
    with np.errstate(invalid="ignore"):  # NumPy warns of NaNs that it calls signalling
        return scores.astype(leaf.dtype)


def _bracket(leaf: Ranked, count: int) -> tuple[Any, Any]:
    """Two keys between which the cut should lie, by a strided sample of the scores."""
    size = leaf.values.size
    # An odd stride meets all columns of a matrix: few have an odd number of them.
    stride = size // _SAMPLE | 1
    thin = [
        None if array is None else np.asarray(array).reshape(-1)[::stride]
        for array in (leaf.values, leaf.alive, leaf.held)
    ]
    sample = Ranked(thin[0], leaf.score, leaf.dtype, *thin[1:])
    order = np.sort(all_keys(sample))
    place = count / size * order.size
    low, high = round(place - _SPREAD), round(place + _SPREAD)
    least, most = order.dtype.type(0), order.dtype.type(np.iinfo(order.dtype).max)
    return order[low] if low >= 0 else least, order[high] if high < order.size else most


def _beside(leaf: Ranked) -> Iterator[tuple[int, Array]]:
    """The keys of a leaf piece by piece, each with the position of its first."""
    at = 0
    for piece in key_pieces(leaf):
        yield at, piece
        at += piece.size


def _highest(so_far: Array, piece: Array, count: int) -> Array:
    if count == 1:
        piece = piece.max(keepdims=True)
    both = np.concatenate([so_far, piece])
    return np.partition(both, both.size - count)[-count:].copy() if both.size > count else both
