"""Several axes taken as one: attention's heads and features, say.

A word such as "input" may mean more than one axis of a leaf. The leaf is then seen with these axes
merged, in their order, and its mask is seen back.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxprune._kernels.ranked import Ranked


def with_one_axis(
    mask: Callable[[Ranked, int], Any], leaf: Ranked, axis: int | Sequence[int]
) -> Any:
    """The mask of a leaf by a function that takes one axis.

    Args:
        mask: Makes the mask of a leaf, of an axis of it.
        leaf: The leaf.
        axis: One axis, or several that are merged in their order.
    """
    if isinstance(axis, int):
        return mask(leaf, axis)
    shape, ndim = leaf.values.shape, leaf.values.ndim
    first = [a % ndim for a in axis]
    order = [*first, *(a for a in range(ndim) if a not in first)]
    merged = (axis_length(shape, axis), *(shape[a] for a in order[len(first) :]))
    moved = mask(jax.tree.map(lambda array: array.transpose(order).reshape(merged), leaf), 0)
    back = [order.index(a) for a in range(ndim)]
    return moved.reshape([shape[a] for a in order]).transpose(back)


def axis_length(shape: Sequence[int], axis: int | Sequence[int]) -> int:
    """How many indices an axis has, or several together."""
    return math.prod(shape[a] for a in ([axis] if isinstance(axis, int) else axis))
