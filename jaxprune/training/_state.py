"""What sparse training remembers, and where to find it in an optimizer state."""

import functools
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import NoMatch, StructureMismatch
from jaxprune._kernels.device import count_true
from jaxprune._kernels.limbs import as_float
from jaxprune._packing import unpack
from jaxprune._tree import Leaf, combined, is_traced, leaves, rebuild

if TYPE_CHECKING:
    import optax

MaskTree: TypeAlias = Any
ArrayTree: TypeAlias = Any


class SparsifyState(NamedTuple):
    """What `sparsify` remembers between updates; `current` finds it in any optimizer state.

    Attributes:
        count: The updates made, an int32 scalar.
        mask: A tree like the parameters: for each leaf that is pruned a bool array of its shape,
            True = kept, or with `packed` what `pack` makes of it (uint8, the last axis an eighth as
            long, rounded up); None where a leaf is left dense.
        inner: The state of the optimizer that is wrapped, any tree.
        average: What an `averaged` metric has gathered: a tree like the parameters of arrays of
            their shapes, float32 or wider, None where a leaf is left dense; () without one.
        growth: The averages of the gradients that weights are grown by, the same kind of tree; ()
            without them.
        key: One PRNG key, typed or uint32 of shape [2]; () without one.
        strays: An int32 scalar: how many weights were not zero, although the mask did not keep
            them, at the update after the last choice of a mask. Above 0 if something moves them
            after `sparsify`.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as in Optax
    mask: MaskTree
    inner: "optax.OptState"
    average: ArrayTree | tuple[()]
    growth: ArrayTree | tuple[()]
    key: jax.Array | tuple[()]
    strays: jax.Array


class KeepMaskState(NamedTuple):
    """What `keep_mask` remembers.

    Attributes:
        mask: A tree like the parameters: for each leaf that is pruned a bool array of its shape,
            True = kept; None where a leaf is left dense.
    """

    mask: MaskTree


def current(state: Any) -> SparsifyState | KeepMaskState:
    """The state of `sparsify` or `keep_mask` in an optimizer state, however deep it lies.

    `optax.partition` and `optax.masked` hide parameters from the optimizers inside them. There a
    mask has `optax.MaskedNode()` in place of what is hidden, which `apply_mask` and `report` read
    as None.

    Args:
        state: Any optimizer state.

    Returns:
        The `SparsifyState` or `KeepMaskState`: its `mask`, and `count`. If there are several, each
        for a part of the parameters, a `KeepMaskState` with the masks of all in one tree. It warns
        if something moved the zeros that `sparsify` made.

    Raises:
        NoMatch: There is none.
        StructureMismatch: There are several for the same parameter.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxprune as jp, optax
        >>> params = {"body": {"kernel": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones((2, 2))}}
        >>> once = {"schedule": jp.one_shot()}
        >>> tx = optax.partition(
        ...     {
        ...         "much": jp.sparsify(optax.adam(1e-3), 0.75, **once),
        ...         "some": jp.sparsify(optax.sgd(1e-2), 0.5, **once),
        ...     },
        ...     {"body": {"kernel": "much"}, "head": {"kernel": "some"}},
        ... )
        >>> mask = jp.current(tx.init(params)).mask
        >>> [int(kept.sum()) for kept in jax.tree.leaves(mask)]
        [1, 2]
    """
    states = mask_states(state)
    if not states:
        raise NoMatch(
            "found no state of sparsify or keep_mask in the optimizer state: pass the state of an "
            "optimizer that has one, as tx.init returned it."
        )
    strays = sum(map(_known_strays, states))
    if strays:
        warnings.warn(
            f"{strays} weights that the mask of sparsify does not keep were not zero: something "
            "moved them after it. sparsify must be the outermost transformation, and its updates "
            "applied as they are.",
            stacklevel=2,
        )
    if len(states) == 1:
        return states[0]
    masks = [each.mask for each in states]
    return KeepMaskState(functools.reduce(lambda a, b: combined(a, b, "masks"), masks))


def _known_strays(state: SparsifyState | KeepMaskState) -> int:
    """The strays of a state, of all models together if it was mapped over; 0 under jit."""
    # An optimizer of NNX boxes whatever its state holds.
    strays = leaves(getattr(state, "strays", 0))[0].value
    counted = isinstance(strays, jax.Array | np.ndarray) and not is_traced(strays)
    return int(np.sum(strays)) if counted else 0


def sparsities(state: Any, params: Any) -> Any:
    """How sparse each leaf is by the mask in an optimizer state: to be logged, under jit too.

    Args:
        state: Any optimizer state in which states of `sparsify` or `keep_mask` lie.
        params: The parameters, for the shapes.

    Returns:
        A tree like `params` of float32 scalars, the fraction removed; None where a leaf is left
        dense.

    Raises:
        NoMatch: There is no such state.
        StructureMismatch: The parameters are others, or there are several states for one.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp, optax
        >>> params = {"kernel": jnp.arange(8.0).reshape(2, 4), "bias": jnp.ones(4)}
        >>> tx = jp.sparsify(optax.sgd(0.1), 0.75, schedule=jp.one_shot())
        >>> jp.sparsities(tx.init(params), params)
        {'bias': None, 'kernel': Array(0.75, dtype=float32)}
    """
    masks = {leaf.path: leaf.value for leaf in leaves(current(state).mask)}
    params_leaves = leaves(params)
    if unknown := sorted(masks.keys() - {leaf.path for leaf in params_leaves}):
        raise StructureMismatch(
            f"the state's mask has the leaf {unknown[0]!r}, which these parameters lack: pass "
            "those that are trained."
        )

    def sparsity(leaf: Leaf) -> Any:
        kept = masks.get(leaf.path)
        if kept is None:
            return None
        kept = unpack(kept, leaf.value) if kept.dtype == jnp.uint8 else kept
        return as_float(count_true(~kept)) / np.float32(kept.size)

    return rebuild(params, [sparsity(leaf) for leaf in params_leaves])


def mask_states(state: Any) -> list[SparsifyState | KeepMaskState]:
    """The states of `sparsify` and `keep_mask` in an optimizer state."""

    def has_mask(node: Any) -> bool:
        return isinstance(node, SparsifyState | KeepMaskState)

    return [leaf.value for leaf in leaves(state, is_leaf=has_mask) if has_mask(leaf.value)]
