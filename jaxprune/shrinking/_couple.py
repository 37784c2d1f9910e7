"""Which axes each operation couples: one small rule a family of primitives.

A rule takes what the operation does, the place where it does it, and the axes of its operands. It
joins what must be cut together, pins what must stay, and returns the axes of the results. Register
one for a class of your own to make a primitive known: see `jaxprune.extend.reads`.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

from jaxprune.shrinking._blocks import (
    split,
    units,
)
from jaxprune.shrinking._couple_moves import MOVES
from jaxprune.shrinking._program import Axes, Place, fresh, pin_all
from jaxprune.tracing import _layouts as at
from jaxprune.tracing._readings import Branches, Call, Scan, Unknown, While


@functools.singledispatch
def couple(reading: Any, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    """The axes of an operation's results.

    Args:
        reading: What the operation does.
        place: Where it stands, with what a rule needs.
        operands: The axes of its operands.
    """
    raise TypeError(f"{type(reading).__name__} has no rule registered")


@couple.register
def _(reading: Unknown, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    del operands
    return pin_all(place, f"the primitive {place.step.equation.primitive.name} has no rule")


@couple.register
def _(reading: at.Same, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    return list(operands)


@couple.register
def _(reading: at.Aligned, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    return [_aligned(place, operands, shape) for shape in place.shapes]


def _aligned(place: Place, operands: Sequence[Axes], shape: Sequence[int]) -> Axes:
    result = []
    for k, size in enumerate(shape):
        here = [axes[k] for axes in operands if len(axes) == len(shape) and axes[k].size == size]
        for one, other in itertools.pairwise(here):
            place.join(one, other)
        result.append(here[0] if here else units(size))
    return tuple(result)


@couple.register
def _(reading: at.Generated, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    return [fresh(shape) for shape in place.shapes]


for _kind, _rule in MOVES.items():
    couple.register(_kind, _rule)


# --- sums and products --------------------------------------------------------------------------


@couple.register
def _(reading: at.Reduced, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    if not reading.is_sum:
        for axes in operands:
            for k in reading.axes:
                place.pin(axes[k], f"{place.step.equation.primitive.name} runs along it")
    kept = [tuple(b for k, b in enumerate(axes) if k not in reading.axes) for axes in operands]
    return [kept[k % len(kept)] for k in range(len(place.shapes))]


@couple.register
def _(reading: at.Mixed, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    words = f"{place.step.equation.primitive.name} runs along it"
    layouts = [axes for axes in operands if axes]  # a window's first value is one number
    for axes in layouts:
        for k in reading.axes:
            place.pin(axes[k], words, no_units=reading.is_window)
    for axes in layouts[1:]:
        for k, block in enumerate(axes):
            if k not in reading.axes:
                place.join(layouts[0][k], block)
    return [
        tuple(
            place.pinned(size, words) if k in reading.axes else layouts[0][k]
            for k, size in enumerate(shape)
        )
        for shape in place.shapes
    ]


@couple.register
def _(reading: at.Product, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    left, right = operands
    for i, j in (*reading.batch, *reading.summed):
        place.join(left[i], right[j])
    batch = [left[i] for i, _ in reading.batch]
    return [(*batch, *(left[i] for i in reading.left), *(right[j] for j in reading.right))]


@couple.register
def _(reading: at.RaggedProduct, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    left, right = operands[:2]
    place.join(left[reading.summed[0]], right[reading.summed[1]])
    place.pin(right[reading.group], "the sizes of its groups are data")
    return [(left[1 - reading.summed[0]], right[reading.right])]


@couple.register
def _(reading: at.Convolved, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    image, kernel = operands
    (shape,) = place.shapes
    for k in reading.image[2:]:
        place.pin(image[k], "a window slides along it", no_units=True)
    for k in reading.kernel[2:]:
        place.pin(kernel[k], "it is a convolution's window", no_units=True)
    channels, outputs, inputs = (
        image[reading.image[1]],
        kernel[reading.kernel[0]],
        kernel[reading.kernel[1]],
    )
    groups, own = split(channels, reading.groups)
    groups_too, _ = split(outputs, reading.groups)
    place.join(own, inputs)
    place.join(groups, groups_too)
    place.step.groups = groups
    result = [place.pinned(size, "a window slides along it", no_units=True) for size in shape]
    result[reading.result[0]] = image[reading.image[0]]
    result[reading.result[1]] = outputs
    return [tuple(result)]


# --- at indices that are data -------------------------------------------------------------------

_POINTED = "it is indexed by data"


@couple.register
def _(reading: at.LookedUp, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    (shape,) = place.shapes
    table, indices = operands
    if indices:
        place.pin(indices[-1], _POINTED)
    for k, block in enumerate(table):
        if k not in reading.whole:
            place.pin(block, _POINTED)
    result = []
    for size, whole, behind in zip(shape, reading.whole, reading.indices, strict=True):
        if whole is not None:
            result.append(table[whole])
        else:
            result.append(place.pinned(size, _POINTED) if behind is None else indices[behind])
    return [tuple(result)]


@couple.register
def _(reading: at.Scattered, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    whole, indices, parts = operands
    for block in (
        *indices[-1:],
        *(block for k, block in enumerate(whole) if k not in reading.whole),
    ):
        place.pin(block, _POINTED)
    for block, k in zip(parts, reading.whole, strict=True):
        if k is None:
            place.pin(block, _POINTED)
        else:
            place.join(whole[k], block)
    return [whole]


@couple.register
def _(reading: at.Window, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    (shape,) = place.shapes
    result = []
    for block, size in zip(operands[0], shape, strict=True):
        if block.size != size:
            place.pin(block, _POINTED)
        result.append(block if block.size == size else place.pinned(size, _POINTED))
    return [tuple(result)]


@couple.register
def _(reading: at.Placed, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    for one, other in zip(operands[0], operands[1], strict=True):
        if one.size == other.size:
            place.join(one, other)
        else:
            place.pin(one, _POINTED)
            place.pin(other, _POINTED)
    return [operands[0]]


# --- programs in programs -----------------------------------------------------------------------


@couple.register
def _(reading: Call, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    results = place.run(reading.jaxpr, operands)
    place.derive(operands, results)
    return results


@couple.register
def _(reading: Scan, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    depth = reading.constants + reading.carry
    stacked = operands[depth:]
    why = "a scan runs along it: the layers of a stack are cut alike"
    along = place.pinned(reading.length, why, no_units=True)
    for axes in stacked:
        place.pin(axes[0], why, no_units=True)
        place.join(along, axes[0])
    place.step.turns = along
    outputs = place.run(reading.jaxpr, [*operands[:depth], *(axes[1:] for axes in stacked)])
    carry = operands[reading.constants : depth]
    _joined(place, carry, outputs[: reading.carry])
    return [*carry, *((along, *axes) for axes in outputs[reading.carry :])]


@couple.register
def _(reading: While, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    first, second = reading.condition_constants, reading.body_constants
    carry = operands[first + second :]
    place.run(reading.condition, [*operands[:first], *carry])
    outputs = place.run(reading.body, [*operands[first : first + second], *carry])
    _joined(place, carry, outputs)
    return list(carry)


@couple.register
def _(reading: Branches, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    every = [place.run(jaxpr, operands[1:]) for jaxpr in reading.jaxprs]
    for outputs in every[1:]:
        _joined(place, every[0], outputs)
    return every[0]


def _joined(place: Place, one: Sequence[Axes], other: Sequence[Axes]) -> None:
    for axes, others in zip(one, other, strict=True):
        for block, too in zip(axes, others, strict=True):
            place.join(block, too)
