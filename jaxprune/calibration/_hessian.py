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
from jax.scipy.linalg import cho_solve

from jaxprune._errors import Problem, PruningError, StructureMismatch
from jaxprune._kernels.sharding import on_any_mesh
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


def damped(gram: jax.Array, rows: Any, damping: Any) -> Damped:
    """H, with a fraction `damping` of its mean diagonal added to the diagonal.

    Args:
        gram: [batch, in, in], the sums of products of each pair of inputs.
        rows: The count of positions, a number or one for each matrix, [batch].
        damping: The fraction, of the mean after dead inputs have been given a diagonal of 1.
    """
    rows = jnp.maximum(jnp.asarray(rows, jnp.float32), 1).reshape(-1, 1, 1)
    hessian = gram.astype(jnp.float32) * (2 / rows)
    diagonal = jnp.diagonal(hessian, axis1=1, axis2=2)
    dead = diagonal == 0
    diagonal = jnp.where(dead, 1, diagonal)
    added = dead + damping * jnp.mean(diagonal, axis=1, keepdims=True)
    hessian = hessian + added[:, None, :] * jnp.eye(gram.shape[-1], dtype=jnp.float32)
    return Damped(hessian, dead & ~jnp.all(dead, axis=1, keepdims=True))


def root_of_inverse(hessian: jax.Array) -> jax.Array:
    """U, upper triangular, [batch, in, in], with U^T U = H^-1; not finite where H is not definite.

    By Cholesky, inverse, Cholesky, which is how the authors of SparseGPT compute it: a shorter way
    exists, and rounds otherwise, so that masks differ where two scores nearly tie.
    """
    identity = jnp.broadcast_to(jnp.eye(hessian.shape[-1], dtype=jnp.float32), hessian.shape)
    with jax.default_matmul_precision("highest"):
        inverse = cho_solve((jnp.linalg.cholesky(hessian), True), identity)
        return jnp.linalg.cholesky(inverse, upper=True)


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
    enough = next((one for one in higher if bool(_is_definite(gram, rows, one))), None)
    remedy = (
        "no damping would do: its entries differ too much in size. Leave the leaf out"
        if enough is None
        else f"damping={enough:g} would do, and so would more data"
    )
    return PruningError(
        f"the sums of products of what {name} reads cannot be factorised with damping={damping:g}:"
        f" {remedy}."
    )


@jax.jit
@functools.partial(on_any_mesh, like=lambda gram, *_: gram)
def _is_definite(gram: jax.Array, rows: Any, damping: Any) -> jax.Array:
    root = root_of_inverse(damped(gram, rows, damping).hessian)
    return is_root(root)


def is_root(root: jax.Array) -> jax.Array:
    """Whether a factor exists: its diagonal is positive, and all of it is finite."""
    positive = jnp.diagonal(root, axis1=1, axis2=2) > 0
    return lax.stop_gradient(jnp.isfinite(root).all() & positive.all())
