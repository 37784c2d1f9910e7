"""A program whose values have their axes written on them as blocks."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from jax.extend.core import Jaxpr, JaxprEqn

from jaxprune.shrinking._blocks import Block, Misfit, join, pin, units
from jaxprune.tracing import _jax, _jax_layouts
from jaxprune.tracing._jax_layouts import ForwardDerivative, Reading
from jaxprune.tracing._readings import AnyJaxpr

Axes: TypeAlias = tuple[Block, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Why:
    """Why units cannot be cut.

    Attributes:
        words: The reason.
        equations: The equation that says so, and those that hold it, outermost first.
        no_units: Whether the positions are no units at all: those of a window, the layers of a
            stack.
    """

    words: str
    equations: tuple[JaxprEqn, ...] = ()
    no_units: bool = False

    def __str__(self) -> str:
        source = _jax.source(self.equations) if self.equations else ""
        return f"{self.words} at {source}" if source else self.words


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Step:
    """One equation of a program.

    Attributes:
        equation: The equation.
        reading: What it does.
        equations: Itself, and those that hold it, outermost first.
        operands: The axes of its operands.
        results: The axes of its results.
        bodies: The programs that it runs.
        groups: Of a convolution in groups, the groups.
        turns: Of a scan, its turns: the axis along which it takes its operands apart.
        derivative: Of a call with a forward derivative of its own: that, and its program.
    """

    equation: JaxprEqn
    reading: Reading
    equations: tuple[JaxprEqn, ...]
    operands: list[Axes]
    results: list[Axes]
    bodies: list["Body"] = dataclasses.field(default_factory=list)
    groups: Block | None = None
    turns: Block | None = None
    derivative: "tuple[ForwardDerivative, Body] | None" = None


@dataclasses.dataclass(slots=True, repr=False)
class Body:
    """A jaxpr, where one equation runs it: another call of the same jaxpr has axes of its own.

    Attributes:
        jaxpr: The jaxpr.
        inputs: The axes of its inputs.
        constants: Its constants, and their axes.
        steps: Its equations.
        outputs: The axes of its results.
    """

    jaxpr: Jaxpr
    inputs: list[Axes]
    constants: list[tuple[Any, Axes]]
    steps: list[Step]
    outputs: list[Axes]

    def all_steps(self, turns: Axes = ()) -> Iterator[tuple[Step, Axes]]:
        """Every step, those inside of others too, with the turns of the scans that hold it."""
        for step in self.steps:
            yield step, turns
            inside = turns if step.turns is None else (*turns, step.turns)
            for body in step.bodies:
                yield from body.all_steps(inside)


class Place:
    """One equation while its axes are being coupled: what a rule for it works with."""

    def __init__(self, step: Step, *, is_derivative: bool = False) -> None:
        self.step = step
        # The derivative of a call may hold that call: derivatives of those are left alone.
        self.is_derivative = is_derivative

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the results."""
        return [_jax.shape_of(variable) for variable in self.step.equation.outvars]

    def why(self, words: str, *, no_units: bool = False) -> Why:
        """A reason that names this equation."""
        return Why(words, self.step.equations, no_units)

    def pin(self, block: Block, words: str, *, no_units: bool = False) -> None:
        """Lets none of the positions of a block be cut."""
        pin(block, self.why(words, no_units=no_units))

    def pinned(self, size: int, words: str, *, no_units: bool = False) -> Block:
        """New positions that cannot be cut."""
        return units(size, self.why(words, no_units=no_units))

    def join(self, one: Block, other: Block) -> None:
        """Makes two blocks one."""
        join(one, other, self.why("axes that do not divide into the same parts meet"))

    def run(self, jaxpr: AnyJaxpr, inputs: Sequence[Axes]) -> list[Axes]:
        """Couples the axes of a program that the equation runs on these inputs."""
        body = couple_program(jaxpr, inputs, self.step.equations, is_derivative=self.is_derivative)
        self.step.bodies.append(body)
        return list(body.outputs)

    def derive(self, operands: Sequence[Axes], results: Sequence[Axes]) -> None:
        """Couples the axes of the forward derivative that a call has of its own.

        A direction has the axes of what it is a direction of.
        """
        forward_rule = None
        if not self.is_derivative:
            forward_rule = _jax_layouts.forward_derivative(self.step.equation)
        if forward_rule is None:
            return
        own = operands[forward_rule.fixed :]
        directions = [axes for axes, moves in zip(own, forward_rule.moving, strict=True) if moves]
        body = couple_program(
            forward_rule.program, [*own, *directions], self.step.equations, is_derivative=True
        )
        expected = [
            *results,
            *(axes for axes, m in zip(results, forward_rule.moved, strict=True) if m),
        ]
        for one, other in zip(expected, body.outputs, strict=True):
            for block, too in zip(one, other, strict=True):
                self.join(block, too)
        self.step.derivative = forward_rule, body


def fresh(shape: Iterable[int]) -> Axes:
    """Axes that nothing is known about."""
    return tuple(units(int(size)) for size in shape)


def couple_program(
    program: AnyJaxpr,
    inputs: Sequence[Axes],
    within: tuple[JaxprEqn, ...] = (),
    *,
    is_derivative: bool = False,
) -> Body:
    """Reads which axes of a program's values belong together.

    Args:
        program: The program.
        inputs: The axes of its inputs.
        within: The equations that hold it, outermost first.
        is_derivative: Whether it is the derivative of a call.
    """
    jaxpr = _jax.opened(program)
    constants = [(value, fresh(getattr(value, "shape", ()))) for value in _jax.constants(program)]
    known: dict[Any, Axes] = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= dict(zip(jaxpr.constvars, (axes for _, axes in constants), strict=True))

    def axes_of(variable: Any) -> Axes:
        return fresh(_jax.shape_of(variable)) if _jax.is_known(variable) else known[variable]

    steps = []
    alive, _ = _jax.live(jaxpr, [True] * len(jaxpr.outvars))
    # What nobody reads couples nothing: a pooler, say, whose result is left unused.
    for equation in (eqn for eqn, is_read in zip(jaxpr.eqns, alive, strict=True) if is_read):
        operands = [axes_of(variable) for variable in equation.invars]
        reading = _jax_layouts.read(equation)
        step = Step(equation, reading, (*within, equation), operands, [])
        step.results = _coupled(step, is_derivative)
        shapes = [tuple(block.size for block in axes) for axes in step.results]
        assert shapes == Place(step).shapes, (equation.primitive.name, shapes, Place(step).shapes)
        steps.append(step)
        known.update(zip(equation.outvars, step.results, strict=True))
    return Body(
        jaxpr, list(inputs), constants, steps, [axes_of(variable) for variable in jaxpr.outvars]
    )


def _coupled(step: Step, is_derivative: bool) -> list[Axes]:
    from jaxprune.shrinking._couple import couple  # noqa: PLC0415  # it registers rules on these

    place = Place(step, is_derivative=is_derivative)
    try:
        return couple(step.reading, place, step.operands)
    except Misfit:
        words = f"{step.equation.primitive.name} does not divide its axes into whole parts"
        return pin_all(place, words)


def pin_all(place: Place, words: str) -> list[Axes]:
    """Lets nothing be cut that goes into an equation or comes out of it."""
    for axes in place.step.operands:
        for block in axes:
            place.pin(block, words)
    return [tuple(place.pinned(size, words) for size in shape) for shape in place.shapes]


def total(shape: Iterable[int]) -> int:
    """How many entries a shape has."""
    return math.prod(shape)
