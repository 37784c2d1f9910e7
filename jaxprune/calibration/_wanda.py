"""The metric of weights and of what they are multiplied with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._errors import Problem, PruningError, StructureMismatch, raise_problems
from jaxprune._metrics import is_scored, scores_of
from jaxprune._text import shown
from jaxprune._tree import Leaf, node
from jaxprune.calibration._stats import Stats


@node("stats")
@dataclass(frozen=True, slots=True)
class Wanda:
    """The magnitude times the norm of the input: |w_ij| * sqrt(sum_p x_pj^2), in float32.

    A weight is as important as what it adds to its output, over the positions p of the calibration
    data, where nothing else changes. Sun et al., "A simple and effective pruning approach for large
    language models", 2023, who compare the weights of one output with each other:
    `Unstructured(0.5, per="output")`, or N:M along the input axis. `prune_with_data(...,
    method=jp.Wanda)` does this by default, and layer by layer.

    `importance` gives no scores to leaves without stats; `make_mask`, `prune` and `sparsify` refuse
    to prune them.

    Attributes:
        stats: What `calibrate` has gathered; a Gram will do as well.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxprune as jp
        >>> def model(params, x):
        ...     return x @ params["kernel"]
        >>> params = {"kernel": jnp.array([[1.0, -2.0], [3.0, 4.0]])}
        >>> stats = jp.calibrate(model, params, [(jnp.array([[4.0, 1.0], [3.0, 0.0]]),)])
        >>> jp.importance(params, jp.Wanda(stats))
        {'kernel': Array([[ 5., 10.],
               [ 3.,  4.]], dtype=float32)}
    """

    stats: Stats


@is_scored.register
def _(metric: Wanda, leaf: Leaf) -> bool:
    return leaf.path in _stats(metric).squares


@scores_of.register
def _(metric: Wanda, weights: Sequence[Leaf]) -> list[jax.Array]:
    known = _checked(metric, weights)
    return [_wanda(leaf.value, known.squares[leaf.path]) for leaf in weights]


@jax.jit
def _wanda(weights: jax.Array, squares: jax.Array) -> jax.Array:
    wide = jnp.abs(weights).astype(jnp.promote_types(weights.dtype, jnp.float32))
    return wide * jnp.sqrt(squares)


def _stats(metric: Wanda) -> Stats:
    if isinstance(metric.stats, Stats):
        return metric.stats
    raise PruningError(
        f"Wanda(stats) takes what jp.calibrate(f, params, batches) returns, got "
        f"{shown(metric.stats)}."
    )


def _checked(metric: Wanda, weights: Sequence[Leaf]) -> Stats:
    """The stats, if they are of these leaves."""
    known = _stats(metric)
    shapes = {leaf.path: leaf.shape for leaf in known.leaves}
    raise_problems(_misfit(leaf, shapes.get(leaf.path)) for leaf in weights)
    return known


def _misfit(leaf: Leaf, shape: Any) -> Problem | None:
    if shape == tuple(leaf.value.shape):
        return None
    if shape is None:
        return Problem(
            StructureMismatch,
            f"there are no stats of {leaf.name}: no product or convolution read it when they were "
            "gathered. Pass uses=jp.trace(f, params, *inputs), or leave it out with where=.",
        )
    return Problem(
        StructureMismatch,
        f"{leaf.name} has shape {tuple(leaf.value.shape)}, and its stats are of {shape}: "
        "calibrate with these params.",
    )
