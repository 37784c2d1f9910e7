"""Whether a model without some units is the model that is masked: found without running either.

Where parameters are masked, the values that are made of cut units are zero in most places, and to
leave a zero out of a sum changes nothing. A second pass over the program keeps, for each axis of
each value, the units at whose positions the value is zero once they are masked. A sum over an axis
needs that of every unit on it; one factor of a product is enough. A mean that is taken away from
all of its numbers, as a two-pass variance does, leaves something else than zero at what was cut:
there the two models differ, and the pass says where.
"""

import functools
from collections.abc import Sequence
from typing import Any

from jaxprune.shrinking._blocks import Block
from jaxprune.shrinking._masked import (
    NONE,
    Reasons,
    Units,
    Values,
    Zeros,
    constant,
    nowhere,
    units_of,
)
from jaxprune.shrinking._program import Axes, Body, Step, Why
from jaxprune.shrinking._zeros_moves import MOVES
from jaxprune.tracing import _layouts as at
from jaxprune.tracing._jax import is_known
from jaxprune.tracing._readings import Branches, Call, Scan, Unknown, While


def inexact_units(body: Body, values: Sequence[Zeros]) -> dict[Block, Why]:
    """The units whose cut changes the function, and where.

    Args:
        body: The program.
        values: Where its inputs are zero.
    """
    reasons: Reasons = {}
    run_zeros(body, values, reasons)
    return reasons


def run_zeros(body: Body, values: Sequence[Zeros], reasons: Reasons) -> list[Zeros]:
    """Where the results of a program are zero; what cannot be left out is put into `reasons`."""
    known: dict[Any, Zeros] = dict(zip(body.jaxpr.invars, values, strict=True))
    for variable, (value, axes) in zip(body.jaxpr.constvars, body.constants, strict=True):
        known[variable] = constant(value, axes)
    for step in body.steps:
        operands = [
            _read(known, variable, axes)
            for variable, axes in zip(step.equation.invars, step.operands, strict=True)
        ]
        results = zeros(step.reading, step, operands, reasons)
        known.update(zip(step.equation.outvars, results, strict=True))
    return [
        _read(known, variable, axes)
        for variable, axes in zip(body.jaxpr.outvars, body.outputs, strict=True)
    ]


def _read(known: dict[Any, Zeros], variable: Any, axes: Axes) -> Zeros:
    return constant(variable.val, axes) if is_known(variable) else known[variable]


