"""Exactly the k lowest, in NumPy: what `_select.py` does, for arrays that come and go.

A file has tensors of many shapes, each seen once. The kernel of `_select.py` takes a second to
compile for each of them, and NumPy's selection on the same integer keys takes none. The keys, the
counts and the ties are those of the library to the bit; the tests compare them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from jaxprune.io._checkpoint import Array

_DIGIT = 16  # bits of a key that one pass tells
_CHUNK = 1 << 20  # keys that are made at a time, so that they stay in the cache

_T = TypeVar("_T")


def keys(scores: Array) -> Array:
    """Unsigned integers, from 0 for -inf up, that order as the scores do.

    -0.0 and 0.0 share a key, and every NaN has the one highest.
    """
    flat = scores.reshape(-1)
    order = np.empty(flat.shape, _unsigned(scores.dtype))
    for at in range(0, flat.size, _CHUNK):
        order[at : at + _CHUNK] = _keys(flat[at : at + _CHUNK])
    return order


def _keys(scores: Array) -> Array:
    unsigned = _unsigned(scores.dtype)
    infinity = scores.dtype.type(np.inf).view(unsigned)
    sign = unsigned(1 << (8 * scores.dtype.itemsize - 1))
    bits = scores.view(unsigned)
    magnitude = bits & unsigned(sign - 1)
    # A negative NaN lies below -inf and wraps around to the top.
    order = np.where(bits & sign, infinity - magnitude, infinity + magnitude)
    return np.minimum(order, unsigned(2 * int(infinity) + 1))


def _unsigned(dtype: np.dtype[Any]) -> Any:
    return np.dtype(f"uint{8 * dtype.itemsize}").type


def magnitudes(weights: Array) -> Array:
    """|w| in the dtype of the weights, NaN and subnormals included."""
    unsigned = _unsigned(weights.dtype)
    top = unsigned((1 << (8 * weights.dtype.itemsize - 1)) - 1)
    return (weights.view(unsigned) & top).view(weights.dtype)


def survivors(order: Array, count: int) -> Array:
    """Marks all keys of a flat array but the `count` lowest; of equals the first go."""
    if count == 0:
        return np.ones(order.shape, bool)
    threshold = np.partition(order, count - 1)[count - 1]
    kept = order > threshold
    ties = count - np.count_nonzero(order < threshold)
    tied = np.flatnonzero(order == threshold)
    kept[tied[ties:]] = True
    return kept


def find_cut(
    leaves: Sequence[_T], order: Callable[[_T], Array], count: int, *, held: int, width: int
) -> "Cut[_T]":
    """Finds where one budget over all leaves cuts, by counting: a pass for each 16 bits of a key.

    A leaf's `held` highest are out of reach (among equals the last), so that it keeps as many.

    Args:
        leaves: What is pruned, in any order.
        order: Reads the keys of a leaf, flat.
        count: How many go: at least 1, and at most what is within reach.
        held: How many each leaf keeps at the least.
        width: The bits of a key.

    Returns:
        The cut.
    """
    prefix, rank = 0, count
    safe: dict[_T, Array] = {}
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        histogram = np.zeros(1 << _DIGIT, np.int64)
        for leaf in leaves:
            found = order(leaf)
            if leaf not in safe:
                safe[leaf] = _highest(found, held)
            histogram += _digits(found, prefix, shift) - _digits(safe[leaf], prefix, shift)
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

    def take(self, leaf: _T, order: Array) -> int:
        """How many of a leaf go. Leaves give of what lies on the cut in the order of the calls."""
        key = order.dtype.type(self.key)
        safe = self.safe[leaf]
        below, on = (
            int(np.count_nonzero(test(order, key)) - np.count_nonzero(test(safe, key)))
            for test in (np.less, np.equal)
        )
        taken = min(self.left, on)
        self.left -= taken
        return below + taken


def _highest(order: Array, count: int) -> Array:
    if count < 2:
        return order.max(keepdims=True) if count else order[:0]
    return np.partition(order, order.size - count)[order.size - count :].copy()


def _digits(order: Array, prefix: int, shift: int) -> Array:
    """How often each digit of 16 bits follows the digits in `prefix`."""
    tally = np.zeros(1 << _DIGIT, np.int64)
    for at in range(0, order.size, _CHUNK):
        upper = order[at : at + _CHUNK] >> order.dtype.type(shift)
        if shift + _DIGIT < 8 * order.dtype.itemsize:
            upper = upper[upper >> order.dtype.type(_DIGIT) == prefix]
        tally += np.bincount(upper.astype(np.uint16), minlength=1 << _DIGIT)
    return tally
