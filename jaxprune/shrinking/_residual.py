"""Sums of a stream and a branch that reads it: what can be left out of a model as a whole."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from jaxprune.shrinking._flow import Flow, Operation
from jaxprune.shrinking._program import Body, Step
from jaxprune.shrinking._silence import Silence, silences


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known about the values of a program.

    Attributes:
        flow: The program.
        data: The numbers of the values that depend on data.
        weights: Those of the values that depend on parameters alone.
        silences: For each value the leaves that make it zero.
    """

    flow: Flow
    data: set[int]
    weights: set[int]
    silences: Mapping[int, Silence]


def facts_of(body: Body, inputs: Sequence[Silence], is_data: Sequence[bool]) -> Facts:
    """Reads a program.

    Args:
        body: The program.
        inputs: For each of its inputs the leaves that make it zero.
        is_data: Which of them are data; the others are parameters.
    """
    flow = Flow(body)
    pairs = list(zip(flow.inputs, is_data, strict=True))
    data = flow.reached_from(number for number, of_data in pairs if of_data)
    weights = flow.reached_from(number for number, of_data in pairs if not of_data) - data
    return Facts(flow, data, weights, silences(flow, inputs, data))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """A sum of two values that depend on data.

    Attributes:
        operation: The sum.
        stream: Which of its operands is the stream that the other one reads; None if neither is.
    """

    operation: Operation
    stream: int | None

    @property
    def branch(self) -> int:
        """The number of the value that is added to the stream."""
        assert self.stream is not None
        return self.operation.operands[1 - self.stream]


def sums(facts: Facts) -> Iterator[Sum]:
    """The sums of a program of two values of one shape that depend on data."""
    streams: dict[Step, int] = {}
    for op in facts.flow.sums.values():
        if not facts.data.issuperset(op.operands):
            continue
        sizes = [[block.size for block in axes] for axes in op.step.operands]
        if sizes[0] != sizes[1]:
            continue
        addition = Sum(op, _stream(op, facts, streams))
        if addition.stream is not None:
            streams[op.step] = addition.stream
        yield addition


def _stream(op: Operation, facts: Facts, streams: Mapping[Step, int]) -> int | None:
    # In most models the branch reads what it is added to; to look further back takes longer.
    for far in (False, True):
        for k, number in enumerate(op.operands):
            before = _before(number, facts, streams) if far else {number}
            if facts.flow.depends(op.operands[1 - k], before):
                return k
    return None


def _before(number: int, facts: Facts, streams: Mapping[Step, int]) -> set[int]:
    """A value, and what it was before other branches were added and weightless steps were taken."""
    numbers = {number}
    while number in facts.flow.maker:
        op = facts.flow.maker[number]
        if op.step in streams:
            number = op.operands[streams[op.step]]
        else:
            data = [k for k in op.operands if k in facts.data]
            if len(data) != 1 or not facts.weights.isdisjoint(op.operands):
                break
            (number,) = data
        numbers.add(number)
    return numbers
