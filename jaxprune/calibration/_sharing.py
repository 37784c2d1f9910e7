"""Which leaves read one and the same activation: their statistics are gathered and stored once.

Every array of a program gets an identity that it keeps through calls, moves and changes of
precision, so that queries, keys and values are found to read one array although each product stands
in a function of its own.
"""

from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

from jax.extend.core import Var

from jaxprune.tracing import _jax
from jaxprune.tracing._moves import Pick, Unstack
from jaxprune.tracing._readings import AnyJaxpr, Branches, Call, Moved, Passed, Scan, While
from jaxprune.tracing._walk import Met

_Where: TypeAlias = tuple[int, ...]


def activations(program: AnyJaxpr, met: Sequence[Met]) -> list[Hashable]:
    """For each of `met` what its statistic depends on: equal where the statistics are.

    Args:
        program: The program that they were read from.
        met: Products and convolutions.
    """
    picks = {m.equation for one in met for m in one.part.moves or () if isinstance(m, Pick)}
    reader = _Identities({one.place.where for one in met} | picks)
    jaxpr = _jax.opened(program)
    reader.jaxpr(program, [("argument", k) for k in range(len(jaxpr.invars))], ())
    return [_key(one, reader.operands) for one in met]


def _key(met: Met, operands: dict[_Where, list[Hashable]]) -> Hashable:
    equation, roles = met.place.equations[-1], met.roles
    assert roles is not None
    mine = operands[met.place.where]
    turns = tuple(_turn(move, operands) for move in met.part.moves or ())
    common = mine[1 - met.operand], tuple(t for t in turns if t), met.use
    if met.use == "convolution":
        shape = _jax.shape_of(equation.invars[met.operand])
        window = tuple(shape[k] for k in roles.input)
        return *common, str(_jax.convolution_options(equation)), roles.groups, roles.input, window
    return *common, roles.other_batch, roles.other_input, *mine[2:]


def _turn(move: Any, operands: dict[_Where, list[Hashable]]) -> Hashable:
    if isinstance(move, Unstack):
        return move.loop
    if isinstance(move, Pick):
        return move.size, operands[move.equation][move.operand], move.component
    return None


class _Identities:
    """One pass over a program; `operands` are the identities at the places that were asked for."""

    def __init__(self, wanted: set[_Where]) -> None:
        self.wanted = wanted
        self.holders = {where[:k] for where in wanted for k in range(1, len(where))}
        self.operands: dict[_Where, list[Hashable]] = {}

    def jaxpr(
        self, program: AnyJaxpr, arguments: Sequence[Hashable], prefix: _Where
    ) -> list[Hashable]:
        """The identities of the results."""
        jaxpr = _jax.opened(program)
        known: dict[Var, Hashable] = {v: (prefix, k) for k, v in enumerate(jaxpr.constvars)}
        known.update(zip(jaxpr.invars, arguments, strict=True))

        def identity(variable: Any) -> Hashable:
            return ("number", str(variable)) if _jax.is_known(variable) else known[variable]

        for number, equation in enumerate(jaxpr.eqns):
            where = (*prefix, number)
            operands = [identity(variable) for variable in equation.invars]
            if where in self.wanted:
                self.operands[where] = operands
            known.update(
                zip(equation.outvars, self.results(equation, operands, where), strict=True)
            )
        return [identity(variable) for variable in jaxpr.outvars]

    def results(self, equation: Any, operands: list[Hashable], where: _Where) -> list[Hashable]:
        """The identities of what an equation gives: new ones, unless it gives what was there."""
        new: list[Hashable] = [(where, k, "result") for k in range(len(equation.outvars))]
        match _jax.read(equation):
            case Passed():
                return [
                    one if into.aval.dtype == out.aval.dtype else (str(out.aval.dtype), one)
                    for one, into, out in zip(
                        operands, equation.invars, equation.outvars, strict=False
                    )
                ]
            case Moved(moves) if len(operands) == 1:
                return [(each, operands[0]) for each in moves]
            case Call(jaxpr):
                return self.jaxpr(jaxpr, operands, (*where, 0))
            case Scan(jaxpr) if where in self.holders:
                self.inside(jaxpr, (*where, 0))
            case While(condition, body) if where in self.holders:
                self.inside(condition, (*where, 0))
                self.inside(body, (*where, 1))
            case Branches(jaxprs) if where in self.holders:
                for number, jaxpr in enumerate(jaxprs):
                    self.inside(jaxpr, (*where, number))
        return new

    def inside(self, program: AnyJaxpr, prefix: _Where) -> None:
        """A loop or a branch: what enters it has a meaning of its own there."""
        count = len(_jax.opened(program).invars)
        self.jaxpr(program, [(prefix, k, "argument") for k in range(count)], prefix)
