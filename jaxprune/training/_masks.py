"""Masks leaf by leaf, as lists beside the parameters: the first ones, and those of a state."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._errors import Problem, StructureMismatch, raise_problems
from jaxprune._kernels.floats import nonzero
from jaxprune._kernels.parts import count_where
from jaxprune._kernels.ranked import Ranked
from jaxprune._prune import mask_problem
from jaxprune._tree import Leaf, aligned, as_array, leaves


def first_masks(params: Any, mask: Any, members: Sequence[int]) -> list[Any]:
    """The masks to begin with: the user's, or masks that keep everything.

    Args:
        params: The parameters.
        mask: A tree like `params`, or None.
        members: The indices of the leaves that are pruned.

    Raises:
        StructureMismatch: The mask does not fit the parameters, or covers a leaf that stays dense.
    """
    params_leaves = leaves(params)
    masks = [None] * len(params_leaves) if mask is None else user_masks(params, mask)

    def problem(i: int) -> Problem | None:
        if masks[i] is None or i in members:
            return None
        return Problem(
            StructureMismatch,
            f"{params_leaves[i].name} has a mask, and by this spec and where= it is left dense: "
            "widen where=, or put None there.",
        )

    raise_problems(map(problem, range(len(masks))))
    for i in members:
        if masks[i] is None:
            masks[i] = jnp.ones_like(as_array(params_leaves[i].value), bool)
    return masks


def user_masks(params: Any, mask: Any) -> list[Any]:
    """Copies of the masks in a user's tree: steps may donate their state, the user's mask stays.

    Raises:
        StructureMismatch: The mask does not fit the parameters.
    """
    pairs = list(aligned(params, mask, "mask"))
    raise_problems(mask_problem(leaf, kept) for leaf, kept in pairs)
    return [None if kept is None else jnp.copy(kept) for _, kept in pairs]


def state_masks(params: Any, mask: Any, members: Sequence[int]) -> list[Any]:
    """The masks in a state of `sparsify`.

    Raises:
        StructureMismatch: They are those of other parameters, or of another spec.
    """
    pairs = list(aligned(params, mask, "the state's mask"))

    def problem(i: int, leaf: Leaf, kept: Any) -> Problem | None:
        if (kept is not None) == (i in members):
            return mask_problem(leaf, kept)
        what = "has a mask, and is to have none" if kept is not None else "has no mask"
        return Problem(
            StructureMismatch,
            f"{leaf.name} {what} by this spec and where=: the state was made by another. Make a "
            "new one with tx.init(params), or restore it with the spec it was made by.",
        )

    raise_problems(problem(i, *pair) for i, pair in enumerate(pairs))
    return [kept for _, kept in pairs]


def values_like(params: Any, tree: Any, what: str) -> list[Any]:
    """The values of a tree like the parameters, leaf by leaf.

    Raises:
        StructureMismatch: A leaf is missing, or there are others.
    """
    return [value for _, value in aligned(params, tree, what)]


def arrays_like(params: Any, tree: Any, masks: Sequence[Any], what: str) -> list[Any]:
    """The same, where each leaf with a mask is an array of the parameter's shape.

    Raises:
        StructureMismatch: A leaf is missing, or has another shape.
    """
    pairs = list(aligned(params, tree, what))

    def problem(leaf: Leaf, value: Any, mask: Any) -> Problem | None:
        shape = getattr(value, "shape", None)
        if mask is None or shape == leaf.value.shape:
            return None
        got = "it is not an array" if shape is None else f"it has shape {tuple(shape)}"
        return Problem(
            StructureMismatch,
            f"{leaf.name} has shape {tuple(leaf.value.shape)}, and in {what} {got}: expected a "
            "tree like the parameters, such as jax.grad gives.",
        )

    raise_problems(problem(*pair, mask) for pair, mask in zip(pairs, masks, strict=True))
    return [value for _, value in pairs]


def kept_only(mask: Any, values: Any) -> Any:
    """Values of one leaf, 0 where its mask does not keep the weight."""
    return values if mask is None else jnp.where(mask, values, 0)


def zeroing(mask: Any, step: Any, weight: Any) -> Any:
    """The update of one leaf after which its weights are exactly zero where they are not kept."""
    # `apply_updates` adds in the wider of both types. In a narrower one -w would be rounded.
    return step if mask is None else jnp.where(mask, step, -as_array(weight))


def stray_count(masks: Sequence[Any], weights: Sequence[Any]) -> jax.Array:
    """How many weights are not zero although the masks do not keep them, an int32 scalar."""
    pairs = zip(weights, masks, strict=True)
    return count_where([Ranked(as_array(w), alive=m) for w, m in pairs if m is not None], _is_stray)


def _is_stray(leaf: Ranked) -> jax.Array:
    return nonzero(leaf.values) & ~leaf.alive
