"""Least squares for the weights that stay, whatever made the mask."""

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune._errors import Problem, StructureMismatch, raise_problems
from jaxprune._kernels.sharding import on_any_mesh
from jaxprune._metrics import L1
from jaxprune._tree import as_array
from jaxprune.calibration._hessian import check_damping, damped, not_solvable, unusable

_EXACT = lax.Precision.HIGHEST
_STEPS = 300  # the most steps; 5 to 40 are usual
_ENOUGH = 1e-9  # of the squared residual, at which an output is solved


@dataclass(frozen=True, slots=True)
class Refit:
    """Solves for the weights that stay, so that the layer's output changes the least.

    The mask is made by a metric and stays as it is. Of each output with weights w, kept on the set
    S, the new ones w + d minimise d_S^T H d_S - 2 d_S^T H (w off S) with H = 2/p X X^T of the p
    inputs that the layer read, damped. All outputs are solved together, by conjugate gradients:
    they share the product with H, and every step lessens each output's error. An output whose
    squared error would rise, because of how its weights are rounded, keeps its old weights.

    Attributes:
        by: What makes the mask: a metric, such as `L1()`, or what makes one of statistics, such as
            the class `Wanda`.
        damping: The fraction of the mean diagonal of H that is added to its diagonal: it holds
            weights back from moving far for little.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxprune as jp
        >>> x = jax.random.normal(jax.random.key(0), (64, 8)).at[:, 1].set(1.0)
        >>> weights = jax.random.normal(jax.random.key(1), (1, 4, 8))
        >>> kept = jp.make_mask(abs(weights), jp.Unstructured(0.5))
        >>> new = jp.Refit().solve(weights, (x.T @ x)[None], 64, kept)
        >>> masked = jp.apply_mask(weights, kept)
        >>> before, after = (((w - weights) @ x.T).var() for w in (masked, new))
        >>> bool(after < before)
        True
    """

    by: Any = L1()
    damping: float = 0.01

    def __post_init__(self) -> None:
        check_damping(self.damping)

    def solve(
        self,
        weights: jax.Array,
        gram: jax.Array,
        rows: Any,
        kept: jax.Array,
        *,
        name: str = "the leaf",
    ) -> jax.Array:
        """The weights that stay, changed to make up for those that do not.

        Args:
            weights: [batch, out, in], before the mask, of any floating dtype.
            gram: float32 [batch, in, in], sum_p x_p x_p^T.
            rows: How many positions p that is, a number or one for each matrix, [batch].
            kept: bool [batch, out, in].
            name: What messages call the leaf.

        Returns:
            The new weights in the dtype of the old, 0 where `kept` is False.

        Raises:
            StructureMismatch: The shapes do not fit each other.
            PruningError: The sums of products are not finite.
        """
        weights, gram = as_array(weights), as_array(gram)
        raise_problems([unusable(weights, gram, rows, name), _unlike(weights, kept, name)])
        solved, done = _solved(weights, gram, rows, self.damping, kept)
        if not bool(done):
            raise not_solvable(weights, gram, rows, self.damping, name)
        return solved


def _unlike(weights: Any, kept: Any, name: str) -> Problem | None:
    if weights.shape == kept.shape:
        return None
    return Problem(
        StructureMismatch,
        f"{name} has weights of the shape {tuple(weights.shape)} and a mask of "
        f"{tuple(kept.shape)}: make the mask of the same leaf.",
    )


@jax.jit
@functools.partial(on_any_mesh, like=lambda weights, *_: (weights, weights))
def _solved(
    weights: jax.Array, gram: jax.Array, rows: Any, damping: Any, kept: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The new weights, and whether the Gram matrices are finite."""
    old, stay = (x.swapaxes(1, 2) for x in (weights.astype(jnp.float32), kept))
    lost = jnp.where(stay, 0, old)
    # Undamped, to tell what the weights do to the error; damped, to solve.
    plain, definite = (damped(gram, rows, by).hessian for by in (0.0, damping))
    pull = jnp.where(stay, _product(plain, lost), 0)
    change = _conjugate_gradients(definite, pull, stay)
    new = jnp.where(stay, old + change, 0).astype(weights.dtype)
    masked = jnp.where(stay, old, 0)
    better = _error_falls(plain, new.astype(jnp.float32) - masked, -lost)
    new = jnp.where(better, new, masked.astype(weights.dtype))
    return new.swapaxes(1, 2), jnp.isfinite(gram).all()


class _Search(NamedTuple):
    """Where the conjugate gradients of all outputs are, arrays [batch, in, out].

    Attributes:
        step: How many steps have been made.
        solution: The solution so far.
        residual: What is left of the right-hand side.
        along: The direction of the next step.
        left: [batch, 1, out], the squared residual, scaled by the diagonal.
    """

    step: jax.Array
    solution: jax.Array
    residual: jax.Array
    along: jax.Array
    left: jax.Array


def _conjugate_gradients(hessian: jax.Array, pull: jax.Array, stay: jax.Array) -> jax.Array:
    """The d, 0 where weights do not stay, with H d = pull where they do, [batch, in, out]."""
    scale = 1 / jnp.diagonal(hessian, axis1=1, axis2=2)[:, :, None]
    wanted = jnp.sum(pull**2 * scale, axis=1, keepdims=True)

    def is_open(state: _Search) -> jax.Array:
        return (state.step < _STEPS) & jnp.any(state.left > _ENOUGH * wanted)

    def advance(state: _Search) -> _Search:
        turned = jnp.where(stay, _product(hessian, state.along), 0)
        bend = jnp.sum(state.along * turned, axis=1, keepdims=True)
        # Outputs that are solved wait for the others.
        moves = (state.left > _ENOUGH * wanted) & (bend > 0)
        length = jnp.where(moves, state.left / jnp.where(moves, bend, 1), 0)
        residual = state.residual - length * turned
        left = jnp.sum(residual**2 * scale, axis=1, keepdims=True)
        ratio = jnp.where(moves, left / jnp.where(moves, state.left, 1), 0)
        return _Search(
            state.step + 1,
            state.solution + length * state.along,
            residual,
            residual * scale + ratio * state.along,
            jnp.where(moves, left, 0),
        )

    begin = _Search(jnp.int32(0), jnp.zeros_like(pull), pull, pull * scale, wanted)
    return lax.while_loop(is_open, advance, begin).solution


def _error_falls(hessian: jax.Array, change: jax.Array, before: jax.Array) -> jax.Array:
    """Whether an output's squared error is less with a change than before it, [batch, 1, out].

    With e the difference from the dense weights before, and c the change, the error rises by
    c^T H (2 e + c). What rounding may have added to that counts as a rise.
    """
    both = 2 * before + change
    rise = jnp.sum(change * _product(hessian, both), axis=1, keepdims=True)
    terms = jnp.sum(abs(change) * _product(abs(hessian), abs(both)), axis=1, keepdims=True)
    # Rounding errors of a sum grow as the root of the count of its terms.
    rounding = math.sqrt(change.shape[1]) * 2.0**-22
    return rise + rounding * terms < 0


def _product(hessian: jax.Array, columns: jax.Array) -> jax.Array:
    return jnp.einsum("bij,bjo->bio", hessian, columns, precision=_EXACT)
