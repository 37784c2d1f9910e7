"""Where the result of an operation is zero that moves entries about, takes parts, or joins them."""

from collections.abc import Callable, Sequence

from jaxprune.shrinking._blocks import atoms
from jaxprune.shrinking._couple_moves import reshaped_runs
from jaxprune.shrinking._masked import NONE, Reasons, Units, Values, Zeros, nowhere, units_of
from jaxprune.shrinking._program import Step
from jaxprune.tracing import _layouts as at


def transposed(
    reading: at.Transposed, step: Step, operands: Values, reasons: Reasons
) -> list[Zeros]:
    return [Zeros(tuple(operands[0].axes[k] for k in reading.order), operands[0].number)]


def reshaped(reading: at.Reshaped, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    (before,), (after,) = step.operands, step.results
    sizes = [[block.size for block in axes] for axes in (before, after)]
    result = [NONE] * len(after)
    for old, new in reshaped_runs(*sizes):
        held = [(units_of(before[k]), operands[0].axes[k]) for k in old]
        for k in new:
            result[k] = _in_all(units_of(after[k]), held)
    return [Zeros(tuple(result), operands[0].number)]


def _in_all(units: Units, held: Sequence[tuple[Units, Units]]) -> Units:
    """The units that are zero wherever they are: of pairs (what is there, what is zero there)."""
    there = frozenset().union(*(here for here, _ in held))
    return frozenset(
        unit for unit in units & there if all(unit in zero for here, zero in held if unit in here)
    )


def broadcast(reading: at.Broadcast, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    (operand,), (before, *_), (after,) = operands[:1], step.operands, step.results
    if operand.number == 0:
        return [Zeros(tuple(map(units_of, after)), 0.0)]
    result = [NONE] * len(after)
    for block, axis, zero in zip(before, reading.axes, operand.axes, strict=True):
        if block.size == after[axis].size:
            result[axis] = zero
    return [Zeros(tuple(result), operand.number)]


def squeezed(reading: at.Squeezed, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    kept = (zero for k, zero in enumerate(operands[0].axes) if k not in reading.axes)
    return [Zeros(tuple(kept), operands[0].number)]


def sliced(reading: at.Sliced, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    return [
        Zeros(
            tuple(
                zero & units_of(block) for zero, block in zip(operands[0].axes, result, strict=True)
            ),
            operands[0].number,
        )
        for result in step.results
    ]


def padded(reading: at.Padded, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    (before, _), (after,) = step.operands, step.results
    if operands[1].number != 0:
        return [nowhere(after)]
    result = [
        (units_of(new) - units_of(old)) | zero
        for old, new, zero in zip(before, after, operands[0].axes, strict=True)
    ]
    return [Zeros(tuple(result))]


def concatenated(
    reading: at.Concatenated, step: Step, operands: Values, reasons: Reasons
) -> list[Zeros]:
    (after,) = step.results
    pairs = list(zip(step.operands, operands, strict=True))
    return [
        Zeros(
            tuple(
                _in_all(units_of(block), [(units_of(axes[k]), z.axes[k]) for axes, z in pairs])
                if k == reading.axis
                else frozenset.intersection(*(z.axes[k] for _, z in pairs))
                for k, block in enumerate(after)
            )
        )
    ]


def stacked(reading: at.Stacked, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    both = [frozenset.intersection(*sets) for sets in zip(*(z.axes for z in operands), strict=True)]
    return [Zeros((*both[: reading.axis], NONE, *both[reading.axis :]))]


def tiled(reading: at.Tiled, step: Step, operands: Values, reasons: Reasons) -> list[Zeros]:
    (before,), (after,) = step.operands, step.results
    result = [
        frozenset(unit for unit in zero if atoms(old).count(unit) == atoms(new).count(unit))
        for old, new, zero in zip(before, after, operands[0].axes, strict=True)
    ]
    return [Zeros(tuple(result))]


# The rule for each way to move entries about.
MOVES: dict[type, Callable[..., list[Zeros]]] = {
    at.Transposed: transposed,
    at.Reshaped: reshaped,
    at.Broadcast: broadcast,
    at.Squeezed: squeezed,
    at.Sliced: sliced,
    at.Padded: padded,
    at.Concatenated: concatenated,
    at.Stacked: stacked,
    at.Tiled: tiled,
}
