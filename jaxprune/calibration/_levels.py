"""In which order weights can be pruned, and what has to be computed between.

The level of a weight is the longest count of weights on the way from the inputs to it. Weights of
one level do not wait for each other: queries, keys and values; then their output. Segment k of the
program is what is computed once the weights up to level k are pruned; at its end the inputs of
those of level k + 1 are known. An equation stands in the last segment that is early enough for
whoever reads it, so that few values are kept.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn, Var

from jaxprune.calibration._gathering import Gathering
from jaxprune.tracing import _jax
from jaxprune.tracing._trace import Program


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """A flat program in segments.

    Attributes:
        program: The program.
        gathering: What is gathered of it.
        of_met: For each of the gathering's `met` its level, from 1 on.
        segments: By number the equations of each segment, in their order.
        fixed: The equations that depend on no input, and so are run once.
        last_read: For each variable that depends on the inputs, the last segment that reads it.
    """

    program: Program
    gathering: Gathering
    of_met: tuple[int, ...]
    segments: tuple[tuple[JaxprEqn, ...], ...]
    fixed: tuple[JaxprEqn, ...]
    last_read: dict[Var, int]

    def of_group(self, group: int) -> int:
        """The level at which the last of a piece's inputs is known."""
        return max(self.of_met[k] for k in self.gathering.members[group])

    @property
    def inputs(self) -> Sequence[Var]:
        """The variables of a batch."""
        return _jax.opened(self.program.jaxpr).invars[len(self.program.leaves) :]


def levels_of(program: Program, gathering: Gathering) -> Levels:
    """Puts every equation of a flat program that a piece depends on into its segment."""
    jaxpr = _jax.opened(program.jaxpr)
    of_data: dict[Any, int] = dict.fromkeys(jaxpr.invars[len(program.leaves) :], 0)
    read_here: dict[int, list[int]] = {}  # which of `met` each equation reads, or holds
    for k, met in enumerate(gathering.met):
        read_here.setdefault(met.place.where[0], []).append(k)
    of_met = [0] * len(gathering.met)
    earliest: dict[int, int] = {}
    fixed = []
    for number, equation in enumerate(jaxpr.eqns):
        operands = variables(equation)
        if operands and not any(v in of_data for v in operands):
            fixed.append(equation)
            continue
        level = max((of_data[v] for v in operands if v in of_data), default=0)
        level += number in read_here
        for k in read_here.get(number, ()):
            of_met[k] = level
        earliest[number] = level
        of_data.update(dict.fromkeys(equation.outvars, level))

    # From the end: where each value is needed, and so the last segment in which it can be made.
    count = max(of_met)
    needed: dict[Any, int] = {}
    last_read: dict[Any, int] = {}
    segments: list[list[JaxprEqn]] = [[] for _ in range(count)]
    for number in sorted(earliest, reverse=True):
        equation = jaxpr.eqns[number]
        measured = _measured(gathering, read_here.get(number, ()), equation)
        for v in measured:
            _note(v, earliest[number] - 1, of_data, needed, last_read)
        wanted = [needed[out] for out in equation.outvars if out in needed]
        if wanted:
            at = earliest[number] if number in read_here else min(wanted)
            segments[at].append(equation)
            for v in variables(equation):
                _note(v, at, of_data, needed, last_read)
    ordered = tuple(tuple(reversed(segment)) for segment in segments)
    return Levels(program, gathering, tuple(of_met), ordered, tuple(fixed), last_read)


def variables(equation: JaxprEqn) -> list[Var]:
    """The operands of an equation that are no literal numbers."""
    return [v for v in equation.invars if isinstance(v, Var)]


def _measured(gathering: Gathering, here: Sequence[int], equation: JaxprEqn) -> list[Any]:
    """The operands that have to be known to measure an equation: not the weight itself."""
    operands: list[Any] = []
    for k in here:
        met = gathering.met[k]
        is_held = len(met.place.where) > 1
        for position, v in enumerate(equation.invars):
            if not _jax.is_known(v) and (is_held or position != met.operand):
                operands.append(v)
    return operands


def _note(
    v: Any, at: int, of_data: dict[Any, int], needed: dict[Any, int], last_read: dict[Any, int]
) -> None:
    if v in of_data:
        needed[v] = min(needed.get(v, at), at)
        last_read[v] = max(last_read.get(v, at), at)
