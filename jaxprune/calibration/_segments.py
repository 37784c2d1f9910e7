"""Runs a segment of a flat program on one batch, and measures what its last values are.

Segments that read the same are compiled once: the layers of a model, however many there are.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Var

from jaxprune.calibration._levels import Levels, variables
from jaxprune.calibration._statistics import Gather, Sums, measure_of
from jaxprune.tracing import _jax
from jaxprune.tracing._activations import run_measured
from jaxprune.tracing._moves import Pick, Unstack
from jaxprune.tracing._walk import Met, Place

_Measure: TypeAlias = Callable[[Met, Sequence[Any]], Sums]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One segment.

    Attributes:
        inputs: What it reads: of the inputs, of earlier segments, and what is fixed.
        outputs: What later segments read.
        measured: Which of the gathering's `met` it measures.
        run: From the values of the inputs to those of the outputs, and the sums.
    """

    inputs: tuple[Var, ...]
    outputs: tuple[Var, ...]
    measured: tuple[int, ...]
    run: Callable[[list[Any]], tuple[list[Any], list[Sums]]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A segment as it stands in its program.

    Attributes:
        jaxpr: The program.
        inputs: What the segment reads.
        outputs: What it hands on.
        equations: Its equations.
        met: What is measured at its end.
        at: For each of these its equation.
    """

    jaxpr: Jaxpr
    inputs: tuple[Var, ...]
    outputs: tuple[Var, ...]
    equations: tuple[JaxprEqn, ...]
    met: tuple[Met, ...]
    at: tuple[JaxprEqn, ...]

    def text(self) -> str:
        """Equal for segments that compute and measure the same."""
        weights = [_weight(met, equation) for met, equation in zip(self.met, self.at, strict=True)]
        others = dict.fromkeys(v for v in weights if v is not None and v not in self.inputs)
        program = _jax.part_of(
            self.jaxpr, [*self.inputs, *others], self.outputs, [*self.equations, *self.at]
        )
        return f"{program}\n{[_way(met) for met in self.met]}"

    def run(self, measure: _Measure, values: list[Any]) -> tuple[list[Any], list[Sums]]:
        """From the values of the inputs to those of the outputs, and the sums."""
        known: dict[Any, Any] = dict(zip(self.inputs, values, strict=True))

        def value(variable: Any) -> Any:
            return variable.val if _jax.is_known(variable) else known[variable]

        for equation in self.equations:
            results = _jax.run(equation, [value(v) for v in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        measurements: dict[int, Sums] = {}
        for number in dict.fromkeys(met.place.where[0] for met in self.met):
            here = [k for k, met in enumerate(self.met) if met.place.where[0] == number]
            equation = self.at[here[0]]
            if _weight(self.met[here[0]], equation) is None:
                # A loop or a branch is run with its weights as they are, to see what they meet.
                held = list(dict.fromkeys(variables(equation)))
                program = _jax.part_of(self.jaxpr, held, equation.outvars, [equation])
                inner = [_as_first(self.met[k]) for k in here]
                sums = run_measured(program, [known[v] for v in held], inner, measure)[1]
            else:
                sums = [measure(self.met[k], _operands(self.met[k], equation, value)) for k in here]
            measurements.update(zip(here, sums, strict=True))
        return [known[v] for v in self.outputs], [measurements[k] for k in range(len(self.met))]


class Segments:
    """The compiled segments of all programs."""

    def __init__(self, gather: Gather) -> None:
        self.measure = measure_of(gather)
        self.compiled: dict[str, Callable[[list[Any]], tuple[list[Any], list[Sums]]]] = {}

    def segment(self, levels: Levels, number: int) -> Segment:
        """A segment, compiled unless one of the same text was."""
        jaxpr = _jax.opened(levels.program.jaxpr)
        equations = levels.segments[number]
        measured = tuple(k for k, level in enumerate(levels.of_met) if level == number + 1)
        met = tuple(levels.gathering.met[k] for k in measured)
        at = tuple(jaxpr.eqns[one.place.where[0]] for one in met)
        results = {out for equation in equations for out in equation.outvars}
        read = [v for equation in equations for v in variables(equation)]
        for one, equation in zip(met, at, strict=True):
            read += [v for v in variables(equation) if v is not _weight(one, equation)]
        inputs = tuple(dict.fromkeys(v for v in read if v not in results))
        outputs = tuple(
            out
            for equation in equations
            for out in equation.outvars
            if levels.last_read.get(out, -1) > number
        )
        part = _Part(jaxpr, inputs, outputs, equations, met, at)
        text = part.text()
        if text not in self.compiled:
            self.compiled[text] = jax.jit(partial(part.run, self.measure))
        return Segment(inputs, outputs, measured, self.compiled[text])


def _weight(met: Met, equation: JaxprEqn) -> Any:
    """The operand that holds the weight, of which only the shape is read; None if it is inside."""
    return equation.invars[met.operand] if len(met.place.where) == 1 else None


def _way(met: Met) -> Any:
    """What tells the measure of one equation from another's, but for the equation itself."""
    inner = _as_first(met)
    moves = [move for move in inner.part.moves or () if isinstance(move, Unstack | Pick)]
    return inner.place.where, met.operand, met.roles, moves


def _operands(met: Met, equation: JaxprEqn, value: Callable[[Any], Any]) -> list[Any]:
    """Those of an equation, the weight only described."""
    weight = _weight(met, equation)
    return [
        jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) if v is weight else value(v)
        for v in equation.invars
    ]


def _as_first(met: Met) -> Met:
    """The same in a program in which the outermost equation is the first."""

    def first(where: tuple[int, ...]) -> tuple[int, ...]:
        return (0, *where[1:])

    moves = tuple(
        Unstack(first(move.loop))
        if isinstance(move, Unstack)
        else dataclasses.replace(move, equation=first(move.equation))
        if isinstance(move, Pick)
        else move
        for move in met.part.moves or ()
    )
    place: Place = dataclasses.replace(met.place, where=first(met.place.where))
    return dataclasses.replace(met, part=dataclasses.replace(met.part, moves=moves), place=place)
