"""From scores to masks, and from masks to pruned parameters."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune._bits import from_keys, keys, nonzero
from jaxprune._errors import Problem, StructureMismatch, raise_problems
from jaxprune._metrics import L1, Metric, importance
from jaxprune._plan import Decision, decide
from jaxprune._select import limbs, shares, survivors
from jaxprune._sharding import on_any_mesh, placed
from jaxprune._specs import (
    NM,
    Axis,
    Block,
    Channels,
    Columns,
    Reduce,
    Rows,
    SteppedNM,
    Unstructured,
    axis_of,
    budget_of,
    per_axis,
    pruned_count,
    unit_view,
)
from jaxprune._tree import Leaf, aligned, as_array, is_array, is_prunable, leaves, rebuild
from jaxprune._where import Where, is_weight


def prune(
    params: Any,
    spec: Any,
    *,
    metric: Metric = L1(),  # noqa: B008  # frozen and empty
    where: Where = is_weight,
) -> tuple[Any, Any]:
    """Scores, selects and removes, in one call.

    Args:
        params: Any tree of arrays.
        spec: A sparsity such as 0.5, or whatever `make_mask` takes.
        metric: How weights are scored.
        where: Which leaves may be pruned.

    Returns:
        The pruned parameters and the mask that made them.

    Raises:
        PruningError: As `importance` and `make_mask` do.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> pruned, mask = jp.prune({"kernel": jnp.array([[1.0, -4.0], [3.0, 2.0]])}, 0.5)
        >>> pruned
        {'kernel': Array([[ 0., -4.],
               [ 3.,  0.]], dtype=float32)}
    """
    decide(leaves(params), spec, where)  # refuses before there is work to regret
    mask = make_mask(importance(params, metric), spec, where=where)
    return apply_mask(params, mask), mask


def make_mask(scores: Any, spec: Any, *, where: Where = is_weight) -> Any:
    """Turns scores into a mask of what is kept.

    Args:
        scores: A tree of scores, as `importance` gives it; higher is kept.
        spec: One spec (or a sparsity, short for `Unstructured`); or a flat mapping from path
            patterns to specs, of which the first that covers a leaf prunes it; or a tree of specs
            that is a prefix of `scores`. None in place of a spec leaves its leaves dense. Patterns
            are shell patterns (`"*/kernel"`; `*` crosses slashes) or compiled regular expressions,
            and cover a leaf when they match its whole path or that of a subtree around it. JAX
            sorts the keys of a dict passed to a jitted function, so write mappings inside it, or
            close over them.
        where: Which leaves may be pruned: a predicate on (path, leaf), or path patterns. For a bare
            array it is ignored.

    Returns:
        A tree like `scores`: bool, True where the weight is kept, of the shape and sharding of its
        leaf; None where a leaf is left dense. A global budget counts an array that stands in the
        tree twice once.

    Raises:
        PruningError: One of its kinds, naming all leaves and rules at fault, before any work is
            done.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> scores = {"dense": {"kernel": jnp.array([[4.0, 1.0], [3.0, 2.0]]), "bias": jnp.ones(2)}}
        >>> jp.make_mask(scores, {"dense/*": jp.Unstructured(0.5)})
        {'dense': {'bias': None, 'kernel': Array([[ True, False],
               [ True, False]], dtype=bool)}}
    """
    found = leaves(scores)
    rules, _ = decide(found, spec, where)
    return rebuild(scores, masks_by(rules, found))


def masks_by(rules: Sequence[Decision], found: Sequence[Leaf]) -> list[jax.Array | None]:
    """The mask of each leaf, None where no rule prunes it."""
    masks: list[jax.Array | None] = [None] * len(found)
    for rule in rules:
        unique = {id(found[i].value): as_array(found[i].value) for i in rule.members}
        made = masks_of(rule.spec, list(unique.values()))
        ready = map(placed, made, unique.values())  # a unit's mask may be spread in another way
        by_array = dict(zip(unique, ready, strict=True))
        for i in rule.members:
            masks[i] = by_array[id(found[i].value)]
    return masks


def without(spec: Any, scores: jax.Array, kept: jax.Array) -> jax.Array:
    """Scores in which what a mask does not keep ranks below all else.

    Where units go as one, a unit that lives on is scored by what is left of it.
    """
    gone: Any = -jnp.inf
    if isinstance(spec, Rows | Columns | Channels | Block):
        view, axes = unit_view(spec, scores.shape)
        alive = jnp.any(kept.reshape(view), axes, keepdims=True)
        gone = jnp.broadcast_to(jnp.where(alive, 0.0, -jnp.inf), view).reshape(scores.shape)
    return jnp.where(kept, scores, gone.astype(scores.dtype) if is_array(gone) else gone)


def apply_mask(params: Any, mask: Any) -> Any:
    """Sets the weights that the mask does not keep to zero.

    The result holds 0.0 wherever the mask is False, also where a NaN or an infinity stood, and
    every other value unchanged. Under `jax.jit(jp.apply_mask, donate_argnums=0)` it happens in
    place.

    Args:
        params: Any tree of arrays.
        mask: A tree with the same paths that holds bool arrays, and None where a leaf stays as it
            is.

    Returns:
        A tree like `params`.

    Raises:
        StructureMismatch: The mask has other paths, other shapes, or is not bool.
    """
    pairs = list(aligned(params, mask, "mask"))
    raise_problems(mask_problem(leaf, kept) for leaf, kept in pairs)
    # What is one array before is one array after.
    pruned: dict[tuple[int, int], jax.Array] = {}
    for leaf, kept in pairs:
        if kept is not None and (id(leaf.value), id(kept)) not in pruned:
            pruned[id(leaf.value), id(kept)] = _zeroed(leaf.value, kept)
    return rebuild(
        params, [pruned.get((id(leaf.value), id(kept)), leaf.value) for leaf, kept in pairs]
    )


def mask_from_zeros(params: Any, *, where: Where = is_weight) -> Any:
    """The mask of a model that is sparse already: False exactly where a weight is zero.

    Args:
        params: Any tree of arrays.
        where: Which leaves get a mask.

    Returns:
        A tree like `params` of bool masks; None where a leaf is left dense.

    Raises:
        NoMatch: `where` takes no leaf.
    """
    found = leaves(params)
    rules, _ = decide(found, Unstructured(0.0, min_nonzero=0), where)
    members = set(rules[0].members)
    return rebuild(
        params,
        [nonzero(leaf.value) if i in members else None for i, leaf in enumerate(found)],
    )


def pack(mask: Any) -> Any:
    """Packs a mask to one bit a weight: uint8, eight neighbours of the last axis in a byte.

    Args:
        mask: A tree of bool masks, and None.

    Returns:
        A tree like `mask`; the last axis is an eighth as long, rounded up, and the sharding is
        kept.
    """
    found = leaves(mask)
    raise_problems(_not_bool(leaf) for leaf in found)
    return rebuild(
        mask,
        [
            None if leaf.value is None else placed(_packed(as_array(leaf.value)), leaf.value)
            for leaf in found
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


_PAIRWISE = 32  # the widest N:M group in which every pair of weights is compared


# --- what each spec does ------------------------------------------------------------------------


@functools.singledispatch
def masks_of(spec: Any, scores: Sequence[jax.Array]) -> list[jax.Array]:
    """The masks of the leaves that one rule prunes, whose fit has been checked.

    Register a class here and in `misfit` to make it a spec.
    """
    raise TypeError(f"{spec!r} is no spec")


@masks_of.register
def _(spec: Unstructured, scores: Sequence[jax.Array]) -> list[jax.Array]:
    if spec.per == "global":
        return _global(spec, scores)
    masks = []
    for array in scores:
        budget = budget_of(spec, array.shape)
        axis = per_axis(spec)
        across = None if axis is None else axis_of(axis, array.ndim)
        axes = tuple(axis for axis in range(array.ndim) if axis != across)
        masks.append(survivors(array, budget.lost(spec.sparsity), axes=axes))
    return masks


@masks_of.register(Rows)
@masks_of.register(Columns)
@masks_of.register(Channels)
@masks_of.register(Block)
def _(spec: Rows | Columns | Channels | Block, scores: Sequence[jax.Array]) -> list[jax.Array]:
    return [
        _units(
            array,
            budget_of(spec, array.shape).lost(spec.sparsity),
            *unit_view(spec, array.shape),
            spec.reduce,
        )
        for array in scores
    ]


@masks_of.register(NM)
@masks_of.register(SteppedNM)
def _(spec: NM | SteppedNM, scores: Sequence[jax.Array]) -> list[jax.Array]:
    return [_grouped(array, jnp.asarray(spec.n, jnp.int32), spec.m, spec.axis) for array in scores]


def _global(spec: Unstructured, scores: Sequence[jax.Array]) -> list[jax.Array]:
    widest = functools.reduce(jnp.promote_types, [array.dtype for array in scores])
    pool = [array.astype(widest) for array in scores]
    most = [array.size - spec.min_nonzero for array in scores]
    wanted = pruned_count(spec.sparsity, sum(array.size for array in scores)).clip(0)
    counts, near = shares(pool, limbs(wanted, sum(most)), [jnp.int32(limit) for limit in most])
    return [survivors(array, count, near=near) for array, count in zip(pool, counts, strict=True)]


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
@on_any_mesh
def _units(
    scores: jax.Array,
    count: jax.Array,
    view: tuple[int, ...],
    axes: tuple[int, ...],
    reduce: Reduce,
) -> jax.Array:
    """Prunes the `count` units of the lowest score; `axes` of `view` span a unit."""
    viewed = scores.reshape(view)
    unit_scores = _reduced(viewed, axes, reduce)
    kept = survivors(unit_scores, count)
    return jnp.broadcast_to(kept, view).reshape(scores.shape)


def _reduced(scores: jax.Array, axes: tuple[int, ...], reduce: Reduce) -> jax.Array:
    wide = jnp.promote_types(scores.dtype, jnp.float32)
    if reduce == "max":
        return from_keys(jnp.max(keys(scores), axes, keepdims=True), scores.dtype)
    if reduce == "l2":
        length = jnp.sqrt(jnp.sum(jnp.square(scores.astype(wide)), axes, keepdims=True))
        # Squared, the score that is below all others would be above them.
        lowest = jnp.any(scores == -jnp.inf, axes, keepdims=True)
        return jnp.where(lowest, -jnp.inf, length)
    summed = jnp.sum(scores.astype(wide), axes, keepdims=True)
    return summed / math.prod(scores.shape[axis] for axis in axes) if reduce == "mean" else summed


@functools.partial(jax.jit, static_argnums=(2, 3))
@on_any_mesh
def _grouped(scores: jax.Array, n: jax.Array, m: int, along: Axis | None) -> jax.Array:
    """Keeps the n highest of every m."""
    axis = 0 if along is None else axis_of(along, scores.ndim)
    shape = (scores.size,) if along is None else scores.shape
    view = (*shape[:axis], shape[axis] // m, m, *shape[axis + 1 :])
    if m > _PAIRWISE:
        kept = survivors(scores.reshape(view), m - n, axes=(axis + 1,), ties="last")
        return kept.reshape(scores.shape)
    order = keys(scores).reshape(view)
    columns = [lax.index_in_dim(order, i, axis + 1) for i in range(m)]
    # A weight stays if fewer than n of its group beat it. To beat an earlier one it must be higher.
    beaten = [jnp.zeros_like(column, jnp.int8) for column in columns]
    for i in range(m):
        for j in range(i):
            wins = (columns[i] > columns[j]).astype(jnp.int8)
            beaten[j] = beaten[j] + wins
            beaten[i] = beaten[i] + 1 - wins
    return jnp.concatenate([b < n for b in beaten], axis + 1).reshape(scores.shape)


@jax.jit
def _zeroed(weights: jax.Array, kept: jax.Array) -> jax.Array:
    return jnp.where(kept, weights, 0)


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


# --- what a user passed -------------------------------------------------------------------------


def mask_problem(leaf: Leaf, kept: Any) -> Problem | None:
    """What is wrong with the mask `kept` of a leaf; None if nothing."""
    if kept is None:
        return None
    problem = _not_bool(Leaf(leaf.path, kept))
    if problem:
        return problem
    if not is_array(leaf.value) or leaf.value.shape != kept.shape:
        shape = (
            leaf.value.shape
            if is_array(leaf.value)
            else f"no array but {type(leaf.value).__name__}"
        )
        return Problem(
            StructureMismatch,
            f"{leaf.name} has shape {shape}, and its mask {kept.shape}: make the mask from these "
            "parameters.",
        )
    if not is_prunable(leaf.value):
        return Problem(
            StructureMismatch,
            f"{leaf.name} holds {leaf.value.dtype}, and only floats are pruned: expected None in "
            "the mask there.",
        )
    return None


def _not_bool(leaf: Leaf) -> Problem | None:
    if leaf.value is None or (is_array(leaf.value) and leaf.value.dtype == bool):
        return None
    what = f"dtype {leaf.value.dtype}" if is_array(leaf.value) else type(leaf.value).__name__
    return Problem(
        StructureMismatch,
        f"{leaf.name} has a mask of {what}, expected bool, True = kept: unpack it if it is "
        "packed, or write mask.astype(bool).",
    )


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
