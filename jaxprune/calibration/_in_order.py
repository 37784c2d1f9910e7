"""Prunes weights as they are reached, so that each is chosen by what the pruned ones give it."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Var

from jaxprune._errors import raise_problems
from jaxprune._kernels.sharding import placed
from jaxprune._progress import Bar
from jaxprune._tree import arrays_in, as_array
from jaxprune.calibration._calibrate import kind_of, refuse_other
from jaxprune.calibration._flat import flattened
from jaxprune.calibration._gathering import (
    chosen_pieces,
    gathering_of,
    refuse_infinite,
    refuse_large,
)
from jaxprune.calibration._levels import Levels, levels_of, variables
from jaxprune.calibration._methods import (
    Done,
    Job,
    Method,
    check_spec,
    gather_of,
    per_output,
    pruned,
)
from jaxprune.calibration._pieces import Piece
from jaxprune.calibration._segments import Segments
from jaxprune.calibration._statistics import Sums, add, completed
from jaxprune.tracing import _jax
from jaxprune.tracing._trace import Program


class Weights:
    """The leaves as they are pruned, box by box, and their masks; the originals stay as they were.

    Attributes:
        values: The leaves.
        masks: By number of the leaf its mask.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = [as_array(value) for value in values]
        self.masks: dict[int, jax.Array] = {}

    def put(self, piece: Piece, done: Done) -> None:
        """Takes over a pruned piece."""
        k = piece.number
        leaf, is_new = self.values[k], k not in self.masks
        if piece.is_whole:
            self.values[k], self.masks[k] = placed(done.box, leaf), placed(done.kept, leaf)
            return
        mask = placed(jnp.ones(leaf.shape, bool), leaf) if is_new else self.masks[k]
        # The first time a copy is made; it is ours, and later boxes are written into it.
        write = _copied if is_new else _written
        self.values[k] = write(leaf, done.box, piece.start)
        self.masks[k] = _written(mask, done.kept, piece.start)


def _with_box(leaf: jax.Array, box: jax.Array, start: tuple[int, ...]) -> jax.Array:
    return lax.dynamic_update_slice(leaf, box.astype(leaf.dtype), start)


_copied = jax.jit(_with_box)
_written = partial(jax.jit, donate_argnums=0)(_with_box)


def prune_jobs(method: Method, jobs: Sequence[Job], weights: Weights, bar: Bar) -> None:
    """Prunes pieces, those together that one array holds side by side."""
    together: dict[Hashable, list[Job]] = {}
    for job in jobs:
        together.setdefault(job.piece.places, []).append(job)
    for members in together.values():
        for job, done in zip(members, pruned(method, members), strict=True):
            weights.put(job.piece, done)
            bar.update(job.piece.size)


@dataclasses.dataclass(slots=True, eq=False)
class _Batch:
    """One batch on its way through the model.

    Attributes:
        levels: Its program.
        values: What is known of it and will be read again.
    """

    levels: Levels
    values: dict[Var, Any]


