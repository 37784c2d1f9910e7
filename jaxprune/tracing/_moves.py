"""The operations that move a leaf's entries about and compute nothing.

A move does two things: `apply` carries it out on an array, and `dims` says what it does to the
axes. Padding is always zero here: what lies outside the leaf belongs to somebody else.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.tracing._dims import Dim, Dims, broadcast, reshaped, resized


class Rearrangement(Protocol):
    """One operation that moves entries about, inside one array."""

    def apply(self, x: jax.Array) -> jax.Array:
        """The array with its entries moved."""

    def dims(self, dims: Dims) -> Dims:
        """The axes of the leaf behind each dimension of what `apply` returns."""


@dataclasses.dataclass(frozen=True, slots=True)
class Transpose:
    """Dimension k of the result is dimension `order[k]` of the operand."""

    order: tuple[int, ...]

    def apply(self, x: jax.Array) -> jax.Array:
        """`x` with its dimensions in the new order."""
        return lax.transpose(x, self.order)

    def dims(self, dims: Dims) -> Dims:
        """The same dimensions in the new order."""
        return tuple(dims[k] for k in self.order)


@dataclasses.dataclass(frozen=True, slots=True)
class Reshape:
    """A row-major reshape."""

    shape: tuple[int, ...]

    def apply(self, x: jax.Array) -> jax.Array:
        """`x` in the new shape."""
        return lax.reshape(x, self.shape)

    def dims(self, dims: Dims) -> Dims:
        """Factors split and merged as the shape says."""
        return reshaped(dims, self.shape)


@dataclasses.dataclass(frozen=True, slots=True)
class Squeeze:
    """Drops dimensions of size 1."""

    axes: tuple[int, ...]

    def apply(self, x: jax.Array) -> jax.Array:
        """`x` without these dimensions."""
        return lax.squeeze(x, self.axes)

    def dims(self, dims: Dims) -> Dims:
        """The dimensions that are left."""
        return tuple(dim for k, dim in enumerate(dims) if k not in self.axes)


@dataclasses.dataclass(frozen=True, slots=True)
class Broadcast:
    """Dimension k becomes dimension `axes[k]` of `shape`, repeated where its size was 1."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def apply(self, x: jax.Array) -> jax.Array:
        """`x`, repeated."""
        return lax.broadcast_in_dim(x, self.shape, self.axes)

    def dims(self, dims: Dims) -> Dims:
        """New dimensions belong to no axis of the leaf."""
        out = [broadcast(size) for size in self.shape]
        for axis, dim in zip(self.axes, dims, strict=True):
            if dim.size == self.shape[axis]:
                out[axis] = dim
        return tuple(out)


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """Every `steps[k]`-th index of dimension k from `starts[k]` up to `limits[k]`."""

    starts: tuple[int, ...]
    limits: tuple[int, ...]
    steps: tuple[int, ...]

    def apply(self, x: jax.Array) -> jax.Array:
        """The slice of `x`."""
        return lax.slice(x, self.starts, self.limits, self.steps)

    def dims(self, dims: Dims) -> Dims:
        """A leaf that lies wholly outside the slice is left with an empty span."""
        return tuple(map(self._one, dims, self.starts, self.limits, self.steps))

    @staticmethod
    def _one(dim: Dim, start: int, limit: int, step: int) -> Dim:
        if (start, limit, step) == (0, dim.size, 1):
            return dim
        low = math.ceil((max(dim.low, start) - start) / step)
        high = math.ceil((min(dim.high, limit) - start) / step)
        return resized(dim, math.ceil((limit - start) / step), low, high)


@dataclasses.dataclass(frozen=True, slots=True)
class Pad:
    """Zeros before, after and between; one (before, after, between) a dimension."""

    config: tuple[tuple[int, int, int], ...]

    def apply(self, x: jax.Array) -> jax.Array:
        """`x` with zeros around it."""
        return lax.pad(x, jnp.zeros((), x.dtype), self.config)

    def dims(self, dims: Dims) -> Dims:
        """The spans of the leaf, moved along."""
        return tuple(map(self._one, dims, self.config))

    @staticmethod
    def _one(dim: Dim, config: tuple[int, int, int]) -> Dim:
        if config == (0, 0, 0):
            return dim
        before, after, between = config
        size = before + after + dim.size + between * max(dim.size - 1, 0)
        step = between + 1
        return resized(dim, size, before + dim.low * step, before + (dim.high - 1) * step + 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Reverse:
    """Turns dimensions around."""

    axes: tuple[int, ...]

    def apply(self, x: jax.Array) -> jax.Array:
        """`x`, turned around."""
        return lax.rev(x, self.axes)

    def dims(self, dims: Dims) -> Dims:
        """The same factors, from the other end."""
        return tuple(
            dim._replace(low=dim.size - dim.high, high=dim.size - dim.low)
            if k in self.axes
            else dim
            for k, dim in enumerate(dims)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """The whole array, `times[k]` times along dimension k."""

    times: tuple[int, ...]

    def apply(self, x: jax.Array) -> jax.Array:
        """`x`, tiled."""
        return jnp.tile(x, self.times)

    def dims(self, dims: Dims) -> Dims:
        """The copies are a factor of their own, major to the rest."""
        return tuple(
            Dim((*broadcast(times).factors, *dim.factors), 0, times * dim.size)
            if times > 1
            else dim
            for times, dim in zip(self.times, dims, strict=True)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Unstack:
    """A loop takes the array apart along dimension 0: each turn sees one index, without it.

    Attributes:
        loop: Where the loop stands in the jaxpr.
    """

    loop: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Pick:
    """A loop reads one index along `axis`, which stays as a dimension of size 1.

    Attributes:
        axis: The dimension.
        size: How many indices it had.
        equation: Where the equation stands that picks.
        operand: Which of its operands holds the index.
        component: Which component of that operand; None where it is a scalar.
    """

    axis: int
    size: int
    equation: tuple[int, ...]
    operand: int
    component: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Each:
    """The same moves for every index along dimension 0."""

    moves: tuple[Rearrangement, ...]

    def apply(self, x: jax.Array) -> jax.Array:
        """`x` with each of its entries along dimension 0 moved."""
        return jax.vmap(lambda one: apply(self.moves, one))(x)

    def dims(self, dims: Dims) -> Dims:
        """The first dimension stays, the others are moved."""
        rest = dims[1:]
        for move in self.moves:
            rest = move.dims(rest)
        return (dims[0], *rest)


Move: TypeAlias = Rearrangement | Unstack | Pick


def apply(
    moves: Sequence[Move], x: jax.Array, last: Callable[[jax.Array], jax.Array] = lambda x: x
) -> jax.Array:
    """Carries `moves` out on `x`, and `last` on the result.

    What loops take apart or pick from is kept whole, as a leading dimension a loop: the result is
    that of all turns at once, and still linear in `x`.
    """
    for k, move in enumerate(moves):
        rest = moves[k + 1 :]
        if isinstance(move, Unstack):
            return jax.vmap(lambda one, rest=rest: apply(rest, one, last))(x)
        if isinstance(move, Pick):
            axis = move.axis
            return jax.vmap(
                lambda one, rest=rest, axis=axis: apply(rest, jnp.expand_dims(one, axis), last),
                in_axes=axis,
            )(x)
        x = move.apply(x)
    return last(x)
