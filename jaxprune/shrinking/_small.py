"""Runs a program at the sizes that a cut leaves.

Only shapes, positions, counts and numbers of groups change. Numbers in the program stay as they
are, so the divisor of a mean, say, is that of the whole model: the result is that of the masked
model. Ranges and random numbers are made at full size, and what is left of them is taken.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.shrinking._program import Axes, Body, Step
from jaxprune.shrinking._remains import Remains, take
from jaxprune.tracing import _jax, _jax_layouts
from jaxprune.tracing import _layouts as at
from jaxprune.tracing._readings import Branches, Call, Scan, While

Results: TypeAlias = Callable[..., tuple[Any, ...]]


class Small:
    """Runs programs at the sizes that are left.

    Attributes:
        left: What is left of each block.
    """

    def __init__(self, left: Remains) -> None:
        self.left = left

    def run(self, body: Body, arrays: Sequence[Any]) -> list[Any]:
        """The results of a program.

        Args:
            body: The program.
            arrays: Its inputs, of the sizes that are left.
        """
        known: dict[Any, Any] = dict(zip(body.jaxpr.invars, arrays, strict=True))
        for variable, (value, axes) in zip(body.jaxpr.constvars, body.constants, strict=True):
            known[variable] = self.left.take(value, axes)

        def read(variable: Any, axes: Axes) -> Any:
            if _jax.is_known(variable):
                return self.left.take(variable.val, axes)
            # Only what is left out needs what is not there.
            return known.get(variable)

        for step in body.steps:
            if step in self.left.dropped.dead:
                continue
            operands = [
                read(variable, axes)
                for variable, axes in zip(step.equation.invars, step.operands, strict=True)
            ]
            results = self._step(step, operands)
            for result, axes in zip(results, step.results, strict=True):
                expected = () if result is None else self.left.shape(axes)
                assert np.shape(result) == expected, (step.equation, np.shape(result), expected)
            known.update(zip(step.equation.outvars, results, strict=True))
        return [
            read(variable, axes)
            for variable, axes in zip(body.jaxpr.outvars, body.outputs, strict=True)
        ]

    def _step(self, step: Step, operands: Sequence[Any]) -> Sequence[Any]:
        dropped = self.left.dropped
        if step in dropped.streams:
            return [operands[dropped.streams[step]]]
        whole = all(self.left.whole(axes) for axes in (*step.operands, *step.results))
        if whole and step not in dropped.opened:
            return _jax.run(step.equation, operands)
        return run_small(step.reading, step, operands, self)

    def shapes(self, step: Step) -> list[tuple[int, ...]]:
        """The shapes of a step's results."""
        return [self.left.shape(axes) for axes in step.results]


@functools.singledispatch
def run_small(reading: Any, step: Step, operands: Sequence[Any], small: Small) -> Sequence[Any]:
    """The results of an operation whose axes lose positions.

    By default it is run as it stands, for most primitives take their sizes from their operands.

    Args:
        reading: What the operation does.
        step: The operation.
        operands: Its operands, of the sizes that are left.
        small: What is left.
    """
    del reading
    groups = 1 if step.groups is None else int(np.count_nonzero(small.left.of(step.groups)))
    return _jax_layouts.run_resized(step.equation, operands, small.shapes(step), groups)


@run_small.register
def _(reading: at.Generated, step: Step, operands: Sequence[Any], small: Small) -> Sequence[Any]:
    whole = _jax.run(step.equation, operands)
    return [small.left.take(x, axes) for x, axes in zip(whole, step.results, strict=True)]


@run_small.register
def _(reading: at.Sliced, step: Step, operands: Sequence[Any], small: Small) -> Sequence[Any]:
    results = []
    for part, axes in zip(reading.parts, step.results, strict=True):
        result = operands[0]
        for k, (start, _, stride) in enumerate(part):
            before, after = small.left.of(step.operands[0][k]), small.left.of(axes[k])
            # Where each position lies now.
            places = np.cumsum(before) - 1
            result = take(result, places[start + stride * np.flatnonzero(after)], k)
        results.append(result)
    return results


@run_small.register
def _(reading: at.Padded, step: Step, operands: Sequence[Any], small: Small) -> Sequence[Any]:
    config: list[tuple[int, int, int]] = []
    for block, (before, after, between) in zip(step.results[0], reading.config, strict=True):
        if min(before, after) < 0 or between:
            config.append((before, after, between))
        else:
            kept = small.left.of(block)
            first, last = kept[:before], kept[len(kept) - after :]
            config.append((int(np.count_nonzero(first)), int(np.count_nonzero(last)), 0))
    return _jax_layouts.pad(step.equation, operands, tuple(config))


