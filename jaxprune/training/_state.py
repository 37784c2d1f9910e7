"""What sparse training remembers, and where to find it in an optimizer state."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import NoMatch, StructureMismatch
from jaxprune._kernels.device import count_true
from jaxprune._kernels.floats import nonzero
from jaxprune._kernels.limbs import as_float
from jaxprune._packing import unpack
from jaxprune._tree import Leaf, as_array, is_traced, leaves, rebuild


class SparsifyState(NamedTuple):
    """What `sparsify` remembers between updates; `current` finds it in any optimizer state.

    Attributes:
        count: The updates made, an int32 scalar.
        mask: The mask, packed if so asked for: a tree like the parameters.
        inner: The state of the optimizer that is wrapped.
        average: What an `averaged` metric has gathered: a tree like the parameters, or ().
        growth: What the gradients that weights are grown by have gathered: the same, or ().
        key: The PRNG key, or ().
        strays: Weights that were not zero, although the mask did not keep them, when last looked
            at, the update after a mask was chosen: something moves them after `sparsify`.
    """

    count: Any
    mask: Any
    inner: Any
    average: Any
    growth: Any
    key: Any
    strays: Any


class KeepMaskState(NamedTuple):
    """What `keep_mask` remembers: the mask, a tree like the parameters.

    Attributes:
        mask: The mask.
    """

    mask: Any


def current(state: Any) -> Any:
    """The state of `sparsify` or `keep_mask` in an optimizer state, however deep it lies.

    Args:
        state: Any optimizer state.

    Returns:
        The `SparsifyState` or `KeepMaskState`: its `mask`, and `count`. It warns if something moved
        the zeros that `sparsify` made.

    Raises:
        NoMatch: There is none, or there are several.
    """
    found = _only(state)
    # An optimizer of NNX boxes whatever its state holds.
    strays = leaves(getattr(found, "strays", 0))[0].value
    counted = isinstance(strays, jax.Array | np.ndarray) and not is_traced(strays)
    if counted and np.any(strays):  # of several models, if it was mapped over
        warnings.warn(
            f"{int(np.sum(strays))} weights that the mask of sparsify does not keep were not zero: "
            "something moved them after it. sparsify must be the outermost transformation, and its "
            "updates applied as they are.",
            stacklevel=2,
        )
    return found


def sparsities(state: Any, params: Any) -> Any:
    """How sparse each leaf is by the mask in an optimizer state: to be logged, under jit too.

    Args:
        state: Any optimizer state in which one of `sparsify` or `keep_mask` lies.
        params: The parameters, for the shapes.

    Returns:
        A tree like `params` of float32 scalars, the fraction removed; None where a leaf is left
        dense.

    Raises:
        NoMatch: There is no such state, or there are several.
        StructureMismatch: The parameters are others.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp, optax
        >>> params = {"kernel": jnp.arange(8.0).reshape(2, 4), "bias": jnp.ones(4)}
        >>> tx = jp.sparsify(optax.sgd(0.1), 0.75, schedule=jp.one_shot())
        >>> jp.sparsities(tx.init(params), params)
        {'bias': None, 'kernel': Array(0.75, dtype=float32)}
    """
    # `optax.masked` and `optax.partition` hide some of the parameters from it.
    masks = {leaf.path: leaf.value for leaf in leaves(_only(state).mask)}
    found = leaves(params)
    if strange := sorted(masks.keys() - {leaf.path for leaf in found}):
        raise StructureMismatch(
            f"the state's mask has the leaf {strange[0]!r}, which these parameters lack: pass "
            "those that are trained."
        )

    def sparsity(leaf: Leaf) -> Any:
        kept = masks.get(leaf.path)
        if kept is None:
            return None
        kept = unpack(kept, leaf.value) if kept.dtype == jnp.uint8 else kept
        return as_float(count_true(~kept)) / np.float32(kept.size)

    return rebuild(params, [sparsity(leaf) for leaf in found])


def ours(state: Any) -> list[Any]:
    """The states of `sparsify` and `keep_mask` in an optimizer state."""

    def is_ours(node: Any) -> bool:
        return isinstance(node, SparsifyState | KeepMaskState)

    return [leaf.value for leaf in leaves(state, is_leaf=is_ours) if is_ours(leaf.value)]


def _only(state: Any) -> Any:
    found = ours(state)
    if len(found) != 1:
        raise NoMatch(
            f"expected one state of sparsify or keep_mask in the optimizer state, found "
            f"{len(found)}: pass the state of one optimizer, or a part of it."
        )
    return found[0]


def strays_of(kept: Sequence[Any], weights: Sequence[Any]) -> jax.Array:
    """How many weights are not zero although the masks do not keep them."""
    counts = [
        jnp.sum(nonzero(as_array(w)) & ~m, dtype=jnp.int32)
        for m, w in zip(kept, weights, strict=True)
        if m is not None
    ]
    return jnp.stack(counts).sum(dtype=jnp.int32)
