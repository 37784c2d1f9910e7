"""The matrices of a model: leaves, or boxes cut out of them, each read in one way.

A leaf is one piece where products and convolutions read all of it in one way, however often. A
model may also cut a leaf up (a stack of layers that is indexed, queries and keys in one array):
then each part that it reads is a piece, with statistics of its own.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._errors import Problem, PruningError, raise_problems
from jaxprune._kernels.sharding import on_any_mesh
from jaxprune._tree import Leaf
from jaxprune.tracing import _jax
from jaxprune.tracing._matrices import from_matrices, spread, to_matrices
from jaxprune.tracing._moves import Move, Pick, Slice, Unstack
from jaxprune.tracing._readings import Roles
from jaxprune.tracing._trace import Program
from jaxprune.tracing._uses import CONTRACTIONS
from jaxprune.tracing._values import Part
from jaxprune.tracing._walk import Met

Box: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How a box becomes matrices; equal for the layers of a stack, which so share programs.

    Attributes:
        part: The box in the operand: its moves are those after it was cut out.
        roles: What happens along each dimension of the operand.
        shape: The shape of the box.
    """

    part: Part
    roles: Roles
    shape: tuple[int, ...]

    def axes(self, word: str) -> tuple[int, ...]:
        """The axes that are "input", "output" or "batch", in the order of the operand."""
        dims = self.part.dims or ()
        of_roles = [a for k in sorted(getattr(self.roles, word)) for a in dims[k].axes]
        loops = self.part.batch if word == "batch" else ()
        return tuple(dict.fromkeys((*loops, *of_roles)))

    def size(self, word: str) -> int:
        """How many indices the operand has along its dimensions of a word."""
        dims = self.part.dims or ()
        return math.prod(dims[k].size for k in getattr(self.roles, word))

    def held(self, word: str) -> tuple[int, ...]:
        """Which of these indices the box holds, where others are concatenated with it."""
        dims = [(self.part.dims or ())[k] for k in getattr(self.roles, word)]
        spans = [np.arange(dim.low, dim.high) for dim in dims]
        if not dims:
            return (0,)
        every = np.ravel_multi_index(np.ix_(*spans), [dim.size for dim in dims])
        return tuple(np.ravel(every).tolist())

    @partial(jax.jit, static_argnums=0)
    def matrices(self, box: jax.Array) -> jax.Array:
        """The matrices [*turns, batch, out, in] of the box."""
        return on_any_mesh(lambda box: to_matrices(self, box))(box)

    @partial(jax.jit, static_argnums=0)
    def of_matrices(self, matrices: jax.Array, box: jax.Array) -> jax.Array:
        """The box with the entries that `matrices` hold."""

        def back(matrices: jax.Array, box: jax.Array) -> jax.Array:
            return from_matrices(self, matrices, box)

        return on_any_mesh(back, like=lambda _, box: box)(matrices, box)

    @partial(jax.jit, static_argnums=0)
    def over_box(self, of_inputs: jax.Array) -> jax.Array:
        """A number for each input, [*turns, batch, in], laid over the box: 1 along its outputs."""
        laid = spread(self, of_inputs, jax.ShapeDtypeStruct(self.shape, of_inputs.dtype))
        others = {*self.axes("input"), *self.axes("batch")}
        shared = tuple(sorted({*self.axes("output")} - others)) if self.roles.groups == 1 else ()
        # Where only a part of the outputs is read, the rest is zero.
        return jnp.max(laid, axis=shared, keepdims=True)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A box of a leaf that products or convolutions read in one way.

    Attributes:
        leaf: The leaf: its path, and its array.
        number: Which of the program's leaves.
        start: Where the box begins, along each axis of the leaf.
        form: How it becomes matrices.
        met: Every place where it is read so.
    """

    leaf: Leaf
    number: int
    start: tuple[int, ...]
    form: Form
    met: tuple[Met, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the box."""
        return self.form.shape

    @property
    def name(self) -> str:
        """How messages name it."""
        where = "" if self.is_whole else f"[{', '.join(map(_range, self.start, self.shape))}]"
        return f"{self.leaf.name}{where}"

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its leaf."""
        return self.shape == tuple(self.leaf.value.shape)

    @property
    def size(self) -> int:
        """How many weights it holds."""
        return math.prod(self.shape)

    @property
    def key(self) -> tuple[int, tuple[int, ...]]:
        """What tells it from the other pieces, whatever the program that it was read from."""
        return self.number, self.start

    @property
    def places(self) -> frozenset[tuple[tuple[int, ...], int]]:
        """The operands that hold it: those of concatenated leaves are the same."""
        return frozenset((met.place.where, met.operand) for met in self.met)

    def cut(self, leaf: jax.Array) -> jax.Array:
        """The box of a leaf."""
        # The start is data, so that all layers of a stack share one program.
        return leaf if self.is_whole else lax.dynamic_slice(leaf, self.start, self.shape)


def pieces_of(program: Program, is_in_scope: Callable[[str], bool]) -> list[Piece]:
    """The pieces that products and convolutions with data read.

    Args:
        program: The program.
        is_in_scope: Says of a path whether its leaf is asked for.

    Raises:
        PruningError: A weight is read in several ways.
    """
    ways_of_box: dict[tuple[int, Box], dict[Any, list[Met]]] = {}
    for met in program.met:
        leaf = program.leaves[met.part.leaf]
        if met.use in CONTRACTIONS and met.roles and met.with_data and is_in_scope(leaf.path):
            box, rest = _box(tuple(leaf.value.shape), met.part.moves or ())
            way = _plain(rest), met.roles.batch, met.roles.output, met.roles.input, met.roles.groups
            ways_of_box.setdefault((met.part.leaf, box), {}).setdefault(way, []).append(met)
    raise_problems(_problems(program, ways_of_box))
    return [
        _piece(program, number, box, mets)
        for (number, box), ways in ways_of_box.items()
        for mets in ways.values()
    ]


def _piece(program: Program, number: int, box: Box, mets: list[Met]) -> Piece:
    leaf, (met, *_) = program.leaves[number], mets
    _, rest = _box(tuple(leaf.value.shape), met.part.moves or ())
    assert met.roles is not None
    start, shape = box
    part = dataclasses.replace(met.part, leaf=0, moves=rest, share=Fraction(1))
    return Piece(leaf, number, start, Form(part, met.roles, shape), tuple(mets))


def _box(shape: tuple[int, ...], moves: tuple[Move, ...]) -> tuple[Box, tuple[Move, ...]]:
    """What a use cuts out of a leaf before it does anything else with it."""
    start, rest = (0,) * len(shape), list(moves)
    while rest and isinstance(rest[0], Slice) and set(rest[0].steps) <= {1}:
        cut = rest.pop(0)
        assert isinstance(cut, Slice)
        shape = tuple(b - a for a, b in zip(cut.starts, cut.limits, strict=True))
        start = tuple(a + b for a, b in zip(start, cut.starts, strict=True))
    return (start, shape), tuple(rest)


def _plain(moves: tuple[Move, ...]) -> tuple[Any, ...]:
    """Moves without the places of loops: two loops over one stack read it in one way."""
    return tuple(
        "unstack"
        if isinstance(move, Unstack)
        else ("pick", move.axis, move.size)
        if isinstance(move, Pick)
        else move
        for move in moves
    )


def _problems(program: Program, ways_of_box: dict[tuple[int, Box], dict[Any, list[Met]]]) -> Any:
    """What is read in several ways: by one box twice, or by boxes that share weights."""
    boxes: dict[int, list[tuple[Box, dict[Any, list[Met]]]]] = {}
    for (number, box), ways in ways_of_box.items():
        boxes.setdefault(number, []).append((box, ways))
    for number, each in boxes.items():
        several = [ways for _, ways in each if len(ways) > 1]
        for k, (box, ways) in enumerate(each):
            several += [{**ways, **other} for b, other in each[:k] if _overlap(box, b)]
        if several:
            mets = [mets[0] for ways in several for mets in ways.values()]
            lines = dict.fromkeys(_line(met) for met in mets)
            yield Problem(
                PruningError,
                f"{program.leaves[number].name} is read in different ways ({', '.join(lines)}), "
                "and what it is multiplied with has no one meaning: leave it out with where=.",
            )


def _overlap(one: Box, other: Box) -> bool:
    return all(a < d + m and d < a + n for a, n, d, m in zip(*one, *other, strict=True))


def _line(met: Met) -> str:
    source = os.path.basename(_jax.source(met.place.equations))
    return f"{met.use} at {source}" if source else met.use


def _range(start: int, length: int) -> str:
    return str(start) if length == 1 else f"{start}:{start + length}"
