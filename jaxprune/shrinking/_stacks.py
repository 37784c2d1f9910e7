"""Stacks of layers: scans whose turns add branches to what they carry, and do nothing else."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

from jaxprune.shrinking._blocks import Block, atoms, root
from jaxprune.shrinking._flow import Operation
from jaxprune.shrinking._program import Axes, Step, Why
from jaxprune.shrinking._residual import Facts, Sum, facts_of, sums
from jaxprune.tracing import _layouts as at
from jaxprune.tracing._readings import Scan


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A scan over layers.

    Attributes:
        step: The scan.
        leaves: The numbers of the leaves that hold the layers.
        last: Those of the leaves which, where they are zero, make a layer add nothing.
        carries: Which of the values that it carries the layers add to.
        refused: Why no layer can be left out; "" if they can.
    """

    step: Step
    leaves: tuple[int, ...]
    last: frozenset[int] = frozenset()
    carries: tuple[int, ...] = ()
    refused: str = ""


class _Refusal(Exception):
    """Why no layer of a stack can be left out."""


def stacks(facts: Facts, axes: Sequence[Axes], multiplied: Collection[int]) -> Iterator[Stack]:
    """The scans of a program that take leaves apart which products read.

    Args:
        facts: The program.
        axes: The axes of the leaves of the parameters.
        multiplied: The numbers of those that products and convolutions read.
    """
    for op in facts.flow.operations:
        if not isinstance(op.step.reading, Scan) or op.step.turns is None:
            continue
        layers = root(op.step.turns)
        held = tuple(k for k, of in enumerate(axes) if of and root(of[0]) is layers)
        if layers.size > 1 and not set(multiplied).isdisjoint(held):
            try:
                yield _stack(facts, op, op.step.reading, held)
            except _Refusal as refusal:
                yield Stack(op.step, held, refused=str(refusal))


def _stack(facts: Facts, op: Operation, scan: Scan, held: tuple[int, ...]) -> Stack:
    step, depth = op.step, scan.constants + scan.carry
    if not facts.data.isdisjoint(op.operands[depth:]):
        raise _refusal("a scan takes data apart beside its layers", step)
    if len(op.results) > scan.carry:
        raise _refusal("a scan returns something of each layer", step)
    _check_readers(facts, op)
    is_data = [number in facts.data for number in op.operands]
    is_data[scan.constants : depth] = [True] * scan.carry
    # What is no part of the stack cannot be made zero for one layer.
    silences = [None] * depth + [facts.silences[number] for number in op.operands[depth:]]
    inside = facts_of(step.bodies[0], silences, is_data)
    branches = {one.operation.step: one for one in sums(inside)}
    last: set[int] = set()
    carries = []
    for k in range(scan.carry):
        leaves = _last_leaves(inside, branches, scan.constants + k, inside.flow.outputs[k])
        if leaves:
            carries.append(k)
            last |= leaves
    if not last <= set(held) or not last:
        raise _refusal("a layer adds what no weights of its own make zero", step)
    return Stack(step, held, frozenset(last), tuple(carries))


def _last_leaves(
    facts: Facts, branches: Mapping[Step, Sum], carry: int, number: int
) -> frozenset[int]:
    """The leaves that turn what a layer returns into what came in, if it has branches alone."""
    last: frozenset[int] = frozenset()
    # Where the axes of what the layer returns are in the value: some models work on a transposed
    # stream, and turn it back.
    order: tuple[int, ...] = ()
    while number != facts.flow.inputs[carry]:
        op = facts.flow.maker.get(number)
        if op is None:
            raise _Refusal("a scan carries something else from one layer to the next")
        addition = branches.get(op.step)
        if addition is not None and addition.stream is not None:
            silence = facts.silences[addition.branch]
            if silence is None:
                raise _refusal("a layer adds what no weights of its own make zero", op.step)
            last |= silence
            number = op.operands[addition.stream]
        elif isinstance(op.step.reading, at.Same) and _keeps_type(op.step):
            number = op.operands[op.results.index(number)]
        elif isinstance(op.step.reading, at.Transposed):
            turned = op.step.reading.order
            order = tuple(turned[k] for k in order) if order else turned
            number = op.operands[0]
        else:
            name = op.step.equation.primitive.name
            raise _refusal(f"a layer does more than to add branches: there is {name}", op.step)
    if order != tuple(range(len(order))):
        raise _Refusal("each layer transposes what a scan carries")
    return last


def _keeps_type(step: Step) -> bool:
    equation = step.equation
    pairs = zip(equation.invars, equation.outvars, strict=True)
    return all(before.aval == after.aval for before, after in pairs)


def _check_readers(facts: Facts, scan: Operation) -> None:
    """Refuses stacks that anything else reads than the scan, but for what goes entry by entry."""
    assert scan.step.turns is not None
    layers = root(scan.step.turns)
    if layers.kind != "units":
        raise _refusal("the layers of a stack are taken apart elsewhere too", scan.step)
    for op in facts.flow.operations:
        is_plain = isinstance(op.step.reading, at.Same | at.Aligned)
        if op is not scan and not is_plain and _holds(op.step.operands, layers):
            name = op.step.equation.primitive.name
            raise _refusal(f"{name} reads all layers of a stack", op.step)


def _holds(operands: Sequence[Axes], layers: Block) -> bool:
    return any(layers in atoms(block) for axes in operands for block in axes)


def _refusal(words: str, step: Step) -> _Refusal:
    return _Refusal(str(Why(words, step.equations)))
