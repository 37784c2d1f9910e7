"""How many each of many leaves gives to one budget, by counting, in NumPy.

A budget that leaves share goes to the lowest of all their scores. Their keys are counted by 16 bits
at a time, first the highest, so that no more than a histogram is in memory beside one leaf. Many
small leaves that are alike come as the rows of one array, and are counted together.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

_DIGIT = 16  # bits of a key that one pass tells
PIECE = 1 << 16  # keys that are computed at a time: all pieces of a leaf but the last have as many

_T = TypeVar("_T", bound=Hashable)


def find_shares(
    leaves: Sequence[_T],
    pieces: Callable[[_T], Iterator[Array]],
    count: int,
    *,
    held: int,
    width: int,
    order: Sequence[_T] | None = None,
    stacks: Callable[[], Iterable[tuple[Sequence[_T], Array]]] = tuple,
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
        order: All leaves in the order in which they give what lies on the cut; by default `leaves`.
        stacks: Makes, anew for each pass, further leaves that are alike, and their keys: one row a
            leaf.

    Returns:
        How many of each leaf go.
    """
    prefix, rank = 0, count
    safe = dict.fromkeys(leaves, np.empty(0, f"uint{width}"))
    by_leaf: dict[_T, _Digits] = {}

    def first_pieces(leaf: _T) -> Iterator[Array]:
        for piece in pieces(leaf):
            if held:
                highest = np.concatenate([safe[leaf], _highest(piece, held)])
                safe[leaf] = _highest(highest, held)
            yield piece

    for shift in range(width - _DIGIT, -1, -_DIGIT):
        histogram = np.zeros(1 << _DIGIT, np.int64)
        for leaf in leaves:
            digits = by_leaf.get(leaf)
            if digits is None:
                digits = _counted(first_pieces(leaf), prefix, shift)
            elif digits.places.size:
                digits = _counted(pieces(leaf), prefix, shift)
            else:
                continue
            digits = digits.without(_counted(iter([safe[leaf]]), prefix, shift))
            histogram[digits.places] += digits.counts
            by_leaf[leaf] = digits
        for _, rows in stacks():
            histogram += _histogram(rows, prefix, shift)
            histogram -= _histogram(_highest(rows, held), prefix, shift)
        upto = histogram.cumsum()
        digit = int(np.searchsorted(upto, rank))
        rank -= int(upto[digit] - histogram[digit])
        prefix = prefix << _DIGIT | digit
        by_leaf = {leaf: digits.at(digit) for leaf, digits in by_leaf.items()}
    below = {leaf: digits.below for leaf, digits in by_leaf.items()}
    tied = {leaf: int(digits.counts.sum()) for leaf, digits in by_leaf.items()}
    for some, rows in stacks():
        safe_rows, cut = _highest(rows, held), rows.dtype.type(prefix)
        under = np.sum(rows < cut, axis=1) - np.sum(safe_rows < cut, axis=1)
        on_it = np.sum(rows == cut, axis=1) - np.sum(safe_rows == cut, axis=1)
        below |= zip(some, under.tolist(), strict=True)
        tied |= zip(some, on_it.tolist(), strict=True)
    shares = {}
    for leaf in below if order is None else order:
        taken = min(rank, tied[leaf])
        rank -= taken
        shares[leaf] = below[leaf] + taken
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
        if histogram is None and piece.size < PIECE:
            small = digits  # and the last: only a whole piece is followed by another
        else:
            if histogram is None:
                histogram = np.zeros(1 << _DIGIT, np.int64)
            histogram += np.bincount(digits, minlength=1 << _DIGIT)
    if histogram is None:
        return _Digits(below, *np.unique(small, return_counts=True))
    places = np.flatnonzero(histogram)
    return _Digits(below, places.astype(np.uint16), histogram[places])


def _histogram(keys: Array, prefix: int, shift: int) -> Array:
    """How often each 16 bits above `shift` occur, among keys that begin with `prefix`."""
    digits = keys.reshape(-1) >> keys.dtype.type(shift)
    if shift + _DIGIT < 8 * keys.dtype.itemsize:
        digits = digits[digits >> keys.dtype.type(_DIGIT) == prefix]
    return np.bincount(digits.astype(np.uint16), minlength=1 << _DIGIT)


def _highest(keys: Array, count: int) -> Array:
    """The `count` highest along the last axis; all where there are no more."""
    if count >= keys.shape[-1]:
        return keys
    if count <= 1:
        return keys.max(axis=-1, keepdims=True) if count else keys[..., :0]
    return np.partition(keys, -count, axis=-1)[..., -count:].copy()