def prune_in_order(
    programs: Mapping[Hashable, Program],
    params: Any,
    batches: Sequence[tuple[Any, ...]],
    *,
    specs: Mapping[str, Any],
    method: Method,
    max_bytes: int,
    bar: Bar,
) -> Weights:
    """Prunes the leaves level by level.

    Args:
        programs: For each kind of batch the program.
        params: The parameters.
        batches: All of the batches.
        specs: By path the spec of each leaf that is pruned.
        method: How.
        max_bytes: How much memory the Grams of one level may take.
        bar: Told of each weight.
    """
    gather = gather_of(method)
    known: dict[Hashable, Levels] = {}
    for batch in batches:
        kind = kind_of(params, batch)
        if kind not in known:
            known[kind] = _levels(programs[kind], arrays_in((params, batch)), specs)
    first = next(iter(known.values()))
    for other in known.values():
        refuse_other(first.gathering, other.gathering)
    pieces = first.gathering.pieces
    raise_problems(check_spec(method, _spec(specs, piece), piece, "sequential") for piece in pieces)
    weights = Weights([leaf.value for leaf in first.program.leaves])
    segments, waiting = Segments(gather), dict[int, Sums]()
    running = [_started(known[kind_of(params, batch)], params, batch) for batch in batches]
    count = len(first.segments)
    for number in range(count):
        _advance(running, number, segments, weights, waiting)
        ready = [
            k
            for k, group in enumerate(first.gathering.group)
            if first.of_group(group) == number + 1
        ]
        gathering = dataclasses.replace(
            first.gathering,
            pieces=tuple(pieces[k] for k in ready),
            group=tuple(first.gathering.group[k] for k in ready),
        )
        if gather == "gram":
            refuse_large(gathering, max_bytes)
        sums = {
            group: completed(first.gathering.summed(group, waiting))
            for group in dict.fromkeys(gathering.group)
        }
        refuse_infinite(gathering, sums)
        jobs = [
            Job(piece, piece.cut(weights.values[piece.number]), sums[group], _spec(specs, piece))
            for piece, group in zip(gathering.pieces, gathering.group, strict=True)
        ]
        prune_jobs(method, jobs, weights, bar)
        for k in [k for k in waiting if _is_over(first, k, number + 1)]:
            del waiting[k]
    return weights


def _levels(program: Program, arrays: Sequence[Any], specs: Mapping[str, Any]) -> Levels:
    asked = chosen_pieces(program, lambda path: path in specs)
    flat = flattened(program, arrays, asked)
    pieces = chosen_pieces(flat, lambda path: path in specs)
    return levels_of(flat, gathering_of(flat, pieces))


def _spec(specs: Mapping[str, Any], piece: Piece) -> Any:
    return per_output(specs[piece.leaf.path], piece)


def _started(levels: Levels, params: Any, batch: tuple[Any, ...]) -> _Batch:
    arrays = arrays_in((params, batch))[len(levels.program.leaves) :]
    values = dict(zip(levels.inputs, arrays, strict=True))
    return _Batch(levels, {v: x for v, x in values.items() if v in levels.last_read})


def _advance(
    running: Sequence[_Batch],
    number: int,
    segments: Segments,
    weights: Weights,
    waiting: dict[int, Sums],
) -> None:
    """Runs one segment on every batch, and adds up what was measured."""
    fixed: dict[int, dict[Any, Any]] = {}
    for batch in running:
        levels = batch.levels
        segment = segments.segment(levels, number)
        if id(levels) not in fixed:
            wanted = [v for v in segment.inputs if v not in batch.values]
            fixed[id(levels)] = _fixed(levels, wanted, weights)
        values = fixed[id(levels)] | batch.values
        outputs, measurements = segment.run([values[v] for v in segment.inputs])
        for k, sums in zip(segment.measured, measurements, strict=True):
            waiting[k] = add(waiting[k], sums) if k in waiting else sums
        batch.values.update(zip(segment.outputs, outputs, strict=True))
        for v in [v for v in batch.values if levels.last_read[v] <= number]:
            del batch.values[v]


def _fixed(levels: Levels, wanted: Sequence[Any], weights: Weights) -> dict[Any, Any]:
    """The values that depend on no input, with the weights as they are now."""
    jaxpr = _jax.opened(levels.program.jaxpr)
    values: dict[Any, Any] = dict(zip(jaxpr.invars, weights.values, strict=False))
    values.update(zip(jaxpr.constvars, _jax.constants(levels.program.jaxpr), strict=True))
    needed, order = set(wanted), []
    for equation in reversed(levels.fixed):
        if not needed.isdisjoint(equation.outvars):
            needed.update(variables(equation))
            order.append(equation)
    for equation in reversed(order):
        operands = [values[v] if isinstance(v, Var) else v.val for v in equation.invars]
        values.update(zip(equation.outvars, _jax.run(equation, operands), strict=True))
    return {v: values[v] for v in wanted}


def _is_over(levels: Levels, met: int, level: int) -> bool:
    """Whether everything that a measurement is for has been pruned."""
    return all(
        levels.of_group(group) <= level
        for group, members in enumerate(levels.gathering.members)
        if met in members
    )
