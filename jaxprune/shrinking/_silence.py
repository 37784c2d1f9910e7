"""Which leaves make a value zero, whatever else there is, if they are zero."""

from collections.abc import Sequence
from typing import TypeAlias

from jaxprune.shrinking._flow import Flow, Operation
from jaxprune.shrinking._masked import constant
from jaxprune.tracing import _layouts as at
from jaxprune.tracing._readings import Call

# The numbers of leaves which together make a value zero; None where no leaves do.
Silence: TypeAlias = frozenset[int] | None

_OF_FIRST = (
    at.Transposed
    | at.Reshaped
    | at.Broadcast
    | at.Squeezed
    | at.Sliced
    | at.Tiled
    | at.LookedUp
    | at.Window
)


def silences(flow: Flow, inputs: Sequence[Silence], data: set[int]) -> dict[int, Silence]:
    """For each value the leaves that make it zero: the last ones on the way to it.

    Args:
        flow: The program.
        inputs: The same for its inputs.
        data: The numbers of the values that depend on data.
    """
    by_number: dict[int, Silence] = dict(zip(flow.inputs, inputs, strict=True))
    for number, value in flow.constants.items():
        by_number[number] = frozenset() if constant(value, ()).number == 0 else None
    for op in flow.operations:
        by_number.update(zip(op.results, _of_results(op, by_number, data), strict=True))
    return by_number


def _of_results(op: Operation, by_number: dict[int, Silence], data: set[int]) -> list[Silence]:
    sets = [by_number[number] for number in op.operands]
    reading, count = op.step.reading, len(op.results)
    if isinstance(reading, at.Same):
        return sets
    if isinstance(reading, Call):
        return _of_call(op, sets, data)
    if isinstance(reading, at.Reduced) and reading.is_sum:
        return [sets[k % len(sets)] for k in range(count)]
    if isinstance(reading, at.Mixed) and reading.keeps_zeros:
        return [*sets, *[None] * count][:count]
    return [_of_each(op, sets, by_number, data)] * count


def _of_call(op: Operation, sets: Sequence[Silence], data: set[int]) -> list[Silence]:
    flow = Flow(op.step.bodies[0])
    pairs = zip(flow.inputs, op.operands, strict=True)
    inside = silences(flow, sets, flow.reached_from(own for own, number in pairs if number in data))
    return [inside[number] for number in flow.outputs]


def _of_each(
    op: Operation, sets: Sequence[Silence], by_number: dict[int, Silence], data: set[int]
) -> Silence:
    """Of operations whose results are all zero where one is."""
    silence: Silence = None
    match op.step.reading:
        case at.Aligned(zero="all" | "max" | "min") | at.Concatenated() | at.Stacked():
            silence = _all(sets)
        case at.Padded() | at.Placed():
            silence = _all(sets[:2])
        case at.Scattered():
            silence = _all(sets[::2])
        case at.Aligned(zero="cases"):
            silence = _all(sets[1:])
        case at.Aligned(zero="any"):
            silence = _any(op.operands, by_number, data)
        case at.Product() | at.RaggedProduct() | at.Convolved():
            silence = _any(op.operands[:2], by_number, data)
        case at.Aligned(zero="first"):
            zero = sets[0] or frozenset()
            # Nothing divided by nothing is no zero.
            is_safe = all(other is None or not other <= zero for other in sets[1:])
            silence = sets[0] if is_safe else None
        case reading if isinstance(reading, _OF_FIRST):
            silence = sets[0]
    return silence


def _all(sets: Sequence[Silence]) -> Silence:
    known = [each for each in sets if each is not None]
    return frozenset().union(*known) if len(known) == len(sets) else None


def _any(operands: Sequence[int], by_number: dict[int, Silence], data: set[int]) -> Silence:
    """A parameter of a product rather than what is before it."""
    known = [(k in data, len(each), each) for k in operands if (each := by_number[k]) is not None]
    return min(known, key=lambda one: one[:2])[2] if known else None
