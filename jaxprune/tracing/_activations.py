"""Runs a program and measures, at each place where a leaf is read, what it is read with.

The program is evaluated as it stands, equation by equation, so that nothing about a model has to be
known. Calls are opened where they hold a place of interest; loops are run as loops, with what is
measured collected along the way: stacked, where the loop takes the leaf apart, else summed up.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Var

from jaxprune.tracing import _jax
from jaxprune.tracing._moves import Pick, Unstack
from jaxprune.tracing._readings import AnyJaxpr, Branches, Call, Scan, While
from jaxprune.tracing._walk import Met

# A tree of arrays, the same for the same `Met` whatever the operands' values are.
Measured: TypeAlias = Any
Measure: TypeAlias = Callable[[Met, Sequence[jax.Array]], Measured]

Where: TypeAlias = tuple[int, ...]


def run_measured(
    program: AnyJaxpr, arrays: Sequence[Any], met: Sequence[Met], measure: Measure
) -> tuple[list[Any], list[Measured]]:
    """The program's results, and what `measure` says at each of `met`, summed over all turns.

    A leaf that loops take apart has a leading dimension for each of them, in the order in which its
    moves name them.

    Args:
        program: The program.
        arrays: Its arguments.
        met: Where to measure.
        measure: Called with one of `met` and the operands of its equation.
    """
    run = _Run(met, measure)
    results, measurements = run.program(program, arrays, ())
    measurements = run.placed(measurements, ())
    return results, [measurements[k] for k in range(len(met))]


class _Run:
    def __init__(self, met: Sequence[Met], measure: Measure) -> None:
        self.met, self.measure = met, measure
        self.at: dict[Where, list[int]] = {}
        self.loops: set[Where] = set()
        # The operands of the equations that pick one layer of a stack: the index is among them.
        self.picked: dict[Where, Sequence[Any]] = {}
        for k, one in enumerate(met):
            where = one.place.where
            self.at.setdefault(where, []).append(k)
            for depth, equation in enumerate(one.place.equations[:-1]):
                if isinstance(_jax.read(equation), Scan | While):
                    self.loops.add(where[: 2 * depth + 2])
        self.picks = {
            move.equation for m in met for move in m.part.moves or () if isinstance(move, Pick)
        }
        self.holders = {
            where[:k] for where in (*self.at, *self.picks) for k in range(1, len(where))
        }

    def program(
        self, program: AnyJaxpr, arguments: Sequence[Any], prefix: Where
    ) -> tuple[list[Any], dict[int, Measured]]:
        """Evaluates a jaxpr that stands at `prefix`."""
        jaxpr = _jax.opened(program)
        known: dict[Var, Any] = dict(zip(jaxpr.constvars, _jax.constants(program), strict=True))
        known.update(zip(jaxpr.invars, arguments, strict=True))

        def value(variable: Any) -> Any:
            return variable.val if _jax.is_known(variable) else known[variable]

        measurements: dict[int, Measured] = {}
        for number, equation in enumerate(jaxpr.eqns):
            where = (*prefix, number)
            operands = [value(variable) for variable in equation.invars]
            if where in self.picks:
                self.picked[where] = operands
            for k in self.at.get(where, ()):
                measurements[k] = self.measure(self.met[k], operands)
            if where in self.holders:
                results, inner = self.inside(_jax.read(equation), operands, where)
                measurements |= inner
            else:
                results = _jax.run(equation, operands)
            known.update(zip(equation.outvars, results, strict=True))
        return [value(variable) for variable in jaxpr.outvars], measurements

    def inside(
        self, reading: Any, operands: Sequence[Any], where: Where
    ) -> tuple[Sequence[Any], dict[int, Measured]]:
        """Evaluates an equation that holds a place of interest."""
        match reading:
            case Call(jaxpr):
                return self.program(jaxpr, operands, (*where, 0))
            case Scan():
                return self.scan(reading, operands, where)
            case While():
                return self.while_loop(reading, operands, where)
            case Branches():
                return self.branches(reading, operands, where)
        raise AssertionError("only calls, loops and branches hold what was read")

    def turn(
        self, body: AnyJaxpr, arguments: Sequence[Any], prefix: Where
    ) -> tuple[list[Any], dict[int, Measured]]:
        """One turn of a loop."""
        results, measurements = self.program(body, arguments, prefix)
        return results, self.placed(measurements, prefix)

    def placed(self, measurements: dict[int, Measured], loop: Where) -> dict[int, Measured]:
        """What one turn has found, put at the index that it picked, among zeros for the others."""
        return {k: self.at_index(self.met[k], one, loop) for k, one in measurements.items()}

    def at_index(self, met: Met, measurement: Measured, loop: Where) -> Measured:
        for move in reversed(met.part.moves or ()):
            if isinstance(move, Pick) and self.loop_of(move.equation) == loop:
                index = self.picked[move.equation][move.operand]
                index = index if move.component is None else index[move.component]
                measurement = jax.tree.map(partial(_among_zeros, index, move.size), measurement)
        return measurement

    def loop_of(self, where: Where) -> Where:
        """The innermost loop around an equation."""
        around = [where[:k] for k in range(len(where)) if where[:k] in self.loops]
        return around[-1] if around else ()

    def scan(
        self, scan: Scan, operands: Sequence[Any], where: Where
    ) -> tuple[Sequence[Any], dict[int, Measured]]:
        constants = list(operands[: scan.constants])
        carry = list(operands[scan.constants : scan.constants + scan.carry])
        apart = list(operands[scan.constants + scan.carry :])

        def stacks(k: int) -> bool:
            return Unstack(where) in (self.met[k].part.moves or ())

        def one(carry: list[Any], now: list[Any]) -> tuple[list[Any], dict[int, Measured]]:
            return self.turn(scan.jaxpr, [*constants, *carry, *now], (*where, 0))

        def body(state: Any, now: list[Any]) -> Any:
            carry, sums = state
            results, measurements = one(carry, now)
            sums = {k: jax.tree.map(jnp.add, sums[k], measurements[k]) for k in sums}
            stacked = {k: v for k, v in measurements.items() if stacks(k)}
            return (results[: scan.carry], sums), (results[scan.carry :], stacked)

        first = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in apart]
        shapes = jax.eval_shape(lambda c, x: one(c, x)[1], carry, first)
        zeros = _zeros({k: v for k, v in shapes.items() if not stacks(k)})
        (carry, sums), (rest, stacked) = lax.scan(
            body, (carry, zeros), apart, length=scan.length, reverse=scan.reverse
        )
        return [*carry, *rest], sums | stacked

    def while_loop(
        self, loop: While, operands: Sequence[Any], where: Where
    ) -> tuple[Sequence[Any], dict[int, Measured]]:
        split = loop.condition_constants + loop.body_constants
        of_test = list(operands[: loop.condition_constants])
        of_body = list(operands[loop.condition_constants : split])

        def test(state: Any) -> Any:
            return self.program(loop.condition, [*of_test, *state[0]], (*where, 0))[0][0]

        def one(carry: list[Any]) -> tuple[list[Any], dict[int, Measured]]:
            return self.turn(loop.body, [*of_body, *carry], (*where, 1))

        def body(state: Any) -> Any:
            results, measurements = one(state[0])
            return results, jax.tree.map(jnp.add, state[1], measurements)

        carry = list(operands[split:])
        zeros = _zeros(jax.eval_shape(lambda c: one(c)[1], carry))
        results, measurements = lax.while_loop(test, body, (carry, zeros))
        return results, measurements

    def branches(
        self, cond: Branches, operands: Sequence[Any], where: Where
    ) -> tuple[Sequence[Any], dict[int, Measured]]:
        def of(number: int) -> Callable[[list[Any]], tuple[list[Any], dict[int, Measured]]]:
            return lambda rest: self.program(cond.jaxprs[number], rest, (*where, number))

        rest, every = list(operands[1:]), range(len(cond.jaxprs))
        shapes: dict[int, Measured] = {}
        for number in every:
            shapes |= jax.eval_shape(lambda r, n=number: of(n)(r)[1], rest)

        def filled(number: int) -> Callable[[list[Any]], Any]:
            def run(rest: list[Any]) -> Any:
                results, measurements = of(number)(rest)
                return results, _zeros(shapes) | measurements

            return run

        results, measurements = lax.switch(operands[0], [filled(number) for number in every], rest)
        return results, measurements


def _among_zeros(index: jax.Array, size: int, x: jax.Array) -> jax.Array:
    return jnp.zeros((size, *x.shape), x.dtype).at[index].set(x)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
