"""What an optimizer remembers of single weights, such as Adam's moments: found in any state."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxprune._errors import PruningError
from jaxprune._tree import is_array, is_hole, leaves, rebuild


def renewed(inner: Any, state: Any, params: Any, masks: Sequence[Any]) -> Any:
    """An optimizer state that holds what `init` makes wherever a weight is not kept.

    That is so for the arrays that belong to a parameter and have its shape. Counters are shared by
    all weights, and go on; Adafactor's factored moments have another shape, and stay.

    Args:
        inner: The optimizer.
        state: Its state.
        params: The parameters.
        masks: Their masks, leaf by leaf; None where a leaf is left dense.

    Raises:
        PruningError: `inner.init` cannot be called on a placeholder.
    """
    places = zip(
        leaves(state),
        leaves(inner.init(params)),
        leaves(_owners(inner, state, params)),
        strict=True,
    )
    return rebuild(
        state,
        [
            old.value
            if owner is None or owner < 0 or masks[owner] is None
            else jnp.where(masks[owner], old.value, new.value)
            for old, new, (_, owner) in places
        ],
    )


def _owners(inner: Any, state: Any, params: Any) -> Any:
    """A tree like a state: the index of the parameter whose memory lies there, or -1.

    Optax calls `inner.init` on a placeholder: where that comes back, a tree like the parameters
    lies in a state.
    """
    import optax  # noqa: PLC0415  # importing jaxprune without training does not import Optax

    params_leaves = leaves(params)
    numbers = rebuild(
        params, [None if leaf.value is None else i for i, leaf in enumerate(params_leaves)]
    )

    def owner(value: Any, i: Any) -> Any:
        if is_hole(value):  # what `optax.masked` hides from a part of the optimizer
            return value
        return i if is_array(value) and value.shape == jnp.shape(params_leaves[i].value) else -1

    try:
        return optax.tree_utils.tree_map_params(
            inner, owner, state, numbers, transform_non_params=lambda _: -1, is_leaf=is_hole
        )
    except Exception as error:
        raise PruningError(
            "a rule that grows weights must find what the optimizer remembers of each, and "
            "optax.tree_utils.tree_map_params cannot: the optimizer's init must work on any tree, "
            f"as jax.tree.map does. It raised {type(error).__name__}: {error}"
        ) from error
