"""What a spec must answer, so that masks, plans, schedules, training and files know it.

A spec is a frozen dataclass and a pytree: its `sparsity` is data, so a hundred sparsities share one
compilation and a schedule may feed it a tracer; the rest is static. What it means is said by
functions that dispatch on its class. A new class needs `fit` and `mask`; the others have defaults
that are right for a spec with a `sparsity`, and faster answers can be registered.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import InvalidSparsity, Problem, PruningError
from jaxprune._kernels.ranked import Ranked
from jaxprune._specs.checks import Axis
from jaxprune._text import shown
from jaxprune._tree import Leaf, is_array


class Work(NamedTuple):
    """One leaf to be pruned.

    Attributes:
        spec: The spec that prunes it, its axes integers.
        leaf: Its weights, and how they rank.
        rule: The number of the rule that the spec stands in: leaves of one rule may share a budget.
    """

    spec: Any
    leaf: Ranked
    rule: int


@functools.singledispatch
def fit(spec: Any, leaf: Leaf) -> Problem | None:
    """What is wrong with applying `spec` to `leaf`, its values unseen; None if nothing is."""
    raise TypeError(f"{spec!r} is not a spec, and {leaf.name} was to be pruned by it")


@functools.singledispatch
def mask(spec: Any, scores: jax.Array) -> jax.Array:
    """The bool mask of one leaf, True = kept: of its scores, in JAX, under any transformation."""
    raise TypeError(f"{spec!r} has no mask registered")


@functools.singledispatch
def select(spec: Any, works: Sequence[Work]) -> list[jax.Array]:
    """The masks of all leaves that are pruned by specs of this class."""
    return [mask(work.spec, _rankable(work.leaf)) for work in works]


@functools.singledispatch
def removed(spec: Any, shape: tuple[int, ...]) -> int | None:
    """How many weights a leaf of this shape loses; None if that depends on other leaves.

    By default a mask of rising scores is made and counted.
    """
    rising = jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)
    return int(np.count_nonzero(~np.asarray(mask(spec, rising))))


@functools.singledispatch
def fit_together(spec: Any, leaves: Sequence[Leaf]) -> Problem | None:
    """What is wrong with the leaves of one rule together; None if nothing is."""
    del spec, leaves
    return None


@functools.singledispatch
def resolved(spec: Any, leaf: Leaf, axis_of: Callable[[Axis], Axis]) -> Any:
    """The spec with the axis words "input" and "output" answered by `axis_of` for this leaf."""
    del leaf, axis_of
    return spec


@functools.singledispatch
def scope(spec: Any) -> Callable[[str, Any], bool] | None:
    """The leaves that a spec is for unless `where=` says otherwise; None for those of `is_weight`.

    A predicate on (path, leaf).
    """
    del spec
    return None


@functools.singledispatch
def target(spec: Any) -> Any:
    """The sparsity that a schedule ends at."""
    if not hasattr(spec, "sparsity"):
        raise PruningError(f"{shown(spec)} has no sparsity that a schedule could set.")
    return spec.sparsity


@functools.singledispatch
def at_sparsity(spec: Any, sparsity: Any) -> Any:
    """The spec with this sparsity, which may be traced, in place of its own."""
    target(spec)
    return dataclasses.replace(spec, sparsity=sparsity)


def is_spec(value: Any) -> bool:
    """Whether `fit` knows the type of `value`."""
    return fit.dispatch(type(value)) is not fit.dispatch(object)


def as_spec(value: Any) -> Any:
    """A spec as it is, a sparsity as `Unstructured`; anything else is refused."""
    from jaxprune._specs.unstructured import Unstructured  # noqa: PLC0415  # it registers itself here

    if is_spec(value):
        return value
    if isinstance(value, numbers.Real) or (is_array(value) and not value.shape):
        return Unstructured(value)
    hint = ""
    if isinstance(value, type):
        hint = f"{value.__name__} is a class: write {value.__name__}(...)"
    kind = InvalidSparsity if isinstance(value, str) else PruningError
    raise kind(
        "expected a spec such as jp.Unstructured(0.5) or jp.NM(2, 4), or a mapping or tree of "
        f"specs, got {shown(value)}. {hint}".rstrip()
    )


def _rankable(leaf: Ranked) -> jax.Array:
    """Scores in which what is not alive ranks lowest and what is held highest."""
    scores = leaf.scores()
    if leaf.alive is not None:
        scores = jnp.where(leaf.alive, scores, -jnp.inf)
    return scores if leaf.held is None else jnp.where(leaf.held, jnp.inf, scores)
