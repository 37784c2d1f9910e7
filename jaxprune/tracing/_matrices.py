"""A leaf as the matrices that a use multiplies with, and back again.

The matrices of a use have the shape [*turns, batch, out, in]: a leading dimension for each loop
that takes the leaf apart, the independent matrices of one turn, its outputs, its inputs, each in
the order of the operand. Where leaves are concatenated, those of the others are zero.
"""

import math
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxprune.tracing._moves import apply
from jaxprune.tracing._readings import Roles
from jaxprune.tracing._values import Part


class Read(Protocol):
    """A leaf that a product or a convolution reads: a `Met`, or what is left of one."""

    @property
    def part(self) -> Part:
        """The leaf, and how it got there."""

    @property
    def roles(self) -> Roles | None:
        """What happens along each dimension of the operand."""


def to_matrices(met: Read, leaf: jax.Array) -> jax.Array:
    """The matrices [*turns, batch, out, in] of a leaf that `met` reads by moving it only."""
    roles, moves = met.roles, met.part.moves
    assert roles is not None
    assert moves is not None

    def last(operand: jax.Array) -> jax.Array:
        def size(dims: tuple[int, ...]) -> int:
            return math.prod(operand.shape[dim] for dim in dims)

        batch, out, into = size(roles.batch), size(roles.output), size(roles.input)
        ordered = jnp.transpose(operand, roles.batch + roles.output + roles.input)
        return ordered.reshape(batch * roles.groups, out // roles.groups, into)

    return apply(moves, leaf, last)


def from_matrices(met: Read, matrices: jax.Array, leaf: jax.Array) -> jax.Array:
    """The leaf with its entries replaced by those of `matrices`; those it does not hold stay."""
    covered = _transposed(met, jnp.ones(matrices.shape, leaf.dtype), leaf)
    return jnp.where(covered != 0, _transposed(met, matrices.astype(leaf.dtype), leaf), leaf)


def spread(met: Read, statistic: jax.Array, leaf: jax.ShapeDtypeStruct | jax.Array) -> jax.Array:
    """A number for each input, [*turns, batch, in], laid over the leaf: all outputs share it."""
    like = jax.ShapeDtypeStruct(leaf.shape, statistic.dtype)
    shape = jax.eval_shape(lambda x: to_matrices(met, x), like).shape
    return _transposed(met, jnp.broadcast_to(statistic[..., None, :], shape), like)


def _transposed(
    met: Read, matrices: jax.Array, leaf: jax.ShapeDtypeStruct | jax.Array
) -> jax.Array:
    # To put entries back where they came from is the transpose of moving them.
    like = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    (back,) = jax.linear_transpose(lambda x: to_matrices(met, x), like)(matrices)
    return back