@functools.singledispatch
def zeros(reading: Any, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    """Where the results of an operation are zero; by default nowhere for certain.

    Args:
        reading: What the operation does.
        step: The operation.
        operands: Where its operands are zero.
        reasons: Takes the units that a sum would need to be zero and are not, with the reason.
    """
    del reading, operands, reasons
    return [nowhere(axes) for axes in step.results]


@zeros.register
def _(reading: at.Same, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    return list(operands)


@zeros.register
def _(reading: at.Aligned, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    if reading.pole is not None and operands[reading.pole].number is None:
        words = f"{step.equation.primitive.name} is not finite where what is cut is zero"
        for unit in frozenset().union(*operands[reading.pole].axes):
            reasons.setdefault(unit, Why(words, step.equations))
    return [
        Zeros(
            tuple(
                _aligned_zeros(
                    reading.zero,
                    [_along(o, axes, result, k) for o, axes in zip(operands, step.operands)],  # noqa: B905
                    [operand.number for operand in operands],
                )
                for k in range(len(result))
            )
        )
        for result in step.results
    ]


def _along(operand: Zeros, axes: Axes, result: Axes, k: int) -> Units:
    """Where an operand is zero along an axis of the result that it may be broadcast to."""
    if operand.number == 0:
        return units_of(result[k])
    if len(axes) != len(result) or axes[k].size != result[k].size:
        return NONE
    return operand.axes[k]


def _aligned_zeros(zero: at.Zero, sets: Sequence[Units], numbers: Sequence[float | None]) -> Units:
    units = NONE
    match zero:
        case "all":
            units = frozenset.intersection(*sets)
        case "any":
            units = frozenset.union(*sets)
        case "first":
            units = sets[0]
        case "cases":
            units = frozenset.intersection(*sets[1:])
        case "max" | "min":
            units = _of_bounds(1 if zero == "max" else -1, sets, numbers)
        case "clamp":
            low, high = numbers[0], numbers[2]
            spans = low is not None and high is not None and low <= 0 <= high
            units = sets[1] if spans else NONE
    return units


def _of_bounds(sign: int, sets: Sequence[Units], numbers: Sequence[float | None]) -> Units:
    """Where the larger of two operands is zero (the smaller for sign -1), of which one may be 6."""
    for number, other in zip(numbers, reversed(sets), strict=True):
        if number is not None:
            return other if sign * number <= 0 else NONE
    return sets[0] & sets[1]


for _kind, _rule in MOVES.items():
    zeros.register(_kind, _rule)


# --- sums and products --------------------------------------------------------------------------


def _needed(block: Block, zero: Units, step: Step, reasons: Reasons, what: str) -> None:
    """A sum runs along a block: what is not zero there cannot be left out."""
    for unit in units_of(block) - zero:
        reasons.setdefault(
            unit, Why(f"{what} sums what is not zero where it is cut", step.equations)
        )


@zeros.register
def _(reading: at.Reduced, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    for axes, z in zip(step.operands, operands, strict=True):
        for k in reading.axes:
            _needed(axes[k], z.axes[k], step, reasons, step.equation.primitive.name)
    kept = [
        Zeros(tuple(zero for k, zero in enumerate(z.axes) if k not in reading.axes))
        for z in operands
    ]
    return [kept[k % len(kept)] for k in range(len(step.results))]


@zeros.register
def _(reading: at.Mixed, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    results = [nowhere(axes) for axes in step.results]
    if reading.keeps_zeros:
        # Of further results, as the places of the largest, nothing is known.
        for number, _ in zip(range(len(results)), operands, strict=False):
            z = operands[number]
            kept = (NONE if k in reading.axes else zero for k, zero in enumerate(z.axes))
            results[number] = Zeros(tuple(kept))
    return results


@zeros.register
def _(reading: at.Product, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    left, right = (z.axes for z in operands)
    for i, j in reading.summed:
        _needed(step.operands[0][i], left[i] | right[j], step, reasons, "a product")
    batch = [left[i] | right[j] for i, j in reading.batch]
    return [Zeros((*batch, *(left[i] for i in reading.left), *(right[j] for j in reading.right)))]


@zeros.register
def _(reading: at.RaggedProduct, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    (i, j), left, right = reading.summed, operands[0].axes, operands[1].axes
    _needed(step.operands[0][i], left[i] | right[j], step, reasons, "a product")
    return [Zeros((left[1 - i], right[reading.right]))]


@zeros.register
def _(reading: at.Convolved, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    image, kernel = (z.axes for z in operands)
    channels, outputs, inputs = image[reading.image[1]], *(kernel[k] for k in reading.kernel[:2])
    own = step.operands[1][reading.kernel[1]]
    _needed(own, channels | inputs, step, reasons, "a convolution")
    result = [NONE] * len(step.results[0])
    result[reading.result[0]] = image[reading.image[0]]
    result[reading.result[1]] = outputs
    if step.groups is not None and reading.groups > 1:
        result[reading.result[1]] |= channels & units_of(step.groups)
    return [Zeros(tuple(result))]


# --- at indices that are data -------------------------------------------------------------------


@zeros.register
def _(reading: at.LookedUp, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    table = operands[0].axes
    return [Zeros(tuple(NONE if whole is None else table[whole] for whole in reading.whole))]


@zeros.register
def _(reading: at.Scattered, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    whole, parts = operands[0].axes, operands[2].axes
    covers = {axis: k for k, axis in enumerate(reading.whole)}
    return [
        Zeros(tuple(z & parts[covers[k]] if k in covers else NONE for k, z in enumerate(whole)))
    ]


@zeros.register
def _(reading: at.Window, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    return [
        Zeros(tuple(z & units_of(b) for z, b in zip(operands[0].axes, step.results[0])))  # noqa: B905
    ]


@zeros.register
def _(reading: at.Placed, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    return [Zeros(tuple(a & b for a, b in zip(operands[0].axes, operands[1].axes)))]  # noqa: B905


# --- programs in programs -----------------------------------------------------------------------


@zeros.register
def _(reading: Call, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    return run_zeros(step.bodies[0], operands, reasons)


@zeros.register
def _(reading: Scan, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    depth = reading.constants + reading.carry
    carry = list(operands[reading.constants : depth])
    one = [Zeros(z.axes[1:], z.number) for z in operands[depth:]]
    while True:
        # What is found on the way to the zeros of any turn need not be true of these.
        inside: Reasons = {}
        outputs = run_zeros(step.bodies[0], [*operands[: reading.constants], *carry, *one], inside)
        after = [_both(old, new) for old, new in zip(carry, outputs, strict=False)]
        if after == carry:
            _merge(inside, reasons)
            return [*carry, *(Zeros((NONE, *z.axes)) for z in outputs[reading.carry :])]
        carry = after


@zeros.register
def _(reading: While, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    first, second = reading.condition_constants, reading.body_constants
    carry = list(operands[first + second :])
    while True:
        inside: Reasons = {}
        run_zeros(step.bodies[0], [*operands[:first], *carry], inside)
        outputs = run_zeros(step.bodies[1], [*operands[first : first + second], *carry], inside)
        after = [_both(old, new) for old, new in zip(carry, outputs, strict=True)]
        if after == carry:
            _merge(inside, reasons)
            return carry
        carry = after


def _merge(inside: Reasons, reasons: Reasons) -> None:
    for unit, why in inside.items():
        reasons.setdefault(unit, why)


@zeros.register
def _(reading: Branches, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    every = [run_zeros(body, operands[1:], reasons) for body in step.bodies]
    return [functools.reduce(_both, each) for each in zip(*every, strict=True)]


def _both(one: Zeros, other: Zeros) -> Zeros:
    """Where both are zero."""
    number = one.number if one.number == other.number else None
    return Zeros(tuple(a & b for a, b in zip(one.axes, other.axes, strict=True)), number)


@zeros.register
def _(reading: Unknown, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    # Nothing that goes into it or comes out of it can be cut.
    return [nowhere(axes) for axes in step.results]
