"""Dense weights, a sparse forward pass: straight-through estimation, and SR-STE."""

import functools
import numbers
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._assign import assign
from jaxprune._errors import PruningError
from jaxprune._metrics import L1, Metric, ranked_by
from jaxprune._text import shown
from jaxprune._tree import Leaf, is_array, leaves, rebuild
from jaxprune._where import Where, is_weight
from jaxprune.tracing._uses import Uses


def straight_through(
    params: Any,
    spec: Any,
    *,
    metric: Metric = L1(),
    where: Where = is_weight,
    uses: Uses | None = None,
    decay: float = 0.0,
) -> Any:
    """Prunes parameters for the forward pass, and lets gradients through to all of them.

    Call it inside the loss, before the model. The optimizer keeps dense weights, of which the mask
    is chosen again at every call; prune the trained ones with the same spec. Bengio et al.,
    "Estimating or Propagating Gradients", 2013.

    Args:
        params: Any tree of parameters.
        spec: As for `make_mask`; `NM(2, 4)` is the usual one.
        metric: As for `importance`.
        where: Which leaves are pruned.
        uses: What `trace` read from the model: it answers "input" and "output", and by default the
            leaves that products and convolutions read are pruned.
        decay: How much of each pruned weight is added to its gradient, so that it is pulled to
            zero and masks settle: SR-STE, Zhou et al., "Learning N:M fine-grained structured
            sparse neural networks from scratch", 2021, takes 2e-4.

    Returns:
        The parameters, pruned.

    Raises:
        PruningError: As `make_mask` does; or `decay` is negative.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxprune as jp
        >>> weights = jnp.array([4.0, 1.0, 3.0, 2.0])
        >>> jax.grad(lambda w: jnp.sum(jp.straight_through(w, jp.NM(2, 4)) ** 2))(weights)
        Array([8., 0., 6., 0.], dtype=float32)
    """
    if not isinstance(decay, numbers.Real) or not decay >= 0:
        raise PruningError(f"decay is a number of 0 or more, got {shown(decay)}.")
    params_leaves = leaves(params)
    constants = [Leaf(p, jax.lax.stop_gradient(v) if is_array(v) else v) for p, v in params_leaves]
    assignment = assign(constants, spec, where, uses)
    masks = assignment.masks(ranked_by(metric, assignment.chosen))
    return rebuild(
        params,
        [
            leaf.value if kept is None else _sparse(leaf.value, kept, decay)
            for leaf, kept in zip(params_leaves, masks, strict=True)
        ],
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sparse(weights: jax.Array, kept: jax.Array, decay: float) -> jax.Array:
    return jnp.where(kept, weights, 0)


def _forward(weights: jax.Array, kept: jax.Array, decay: float) -> tuple[jax.Array, Any]:
    return _sparse(weights, kept, decay), (weights, kept)


def _backward(decay: float, saved: Any, grads: jax.Array) -> tuple[jax.Array, None]:
    weights, kept = saved
    if not decay:
        return grads, None
    return jnp.where(kept, grads, grads + (decay * weights).astype(grads.dtype)), None


_sparse.defvjp(_forward, _backward)
