"""Which axes of a leaf lie behind each dimension of an array that was made by moving the leaf.

Every dimension is a row-major product of `Factor`s. A reshape that merges two axes of the leaf puts
their factors into one dimension; a reshape that splits an axis splits its factor. Where a reshape
cuts across factors that do not divide, the result names all axes concerned: coarser, never wrong.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias


class Factor(NamedTuple):
    """A run of indices that comes from `axes` of the leaf; from none of them where broadcast."""

    axes: tuple[int, ...]
    size: int


class Dim(NamedTuple):
    """One dimension of a moved leaf: its factors, major to minor, and where the leaf lies in it.

    Entries of the leaf are found at indices in [low, high) only; the rest is padding, or belongs to
    other leaves that were concatenated with this one.
    """

    factors: tuple[Factor, ...]
    low: int
    high: int

    @property
    def size(self) -> int:
        """How many indices the dimension has."""
        return math.prod(factor.size for factor in self.factors)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the leaf that lie behind the dimension, major to minor."""
        return tuple(dict.fromkeys(axis for factor in self.factors for axis in factor.axes))

    @property
    def is_whole(self) -> bool:
        """Whether the leaf lies everywhere in the dimension."""
        return self.low == 0 and self.high == self.size


Dims: TypeAlias = tuple[Dim, ...]


def of_shape(shape: Sequence[int]) -> Dims:
    """The dimensions of a leaf of this shape that has not been moved."""
    return tuple(Dim((Factor((axis,), size),), 0, size) for axis, size in enumerate(shape))


def broadcast(size: int) -> Dim:
    """A dimension along which the same entries are repeated."""
    return Dim((Factor((), size),), 0, size)


def resized(dim: Dim, size: int, low: int, high: int) -> Dim:
    """The dimension after slicing or padding, which leave no products of factors."""
    return Dim((Factor(dim.axes, size),), max(low, 0), min(high, size))


def leaf_axes(dims: Dims, chosen: Sequence[int]) -> tuple[int, ...]:
    """The axes of the leaf behind the chosen dimensions, in the order of the dimensions."""
    return tuple(dict.fromkeys(axis for d in sorted(chosen) for axis in dims[d].axes))


def reshaped(dims: Dims, shape: Sequence[int]) -> Dims:
    """The dimensions after a row-major reshape to `shape`."""
    if 0 in shape or any(dim.size == 0 for dim in dims):
        axes = tuple(dict.fromkeys(axis for dim in dims for axis in dim.axes))
        return tuple(Dim((Factor(axes, size),), 0, size) for size in shape)
    out: list[Dim] = []
    for old, new in _blocks([dim.size for dim in dims], shape):
        out += _regrouped(dims[old], shape[new])
    return tuple(out)


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Cuts both shapes into the shortest runs of equal products; a lone 1 is a run of its own."""
    i = j = 0
    while i < len(old) or j < len(new):
        from_one, to_one = i < len(old) and old[i] == 1, j < len(new) and new[j] == 1
        end_i, end_j = i + (from_one or not to_one), j + (to_one or not from_one)
        if not from_one and not to_one:
            left, right = old[i], new[j]
            while left != right:
                if left < right:
                    left, end_i = left * old[end_i], end_i + 1
                else:
                    right, end_j = right * new[end_j], end_j + 1
        yield slice(i, end_i), slice(j, end_j)
        i, j = end_i, end_j


def _regrouped(dims: Dims, sizes: Sequence[int]) -> list[Dim]:
    if len(dims) == len(sizes) == 1:
        return list(dims)
    factors = [factor for dim in dims for factor in dim.factors if factor.size > 1]
    groups = _divided(factors, sizes)
    if groups is None:
        axes = tuple(dict.fromkeys(axis for factor in factors for axis in factor.axes))
        groups = [(Factor(axes, size),) for size in sizes]
    spans = _unflat(*_flat(dims), sizes)
    return [Dim(group, *span) for group, span in zip(groups, spans, strict=True)]


def _divided(factors: list[Factor], sizes: Sequence[int]) -> list[tuple[Factor, ...]] | None:
    """The factors, cut where needed, in groups of these sizes; None where they do not divide."""
    rest, groups = list(factors), []
    for size in reversed(sizes):
        group, left = [], size
        while left > 1:
            factor = rest.pop()
            if left % factor.size == 0:
                group.append(factor)
                left //= factor.size
            elif factor.size % left == 0:
                group.append(factor._replace(size=left))
                rest.append(factor._replace(size=factor.size // left))
                left = 1
            else:
                return None
        groups.append(tuple(reversed(group)))
    return groups[::-1]


def _flat(dims: Dims) -> tuple[int, int]:
    """The span of the leaf in the row-major product of `dims`; all of it where it has gaps."""
    low, high, is_single = 0, 1, True
    for dim in dims:
        if is_single:
            low, high = low * dim.size + dim.low, low * dim.size + dim.high
            is_single = dim.high - dim.low == 1
        elif dim.is_whole:
            low, high = low * dim.size, high * dim.size
        else:
            return 0, math.prod(dim.size for dim in dims)
    return low, high


def _unflat(low: int, high: int, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The smallest box of indices, one span a size, that holds the flat span [low, high)."""
    spans: list[tuple[int, int]] = []
    for k in range(len(sizes)):
        stride = math.prod(sizes[k + 1 :])
        first, last = low // stride, (high - 1) // stride
        spans.append((first, last + 1))
        if first != last:
            return spans + [(0, rest) for rest in sizes[k + 1 :]]
        low, high = low - first * stride, high - first * stride
    return spans
