"""Masks at one bit a weight."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._errors import Problem, StructureMismatch, raise_problems
from jaxprune._kernels.sharding import on_any_mesh, placed
from jaxprune._prune import not_bool
from jaxprune._tree import Leaf, aligned, as_array, is_array, leaves, rebuild


def pack(mask: Any) -> Any:
    """Packs a mask to one bit a weight: uint8, eight neighbours of the last axis in a byte.

    Args:
        mask: A tree of bool masks, and None.

    Returns:
        A tree like `mask`; the last axis is an eighth as long, rounded up, and the sharding is
        kept.
    """
    mask_leaves = leaves(mask)
    raise_problems(not_bool(leaf) for leaf in mask_leaves)
    return rebuild(
        mask,
        [
            None if leaf.value is None else placed(_packed(as_array(leaf.value)), leaf.value)
            for leaf in mask_leaves
        ],
    )


def unpack(packed: Any, like: Any) -> Any:
    """The mask that `pack` packed.

    Args:
        packed: What `pack` returned.
        like: A tree of arrays with the same paths, for the shapes: the parameters, say.

    Returns:
        A tree like `packed` of bool masks.

    Raises:
        StructureMismatch: `packed` and `like` do not fit.
    """
    pairs = list(aligned(packed, like, "like"))
    raise_problems(_misfit_packed(leaf, model) for leaf, model in pairs)
    return rebuild(
        packed,
        [
            None
            if leaf.value is None
            else placed(_unpacked(as_array(leaf.value), model.shape), model)
            for leaf, model in pairs
        ],
    )


@jax.jit
@on_any_mesh
def _packed(mask: jax.Array) -> jax.Array:
    return jnp.packbits(jnp.atleast_1d(mask), axis=-1)


@functools.partial(jax.jit, static_argnums=1)
@on_any_mesh
def _unpacked(packed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if 0 in shape:
        return jnp.zeros(shape, bool)
    last = shape[-1] if shape else 1
    return jnp.unpackbits(packed, axis=-1, count=last).astype(bool).reshape(shape)


def _misfit_packed(leaf: Leaf, model: Any) -> Problem | None:
    if leaf.value is None:
        return None
    if is_array(model):
        *lead, last = model.shape or (1,)
        expected = (*lead, -(-last // 8))
        if is_array(leaf.value) and leaf.value.dtype == jnp.uint8 and leaf.value.shape == expected:
            return None
        needs = f"uint8 of shape {expected}"
    else:
        needs = "None, for `like` holds no array there"
    got = (
        f"{leaf.value.dtype} of shape {leaf.value.shape}"
        if is_array(leaf.value)
        else type(leaf.value).__name__
    )
    return Problem(
        StructureMismatch, f"{leaf.name}: expected {needs}, got {got}. Pass what pack() returned."
    )
