"""A model as one flat list of equations, so that weights can be pruned between any two of them.

Calls are opened, and the loops that take stacked layers apart are unrolled. Loops that read one
kernel at every turn, `while` loops and branches stay as they are.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Var

from jaxprune.calibration._pieces import Piece
from jaxprune.tracing import _jax
from jaxprune.tracing._moves import Pick, Unstack
from jaxprune.tracing._readings import AnyJaxpr, Call, Scan
from jaxprune.tracing._trace import Program, program_of
from jaxprune.tracing._walk import Met

_Where = tuple[int, ...]

_COUNTS = ("bool", "int32", "int64", "uint32", "uint64")


def flattened(program: Program, arrays: Sequence[Any], pieces: Sequence[Piece]) -> Program:
    """The same program, flat.

    Args:
        program: The program.
        arrays: Its arguments.
        pieces: Those that are to be pruned one after another.
    """
    loops = {loop for piece in pieces for met in piece.met for loop in _layers(met)}

    def flat(*arrays: Any) -> list[Any]:
        return _run(program.jaxpr, arrays, (), loops)

    return program_of(jax.make_jaxpr(flat)(*arrays), program.leaves)


def _layers(met: Met) -> list[_Where]:
    """The loops each turn of which reads another layer of the leaf."""
    scans = [
        met.place.where[: 2 * depth + 1]
        for depth, equation in enumerate(met.place.equations[:-1])
        if isinstance(_jax.read(equation), Scan)
    ]
    loops = []
    for move in met.part.moves or ():
        if isinstance(move, Unstack):
            loops.append(move.loop)
        elif isinstance(move, Pick):
            loops += [loop for loop in scans if move.equation[: len(loop)] == loop][-1:]
    return loops


def _run(
    program: AnyJaxpr, arguments: Sequence[Any], prefix: _Where, loops: set[_Where]
) -> list[Any]:
    """Evaluates a program, to be traced again."""
    jaxpr = _jax.opened(program)
    known: dict[Var, Any] = dict(zip(jaxpr.constvars, _jax.constants(program), strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def value(variable: Any) -> Any:
        return variable.val if _jax.is_known(variable) else known[variable]

    for number, equation in enumerate(jaxpr.eqns):
        where = (*prefix, number)
        operands = [value(variable) for variable in equation.invars]
        results: Sequence[Any]
        match _jax.read(equation):
            case Call(inner):
                results = _run(inner, operands, (*where, 0), loops)
            case Scan() as scan if where in loops:
                results = _unrolled(scan, operands, where, loops)
            case _ if _is_index(equation, operands):
                results = _index(equation, operands)
            case _:
                results = _jax.run(equation, operands)
        known.update(zip(equation.outvars, results, strict=True))
    return [value(variable) for variable in jaxpr.outvars]


def _unrolled(
    scan: Scan, operands: Sequence[Any], where: _Where, loops: set[_Where]
) -> Sequence[Any]:
    """The results of a loop, turn by turn."""
    constants = operands[: scan.constants]
    carry = list(operands[scan.constants : scan.constants + scan.carry])
    apart = operands[scan.constants + scan.carry :]
    turns = []
    for turn in reversed(range(scan.length)) if scan.reverse else range(scan.length):
        now = [_at(x, turn) for x in apart]
        results = _run(scan.jaxpr, [*constants, *carry, *now], (*where, 0), loops)
        carry = results[: scan.carry]
        turns.append(results[scan.carry :])
    if scan.reverse:
        turns.reverse()
    return [*carry, *map(_stacked, zip(*turns, strict=True))]


def _at(x: Any, turn: int) -> jax.Array:
    # The index is an operand: layers of a stack are cut out by one compiled program.
    start = (np.int32(turn), *[np.int32(0)] * (x.ndim - 1))
    return lax.squeeze(lax.dynamic_slice(x, start, (1, *x.shape[1:])), (0,))


def _stacked(each: Sequence[jax.Array]) -> jax.Array:
    return lax.concatenate([lax.expand_dims(x, (0,)) for x in each], 0)


def _is_index(equation: JaxprEqn, operands: Sequence[Any]) -> bool:
    """Whether an equation counts turns: integers in and out, all of them known."""
    outs: list[Any] = [variable.aval for variable in equation.outvars]
    return (
        bool(operands)
        and not any(isinstance(x, jax.core.Tracer) or np.ndim(x) for x in operands)
        and all(not aval.shape and str(aval.dtype) in _COUNTS for aval in outs)
    )


def _index(equation: JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    with jax.ensure_compile_time_eval():
        return [np.asarray(x)[()] for x in _jax.run(equation, operands)]
