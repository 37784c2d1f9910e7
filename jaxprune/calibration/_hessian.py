"""The matrix that both solvers of weights start from, and what to say where it cannot be used.

A layer's squared error on data is (w - w0) G (w - w0)^T for each row of weights, where G, the Gram
matrix, is sum_p x_p x_p^T over the positions p that the layer read.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._errors import Problem, PruningError, StructureMismatch
from jaxprune._kernels.sharding import on_any_mesh
from jaxprune._kernels.wide import float64_allowed, widest
from jaxprune._text import shown

# What is tried, from the lowest up, to tell a user which damping would do.
_DAMPINGS = tuple(float(f"1e{k}") for k in range(-6, 4))


class Damped(NamedTuple):
    """A Gram matrix made definite.

    Attributes:
        hessian: [batch, in, in], H = 2 / rows * G, 1 on the diagonal where an input is dead, and
            damped.
        dead: bool [batch, in], which inputs were zero at every position, but for a matrix that was
            never used, of which nothing is known: no input of it counts as dead.
    """

    hessian: jax.Array
    dead: jax.Array


def damped(gram: jax.Array, rows: Any, damping: Any, dtype: Any = jnp.float32) -> Damped:
    """H, with a fraction `damping` of its mean diagonal added to the diagonal.

    Args:
        gram: [batch, in, in], the sums of products of each pair of inputs.
        rows: The count of positions, a number or one for each matrix, [batch].
        damping: The fraction, of the mean after dead inputs have been given a diagonal of 1.
        dtype: In which H is computed.
    """
    rows = jnp.maximum(jnp.asarray(rows, dtype), 1).reshape(-1, 1, 1)
    hessian = gram.astype(dtype) * (2 / rows)
    diagonal = jnp.diagonal(hessian, axis1=1, axis2=2)
    dead = diagonal == 0
    diagonal = jnp.where(dead, 1, diagonal)
    added = dead + damping * jnp.mean(diagonal, axis=1, keepdims=True)
    hessian = hessian + added[:, None, :].astype(dtype) * jnp.eye(gram.shape[-1], dtype=dtype)
    return Damped(hessian, dead & ~jnp.all(dead, axis=1, keepdims=True))


class Factor(NamedTuple):
    """A triangular factor of a damped Gram matrix, in blocks of `width` inputs.

    The inputs are padded to whole blocks; what is added has a diagonal of 1.

    Attributes:
        upper: float32 [batch, inputs, inputs], R, upper triangular, with H = R R^T.
        inverses: float32 [batch, blocks, width, width], of the blocks on the diagonal of R. They
            are the blocks on the diagonal of U = R^-1, of which H^-1 = U^T U.
        dead: bool [batch, inputs], as of `Damped`.
        exists: Whether H is definite: if not, the factor means nothing.
    """

    upper: jax.Array
    inverses: jax.Array
    dead: jax.Array
    exists: jax.Array


def factor(gram: jax.Array, rows: Any, damping: float, width: int) -> Factor:
    """The factor in float64 where the device has it, for activations are correlated.

    With a condition number of 10^4, which rectified activations have, float32 leaves four digits of
    U, so that dozens of nearly tied scores of a million change places.

    Args:
        gram: As of `damped`, and known: to be called outside of jit.
        rows: As of `damped`.
        damping: As of `damped`.
        width: How many inputs a block has.
    """
    with float64_allowed():
        return _factor(gram, rows, damping, width=width, dtype=widest(gram))


@functools.partial(jax.jit, static_argnames=("width", "dtype"))
@functools.partial(on_any_mesh, like=lambda gram, *_: Factor(gram, gram, gram, gram))
def _factor(gram: jax.Array, rows: Any, damping: Any, *, width: int, dtype: Any) -> Factor:
    hessian, dead = damped(gram, rows, damping, dtype)
    # Of H with its order reversed, L L^T: then R is L with its order reversed.
    lower = lax.linalg.cholesky(hessian[:, ::-1, ::-1], symmetrize_input=False)
    upper = lower[:, ::-1, ::-1]
    inputs = gram.shape[-1]
    starts = range(0, inputs, width)
    beyond = len(starts) * width - inputs
    upper = jnp.pad(upper, ((0, 0), (0, beyond), (0, beyond)))
    upper += jnp.diag(jnp.arange(len(upper[0])) >= inputs).astype(dtype)
    blocks = jnp.stack([upper[:, i : i + width, i : i + width] for i in starts], axis=1)
    identity = jnp.broadcast_to(jnp.eye(width, dtype=dtype), blocks.shape)
    inverses = lax.linalg.triangular_solve(blocks, identity, left_side=True, lower=False)
    exists = jnp.isfinite(inverses).all() & (jnp.diagonal(blocks, axis1=2, axis2=3) > 0).all()
    return Factor(upper.astype(jnp.float32), inverses.astype(jnp.float32), dead, exists)


def unusable(weights: Any, gram: Any, rows: Any, name: str) -> Problem | None:
    """What is wrong with matrices of weights and their Gram matrices, from their shapes alone."""
    if len(weights.shape) != 3 or 0 in weights.shape:
        return Problem(
            StructureMismatch,
            f"{name} should come as matrices [batch, out, in] of at least one weight, got the "
            f"shape {tuple(weights.shape)}.",
        )
    batch, _, inputs = weights.shape
    if tuple(gram.shape) != (batch, inputs, inputs):
        return Problem(
            StructureMismatch,
            f"{name} has matrices of the shape {tuple(weights.shape)}, whose sums of products have "
            f"the shape {(batch, inputs, inputs)}, got {tuple(gram.shape)}: gather them of the "
            "same model.",
        )
    if jnp.shape(rows) not in ((), (1,), (batch,)):
        return Problem(
            StructureMismatch,
            f"rows counts positions, one number or {batch} for {name}, got {shown(rows)}.",
        )
    return None


def check_damping(damping: Any) -> None:
    """Refuses what is no fraction of a diagonal.

    Raises:
        PruningError: With what came, and what would do.
    """
    known = isinstance(damping, int | float) and not isinstance(damping, bool)
    if not known or not 0 <= damping < math.inf:
        raise PruningError(
            "damping is the fraction of the mean diagonal that is added to it, a number of 0 or "
            f"more, got {shown(damping)}: 0.01 is usual."
        )


def not_solvable(
    weights: jax.Array, gram: jax.Array, rows: Any, damping: float, name: str
) -> PruningError:
    """The error of what could not be solved: most often, with a damping that would do."""
    if not bool(jnp.isfinite(weights).all()):
        return PruningError(
            f"weights of {name} are NaN or infinite, and nothing can make up for one that is "
            "removed: mend them, or leave the leaf out."
        )
    finite = np.asarray(jnp.isfinite(gram).all(axis=(1, 2)))
    if not finite.all():
        return PruningError(
            f"the sums of products of what {name} reads are not finite, in {int((~finite).sum())} "
            f"of {finite.size} matrices: look for NaN and infinity in the batches and in params."
        )
    higher = [one for one in _DAMPINGS if one > damping]
    width = gram.shape[-1]
    enough = next((one for one in higher if bool(factor(gram, rows, one, width).exists)), None)
    remedy = (
        "no damping would do: its entries differ too much in size. Leave the leaf out"
        if enough is None
        else f"damping={enough:g} would do, and so would more data"
    )
    return PruningError(
        f"the sums of products of what {name} reads cannot be factorised with damping={damping:g}:"
        f" {remedy}."
    )
