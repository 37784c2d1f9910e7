"""Exactly the k lowest, in NumPy: what `_select.py` does, for arrays that come and go.

A file has tensors of many shapes, each seen once. The kernel of `_select.py` takes a second to
compile for each of them, and this takes none. The keys, the counts and the ties are those of the
library to the bit; the tests compare them.

Keys are made a piece at a time, in the cache, anew in every pass over all tensors: that takes a
fraction of the time of writing them to memory, where a page that is new costs more than all of the
arithmetic. Of a tensor alone they are written once, for NumPy's partition, which is faster still.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from jaxprune.io._checkpoint import Array

_DIGIT = 16  # bits of a key that one pass tells
_PIECE = 1 << 18  # keys that are made at a time

_T = TypeVar("_T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Ordered:
    """An array in the order of its scores.

    Attributes:
        values: The array, flat.
        score: Scores a piece of it.
    """

    values: Array
    score: Callable[[Array], Array]

    def pieces(self) -> Iterator[Array]:
        """The keys of its scores, piece by piece."""
        for at in range(0, self.values.size, _PIECE):
            yield keys(self.score(self.values[at : at + _PIECE]))


def keys(scores: Array) -> Array:
    """Unsigned integers, from 0 for -inf up, that order as the scores do.

    -0.0 and 0.0 share a key, and every NaN has the one highest.
    """
    width = 8 * scores.dtype.itemsize
    signed, unsigned = (np.dtype(f"{kind}{width}").type for kind in ("int", "uint"))
    infinity = scores.dtype.type(np.inf).view(unsigned)
    bits = scores.view(signed)
    minus = bits >> signed(width - 1)  # all ones where the sign is
    order = bits & np.iinfo(signed).max
    order ^= minus
    order -= minus  # the magnitude, negated where the sign is
    # A negative NaN lies below -inf, and wraps around to the top.
    places = order.view(unsigned)
    places += infinity
    return np.minimum(places, unsigned(2 * int(infinity) + 1), out=places)


def magnitudes(weights: Array) -> Array:
    """|w| in the dtype of the weights, NaN and subnormals included."""
    unsigned = unsigned_of(weights.dtype)
    return (weights.view(unsigned) & unsigned(np.iinfo(unsigned).max >> 1)).view(weights.dtype)


def unsigned_of(dtype: np.dtype[Any]) -> Any:
    """The unsigned integers as wide as a dtype."""
    return np.dtype(f"uint{8 * dtype.itemsize}").type


def survivors(ordered: Ordered, count: int, *, width: int) -> Array:
    """Marks all of an array but the `count` lowest; of equals the first go.

    Args:
        ordered: The array.
        count: How many go, fewer than all or all.
        width: The bits of a key.

    Returns:
        bool, flat.
    """
    kept = np.ones(ordered.values.shape, bool)
    if not count:
        return kept
    order = np.empty(ordered.values.shape, f"uint{width}")
    for piece, here in _beside(ordered, order):
        here[:] = piece
    order.partition(count - 1)
    key = order[count - 1]
    left = int(np.count_nonzero(order[:count] == key))  # of those on the cut, how many go
    for piece, here in _beside(ordered, kept):
        np.greater(piece, key, out=here)
        tied = np.flatnonzero(piece == key)
        here[tied[left:]] = True
        left -= min(left, tied.size)
    return kept


def _beside(ordered: Ordered, other: Array) -> Iterator[tuple[Array, Array]]:
    """The keys of an array piece by piece, each with its part of another array."""
    at = 0
    for piece in ordered.pieces():
        yield piece, other[at : at + piece.size]
        at += piece.size


def find_cut(
    leaves: Sequence[_T],
    pieces: Callable[[_T], Iterator[Array]],
    count: int,
    *,
    held: int,
    width: int,
) -> "Cut[_T]":
    """Finds where one budget over all leaves cuts, by counting: a pass for each 16 bits of a key.

    A leaf's `held` highest are out of reach (among equals the last), so that it keeps as many.

    Args:
        leaves: What is pruned, in any order.
        pieces: Makes the keys of a leaf, piece by piece.
        count: How many go: at least 1, and at most what is within reach.
        held: How many each leaf keeps at the least.
        width: The bits of a key.

    Returns:
        The cut.
    """
    prefix, rank = 0, count
    safe = dict.fromkeys(leaves, np.empty(0, f"uint{width}"))
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        histogram = np.zeros(1 << _DIGIT, np.int64)
        for leaf in leaves:
            for piece in pieces(leaf):
                histogram += _digits(piece, prefix, shift)
                if shift == width - _DIGIT and held:
                    safe[leaf] = _highest(safe[leaf], piece, held)
            histogram -= _digits(safe[leaf], prefix, shift)
        upto = histogram.cumsum()
        digit = int(np.searchsorted(upto, rank))
        rank -= int(upto[digit] - histogram[digit])
        prefix = prefix << _DIGIT | digit
    return Cut(prefix, rank, safe)


@dataclass
class Cut(Generic[_T]):
    """The key at which a budget cuts: all within reach below it go, and `left` of those on it."""

    key: int
    left: int
    safe: dict[_T, Array]

    def take(self, leaf: _T, pieces: Iterator[Array]) -> int:
        """How many of a leaf go. Leaves give of what lies on the cut in the order of the calls."""
        safe = self.safe[leaf]
        below, on = -self._counted(safe)
        for piece in pieces:
            more = self._counted(piece)
            below, on = below + more[0], on + more[1]
        taken = min(self.left, int(on))
        self.left -= taken
        return int(below) + taken

    def _counted(self, piece: Array) -> Array:
        """How many keys lie below the cut, and on it."""
        key = piece.dtype.type(self.key)
        return np.array([np.count_nonzero(piece < key), np.count_nonzero(piece == key)])


def _highest(so_far: Array, piece: Array, count: int) -> Array:
    if count == 1:
        piece = piece.max(keepdims=True)
    both = np.concatenate([so_far, piece])
    return np.partition(both, both.size - count)[-count:].copy() if both.size > count else both


def _digits(order: Array, prefix: int, shift: int) -> Array:
    """How often each digit of 16 bits follows the digits in `prefix`."""
    upper = order >> order.dtype.type(shift)
    if shift + _DIGIT < 8 * order.dtype.itemsize:
        upper = upper[upper >> order.dtype.type(_DIGIT) == prefix]
    return np.bincount(upper.astype(np.uint16), minlength=1 << _DIGIT)
