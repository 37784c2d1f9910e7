"""What a program does with units, as far as their names should say it: heads, experts.

The names are for people; nothing else depends on them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxprune.shrinking._blocks import Block, atoms
from jaxprune.shrinking._program import Axes, Body, Step
from jaxprune.tracing import _layouts as at
from jaxprune.tracing._jax import is_known
from jaxprune.tracing._readings import Branches, Call, Scan, While


class Value(NamedTuple):
    """What is known about a value of a program.

    Attributes:
        leaf: The number of the leaf of the parameters that it is, or None.
        is_data: Whether it depends on the inputs.
    """

    leaf: int | None
    is_data: bool


CONSTANT = Value(None, False)
_PRODUCTS = at.Product | at.RaggedProduct | at.Convolved
_MOVED = at.Same | at.Transposed | at.Reshaped | at.Squeezed | at.Sliced | at.Broadcast


class Roles:
    """The roles of units, and the order in which a program reads its leaves.

    Attributes:
        of: Roles by block of units.
        order: The numbers of the leaves that are read, the first one first.
        multiplied: Those that products and convolutions read.
    """

    def __init__(self, body: Body, values: Sequence[Value]) -> None:
        self.of: dict[Block, str] = {}
        self.order: dict[int, None] = {}
        self.multiplied: set[int] = set()
        self._program(body, values)

    def _program(self, body: Body, values: Sequence[Value]) -> list[Value]:
        known: dict[Any, Value] = dict(zip(body.jaxpr.invars, values, strict=True))
        known |= dict.fromkeys(body.jaxpr.constvars, CONSTANT)
        for step in body.steps:
            operands = [
                CONSTANT if is_known(variable) else known[variable]
                for variable in step.equation.invars
            ]
            is_data = any(value.is_data for value in operands)
            results = [Value(None, is_data)] * len(step.results)
            read = [value.leaf for value in operands if value.leaf is not None]
            if step.bodies:
                results = self._inside(step, operands, is_data) or results
            else:
                self.order |= dict.fromkeys(read)
                if isinstance(step.reading, _PRODUCTS):
                    self.multiplied |= set(read)
                if isinstance(step.reading, _MOVED) and len(operands) == 1:
                    results = [operands[0]] * len(results)
            if isinstance(step.reading, at.Product) and is_data:
                self._product(step, operands[0].is_data and operands[1].is_data)
            known.update(zip(step.equation.outvars, results, strict=True))
        return [CONSTANT if is_known(v) else known[v] for v in body.jaxpr.outvars]

    def _inside(self, step: Step, operands: list[Value], is_data: bool) -> list[Value]:
        match step.reading:
            case Scan(constants=constants, carry=carry):
                turning = [Value(None, is_data)] * carry
                inputs = [[*operands[:constants], *turning, *operands[constants + carry :]]]
            case While(condition_constants=first, body_constants=second):
                turning = [Value(None, is_data)] * (len(operands) - first - second)
                inputs = [[*operands[:first], *turning]]
                inputs += [[*operands[first : first + second], *turning]]
            case Branches():
                inputs = [operands[1:]] * len(step.bodies)
            case _:
                inputs = [operands]
        results = [self._program(*each) for each in zip(step.bodies, inputs, strict=True)]
        return results[0] if isinstance(step.reading, Call) else []

    def _product(self, step: Step, of_data: bool) -> None:
        reading = step.reading
        assert isinstance(reading, at.Product)
        left, right = step.operands
        batch = [_free(left[i]) for i, _ in reading.batch]
        if not of_data:
            self._called("experts", *batch)
            return
        heads = [units for units in batch if units]
        if not heads:
            return
        for first, *rest in heads:
            self._called("heads", [first])
            self._called("queries", rest)
        summed = [_free(left[i]) for i, _ in reading.summed]
        self._called("head_dim", *summed)
        others = [_free(left[i]) for i in reading.left] + [_free(right[j]) for j in reading.right]
        self._called("queries" if any(summed) else "head_dim", *others)

    def _called(self, role: str, *blocks: Sequence[Block]) -> None:
        for units in blocks:
            for unit in units:
                self.of.setdefault(unit, role)


def _free(block: Block) -> list[Block]:
    """The units of a block that can be cut."""
    return [unit for unit in atoms(block) if unit.why is None]


def values_of(leaves: Sequence[Axes], inputs: Sequence[Axes]) -> list[Value]:
    """The values that a program begins with."""
    return [Value(k, False) for k in range(len(leaves))] + [Value(None, True)] * len(inputs)
