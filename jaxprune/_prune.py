"""From weights to scores to masks, and from masks to pruned parameters."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._assign import assign
from jaxprune._errors import Problem, StructureMismatch, raise_problems
from jaxprune._kernels import host
from jaxprune._kernels.floats import nonzero
from jaxprune._kernels.placement import from_host, is_host_array
from jaxprune._metrics import L1, Metric, ranked_by
from jaxprune._origins import ranked
from jaxprune._specs.unstructured import Unstructured
from jaxprune._tree import Leaf, aligned, as_array, is_array, is_prunable, leaves, rebuild
from jaxprune._where import Where, is_weight
from jaxprune.tracing._uses import Uses

_Params = TypeVar("_Params")


def prune(
    params: _Params,
    spec: Any,
    *,
    metric: Metric = L1(),
    where: Where = is_weight,
    uses: Uses | None = None,
) -> tuple[_Params, Any]:
    """Scores, selects and removes, in one call.

    Args:
        params: Any tree of arrays.
        spec: A sparsity such as 0.5, short for `Unstructured(0.5)`; or another spec:
            `Unstructured(0.5, per="global")`, `Rows(0.5)`, `Columns(0.5)`, `Channels(0.5, axis)`,
            `NM(2, 4, axis)`, `Block(0.5, (16, 16))` or `Coupled(dependencies, 0.5)`; or a mapping
            or a tree of specs, as for `make_mask`.
        metric: How weights are scored: `L1()`, `L2()`, `Taylor(grads)`, another metric, or a
            function from an array to scores.
        where: Which leaves may be pruned.
        uses: What `trace` read from the model: it answers "input" and "output", and by default the
            leaves that products and convolutions read may be pruned (`where=jp.Weights()` still
            chooses by name).

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
    assignment = assign(leaves(params), spec, where, uses)
    mask = rebuild(params, assignment.masks(ranked_by(metric, assignment.chosen)))
    return apply_mask(params, mask), mask


def make_mask(scores: Any, spec: Any, *, where: Where = is_weight, uses: Uses | None = None) -> Any:
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
        uses: What `trace` read from the model: it answers "input" and "output", and by default the
            leaves that products and convolutions read may be pruned (`where=jp.Weights()` still
            chooses by name).

    Returns:
        A tree like `scores`: bool, True where the weight is kept, of the shape and sharding of its
        leaf; None where a leaf is left dense.

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
    assignment = assign(leaves(scores), spec, where, uses)
    order = [ranked(as_array(leaf.value)) for leaf in assignment.chosen]
    return rebuild(scores, assignment.masks(order))


def apply_mask(params: _Params, mask: Any) -> _Params:
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
    return rebuild(
        params,
        [leaf.value if kept is None else _zeroed(leaf.value, kept) for leaf, kept in pairs],
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
    params_leaves = leaves(params)
    members = set(assign(params_leaves, Unstructured(0.0, min_nonzero=0), where).members)
    return rebuild(
        params,
        [nonzero(leaf.value) if i in members else None for i, leaf in enumerate(params_leaves)],
    )


def _zeroed(weights: Any, kept: Any) -> jax.Array:
    weights = as_array(weights)
    # NumPy does not know weak types.
    if is_host_array(weights) and is_host_array(kept) and not weights.weak_type:
        return from_host(host.zeroed(np.asarray(weights), np.asarray(kept)), weights)
    return _zeroed_compiled(weights, kept)


@jax.jit
def _zeroed_compiled(weights: jax.Array, kept: jax.Array) -> jax.Array:
    return jnp.where(kept, weights, 0)


def mask_problem(leaf: Leaf, kept: Any) -> Problem | None:
    """What is wrong with the mask `kept` of a leaf; None if nothing."""
    if kept is None:
        return None
    problem = not_bool(Leaf(leaf.path, kept))
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


def not_bool(leaf: Leaf) -> Problem | None:
    if leaf.value is None or (is_array(leaf.value) and leaf.value.dtype == bool):
        return None
    what = f"dtype {leaf.value.dtype}" if is_array(leaf.value) else type(leaf.value).__name__
    return Problem(
        StructureMismatch,
        f"{leaf.name} has a mask of {what}, expected bool, True = kept: unpack it if it is "
        "packed, or write mask.astype(bool).",
    )
