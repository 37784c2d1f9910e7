"""How much residual blocks change what they are added to, over data."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._errors import NoMatch, PruningError
from jaxprune._text import shown
from jaxprune._tree import arrays_in, some
from jaxprune.shrinking._depth import Place
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._models import Models
from jaxprune.shrinking._program import Body, Step
from jaxprune.tracing import _jax
from jaxprune.tracing._readings import Scan

Changes: TypeAlias = dict[str, tuple[float, ...]]
# For each block the sums of the changes of vectors, by layer, and of how many.
Totals: TypeAlias = dict[str, tuple[Any, Any]]


def changes_of(models: Models, params: Any, batches: Iterable[tuple[Any, ...]]) -> Changes:
    """The mean change of vectors of the stream by each block; see `Dependencies.changes`."""
    compiled: dict[int, Callable[[list[Any]], Totals]] = {}
    sums: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    for batch in batches:
        if not isinstance(batch, tuple):
            raise PruningError(
                f"a batch is a tuple of the inputs that follow params, got {shown(batch)}: write "
                "[(x,), ...]."
            )
        model = models.that_takes(params, batch)
        run = compiled.setdefault(id(model), _measuring(model))
        for name, (total, count) in run(arrays_in((params, batch))).items():
            sums[name] = sums.get(name, 0.0) + np.asarray(total, np.float64)
            counts[name] = counts.get(name, 0.0) + np.asarray(count, np.float64)
    if not compiled:
        raise NoMatch("there is no batch: pass tuples of inputs, as in [(x,), ...].")
    bad = [name for name, total in sums.items() if not np.isfinite(total).all()]
    if bad:
        raise PruningError(
            f"what {some(bad)} adds, or what it is added to, is not finite: look for NaN and "
            "infinity in the batches and in params."
        )
    order = [name for name in models.first.depth.blocks if name in sums]
    return {name: tuple((sums[name] / counts[name]).tolist()) for name in order}


def _measuring(model: Model) -> Callable[[list[Any]], Totals]:
    """The compiled program that measures all blocks that can be left out."""
    depth = model.depth
    names = [name for name, block in depth.blocks.items() if not block.refused]
    if not names:
        raise NoMatch("no block of this model can be left out: print(deps.blocks) says why.")
    at = {depth.places[name].step: (name, depth.places[name]) for name in names}
    opened = {call.step for call in depth.flow.calls if not call.inside.isdisjoint(at)}

    @jax.jit
    def run(arrays: list[Any]) -> Totals:
        totals: Totals = {}
        _run(model.body, arrays, at, opened, totals)
        return totals

    return run


def _run(
    body: Body,
    arrays: Sequence[Any],
    at: Mapping[Step, tuple[str, Place]],
    opened: Collection[Step],
    totals: Totals,
) -> list[Any]:
    """The results of a program; what blocks change is put into `totals`."""
    known: dict[Any, Any] = dict(zip(body.jaxpr.invars, arrays, strict=True))
    for variable, (value, _) in zip(body.jaxpr.constvars, body.constants, strict=True):
        known[variable] = value

    def read(variable: Any) -> Any:
        return variable.val if _jax.is_known(variable) else known[variable]

    for step in body.steps:
        operands = [read(variable) for variable in step.equation.invars]
        results: Sequence[Any]
        if step in opened:
            results = _run(step.bodies[0], operands, at, opened, totals)
        elif step not in at:
            results = _jax.run(step.equation, operands)
        else:
            name, place = at[step]
            if place.stream is None:
                results, totals[name] = _layers(step, place, operands)
            else:
                results = _jax.run(step.equation, operands)
                one = _change(operands[place.stream], results[0], place.streams[0][1])
                totals[name] = jnp.reshape(one[0], (1,)), jnp.reshape(one[1], (1,))
        known.update(zip(step.equation.outvars, results, strict=True))
    return [read(variable) for variable in body.jaxpr.outvars]


def _layers(
    step: Step, place: Place, operands: Sequence[Any]
) -> tuple[Sequence[Any], tuple[Any, Any]]:
    """The results of a scan over layers, and what each of these changes."""
    scan = step.reading
    assert isinstance(scan, Scan)
    depth = scan.constants + scan.carry
    constants = operands[: scan.constants]

    def turn(carry: list[Any], one: list[Any]) -> tuple[list[Any], tuple[Any, Any]]:
        after = _run(step.bodies[0], [*constants, *carry, *one], {}, (), {})
        each = [_change(carry[k], after[k], axes) for k, axes in place.streams]
        total, count = (sum(parts) for parts in zip(*each, strict=True))
        return after, (total, count)

    return lax.scan(
        turn,
        list(operands[scan.constants : depth]),
        list(operands[depth:]),
        length=scan.length,
        reverse=scan.reverse,
    )


def _change(before: Any, after: Any, axes: Sequence[int]) -> tuple[Any, Any]:
    """The sum over vectors of 1 - cosine, and how many vectors there are.

    It is half of the squared distance of the vectors of length 1, which keeps its digits where they
    are nearly the same.
    """
    one, other = (x.astype(jnp.float32) for x in (before, after))
    lengths = [jnp.sqrt(jnp.sum(x * x, axes, keepdims=True)) for x in (one, other)]
    directions = [x / jnp.where(n == 0, 1, n) for x, n in zip((one, other), lengths, strict=True)]
    change = jnp.sum(jnp.square(directions[0] - directions[1]), axes, keepdims=True) / 2
    # A vector of zeros has no direction: anything else is at a right angle to it.
    is_new = (lengths[0] == 0) != (lengths[1] == 0)
    change = jnp.where(is_new, 1.0, change)
    return jnp.sum(change), jnp.float32(change.size)