@run_small.register
def _(reading: Call, step: Step, operands: Sequence[Any], small: Small) -> Sequence[Any]:
    def run(*arrays: Any) -> tuple[Any, ...]:
        return tuple(small.run(step.bodies[0], arrays))

    options = _jax_layouts.remat_options(step.equation)
    if options is not None:
        return jax.checkpoint(run, **options)(*operands)
    if step.derivative is not None:
        return _with_forward_derivative(run, step, small)(*operands)
    if _jax_layouts.has_backward_derivative(step.equation):
        return _with_backward_derivative(run, step, small)(*operands)
    return run(*operands)


def _with_forward_derivative(run: Results, step: Step, small: Small) -> Results:
    """The function of a call, with the derivative of its own that it has."""
    assert step.derivative is not None
    derivative, body = step.derivative

    def along(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        moving = zip(tangents[derivative.fixed :], derivative.moving, strict=True)
        directions = [tangent for tangent, moves in moving if moves]
        outputs = small.run(body, [*primals[derivative.fixed :], *directions])
        results, moved = outputs[: len(step.results)], iter(outputs[len(step.results) :])
        out = (
            next(moved) if moves else _no_direction(result)
            for result, moves in zip(results, derivative.moved, strict=True)
        )
        return tuple(results), tuple(out)

    function = jax.custom_jvp(run)
    function.defjvp(along)
    return function


def _no_direction(result: Any) -> Any:
    is_float = jnp.issubdtype(result.dtype, jnp.inexact)
    return np.zeros(result.shape, result.dtype if is_float else jax.dtypes.float0)


def _with_backward_derivative(run: Results, step: Step, small: Small) -> Results:
    """The function of a call, with the backward derivative of its own that it has.

    How that one divides its residuals is not told. So it runs at full size, on operands that are
    zero where they were cut.
    """

    def filled(arrays: Sequence[Any], axes: Sequence[Axes]) -> list[Any]:
        return [small.left.put(x, a) for x, a in zip(arrays, axes, strict=True)]

    def forward(*arrays: Any) -> tuple[Any, Any]:
        return run(*arrays), arrays

    def backward(arrays: Any, directions: Any) -> tuple[Any, ...]:
        def whole(*operands: Any) -> tuple[Any, ...]:
            return tuple(_jax.run(step.equation, operands))

        _, back = jax.vjp(whole, *filled(arrays, step.operands))
        wide = back(tuple(filled(directions, step.results)))
        return tuple(
            x if x.dtype == jax.dtypes.float0 else small.left.take(x, axes)
            for x, axes in zip(wide, step.operands, strict=True)
        )

    function = jax.custom_vjp(run)
    function.defvjp(forward, backward)
    return function


@run_small.register
def _(reading: Scan, step: Step, operands: Sequence[Any], small: Small) -> Sequence[Any]:
    depth = reading.constants + reading.carry
    constants = operands[: reading.constants]

    def turn(carry: list[Any], one: list[Any]) -> tuple[list[Any], list[Any]]:
        results = small.run(step.bodies[0], [*constants, *carry, *one])
        return results[: reading.carry], results[reading.carry :]

    assert step.turns is not None
    carry, stacked = lax.scan(
        turn,
        list(operands[reading.constants : depth]),
        list(operands[depth:]),
        length=int(np.count_nonzero(small.left.of(step.turns))),
        reverse=reading.reverse,
        unroll=_jax_layouts.unroll(step.equation),
    )
    return [*carry, *stacked]


@run_small.register
def _(reading: While, step: Step, operands: Sequence[Any], small: Small) -> Sequence[Any]:
    first, second = reading.condition_constants, reading.body_constants
    condition, body = step.bodies
    return lax.while_loop(
        lambda carry: small.run(condition, [*operands[:first], *carry])[0],
        lambda carry: small.run(body, [*operands[first : first + second], *carry]),
        list(operands[first + second :]),
    )


@run_small.register
def _(reading: Branches, step: Step, operands: Sequence[Any], small: Small) -> Sequence[Any]:
    def branch(body: Body) -> Callable[..., list[Any]]:
        return lambda *arrays: small.run(body, arrays)

    return lax.switch(operands[0], [branch(body) for body in step.bodies], *operands[1:])
