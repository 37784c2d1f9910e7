"""A program as one list of operations: its calls are opened, and every value has a number."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jaxprune.shrinking._program import Body, Step
from jaxprune.tracing import _jax
from jaxprune.tracing._jax_layouts import has_backward_derivative, is_sum
from jaxprune.tracing._readings import Call


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One step, with the numbers of the values that it takes and makes.

    Attributes:
        step: The step.
        operands: The numbers of its operands.
        results: Those of its results: larger than those of all values that there were before.
    """

    step: Step
    operands: tuple[int, ...]
    results: tuple[int, ...]


class OpenedCall(NamedTuple):
    """A call whose steps are operations of their own.

    Attributes:
        step: The call.
        operands: The numbers of its operands.
        results: Those of its results.
        inside: The steps inside, those of calls inside too.
    """

    step: Step
    operands: frozenset[int]
    results: frozenset[int]
    inside: frozenset[Step]


class Flow:
    """A program as one list of operations.

    Loops, branches and calls with derivatives of their own are single operations.

    Attributes:
        operations: The operations, in order.
        inputs: The numbers of the program's inputs.
        outputs: Those of its results.
        constants: Constants and literals by number.
        calls: The calls that were opened, inner ones first.
        maker: The operation that makes a value, by number.
        sums: The operations that add two values, by step.
        uses: How often values are read, by number, not counting what leads to no result.
    """

    def __init__(self, body: Body) -> None:
        self.operations: list[Operation] = []
        self.constants: dict[int, Any] = {}
        self.calls: list[OpenedCall] = []
        self.count = 0
        self.inputs = [self._new() for _ in body.inputs]
        self.outputs, _ = self._open(body, self.inputs)
        self.maker = {number: op for op in self.operations for number in op.results}
        self.sums = {op.step: op for op in self.operations if is_sum(op.step.equation)}
        live = self._live()
        self.uses = Counter(self.outputs)
        for op in self.operations:
            if not live.isdisjoint(op.results):
                self.uses.update(op.operands)

    def _new(self) -> int:
        self.count += 1
        return self.count - 1

    def _constant(self, value: Any) -> int:
        number = self._new()
        self.constants[number] = value
        return number

    def _open(self, body: Body, arguments: Iterable[int]) -> tuple[list[int], frozenset[Step]]:
        known: dict[Any, int] = dict(zip(body.jaxpr.invars, arguments, strict=True))
        for variable, (value, _) in zip(body.jaxpr.constvars, body.constants, strict=True):
            known[variable] = self._constant(value)

        def number(variable: Any) -> int:
            is_literal = _jax.is_known(variable)
            return self._constant(variable.val) if is_literal else known[variable]

        inside: set[Step] = set()
        for step in body.steps:
            inside.add(step)
            operands = [number(variable) for variable in step.equation.invars]
            if _is_opened(step):
                results, steps = self._open(step.bodies[0], operands)
                call = OpenedCall(step, frozenset(operands), frozenset(results), steps)
                self.calls.append(call)
                inside |= steps
            else:
                results = [self._new() for _ in step.results]
                self.operations.append(Operation(step, tuple(operands), tuple(results)))
            known.update(zip(step.equation.outvars, results, strict=True))
        return [number(variable) for variable in body.jaxpr.outvars], frozenset(inside)

    def _live(self) -> set[int]:
        """The numbers of the values that the results depend on."""
        numbers = set(self.outputs)
        for op in reversed(self.operations):
            if not numbers.isdisjoint(op.results):
                numbers.update(op.operands)
        return numbers

    def released(self, streams: Mapping[Step, int]) -> tuple[set[int], set[Step]]:
        """The values that nothing needs any more, and the operations that make them.

        The cost is that of what is released, however large the program is.

        Args:
            streams: Sums of which one operand alone is left, and which one.
        """
        pending = [self.sums[step].operands[1 - stream] for step, stream in streams.items()]
        lost: Counter[int] = Counter()
        gone: set[int] = set()
        dead: set[Step] = set()
        while pending:
            value = pending.pop()
            lost[value] += 1
            if lost[value] < self.uses[value]:
                continue
            gone.add(value)
            op = self.maker.get(value)
            if op is None or any(lost[other] < self.uses[other] for other in op.results):
                continue
            dead.add(op.step)
            only = streams.get(op.step)
            pending += op.operands if only is None else op.operands[only : only + 1]
        return gone, dead

    def reached_from(self, inputs: Iterable[int]) -> set[int]:
        """The numbers of the values that depend on some of the inputs."""
        numbers = set(inputs)
        for op in self.operations:
            if not numbers.isdisjoint(op.operands):
                numbers.update(op.results)
        return numbers

    def depends(self, value: int, on: set[int]) -> bool:
        """Whether a value is one of some others, or depends on one of them."""
        first = min(on)
        pending, visited = [value], {value}
        while pending:
            now = pending.pop()
            if now in on:
                return True
            # What was made before all of them depends on none.
            if now > first and now in self.maker:
                fresh = [other for other in self.maker[now].operands if other not in visited]
                visited.update(fresh)
                pending += fresh
        return False


def _is_opened(step: Step) -> bool:
    """Whether a step is a call that can be run in parts: one without a derivative of its own."""
    return (
        isinstance(step.reading, Call)
        and step.derivative is None
        and not has_backward_derivative(step.equation)
    )
