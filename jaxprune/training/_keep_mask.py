"""The transformation that keeps a fixed mask."""

from typing import TYPE_CHECKING, Any

from jaxprune._errors import PruningError
from jaxprune._tree import leaves, rebuild
from jaxprune.training._masks import arrays_like, user_masks, values_like, zeroing
from jaxprune.training._state import KeepMaskState

if TYPE_CHECKING:
    import optax


def keep_mask(mask: Any) -> "optax.GradientTransformationExtraArgs":
    """Keeps a fixed mask: the last transformation in an `optax.chain`.

    After every update the weights that the mask does not keep are exactly zero.

    Args:
        mask: A tree like the parameters: bool, and None where a leaf is left alone.

    Returns:
        The transformation. Its `update` needs `params`.

    Raises:
        StructureMismatch: From `init`: the mask does not fit the parameters.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp, optax
        >>> params, mask = jp.prune({"kernel": jnp.array([[4.0, 1.0], [3.0, 2.0]])}, 0.5)
        >>> tx = optax.chain(optax.sgd(0.5), jp.keep_mask(mask))
        >>> updates, _ = tx.update({"kernel": jnp.ones((2, 2))}, tx.init(params), params)
        >>> optax.apply_updates(params, updates)
        {'kernel': Array([[3.5, 0. ],
               [2.5, 0. ]], dtype=float32)}
    """
    import optax  # noqa: PLC0415  # importing jaxprune without training does not import Optax

    def init(params: Any) -> KeepMaskState:
        if not leaves(params):
            # `optax.tree_map_params` passes a placeholder in place of the parameters.
            return KeepMaskState(params)
        return KeepMaskState(rebuild(params, user_masks(params, mask)))

    def update(
        updates: Any, state: KeepMaskState, params: Any = None, **extra: Any
    ) -> tuple[Any, KeepMaskState]:
        del extra
        check_params(params, "keep_mask")
        kept = values_like(params, state.mask, "the state's mask")
        steps = arrays_like(params, updates, kept, "updates")
        weights = [leaf.value for leaf in leaves(params)]
        zeroed = [zeroing(*each) for each in zip(kept, steps, weights, strict=True)]
        return rebuild(updates, zeroed), state

    return optax.GradientTransformationExtraArgs(init, update)


def check_params(params: Any, function: str) -> None:
    """Refuses an update without parameters."""
    if params is None:
        raise PruningError(
            f"{function} sets parameters to zero, and needs them: call "
            "tx.update(grads, state, params)."
        )
