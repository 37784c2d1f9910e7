"""What a user typed: sparsities, axes and counts, checked when a spec is written."""

import math
import numbers
from typing import Any, Literal, TypeAlias

import jax
import numpy as np

from jaxprune._errors import (
    BelowMinNonzero,
    EmptyTensor,
    InvalidPattern,
    InvalidSparsity,
    Problem,
    PruningError,
)
from jaxprune._text import shown
from jaxprune._tree import Leaf, is_array, is_traced
from jaxprune._where import leave_out

Axis: TypeAlias = int | tuple[int, ...] | Literal["input", "output"]
Reduce: TypeAlias = Literal["sum", "mean", "l2", "max"]
Scalar: TypeAlias = float | jax.Array | np.ndarray[Any, Any]

WORDS = ("input", "output")
_REDUCES = ("sum", "mean", "l2", "max")


def check_sparsity(value: Any) -> None:
    """Refuses a sparsity that is known and not a number in [0, 1); one still traced passes.

    Raises:
        InvalidSparsity: With what came, and what would do.
    """
    if is_traced(value):
        known = math.nan if value.shape else 0.5
    elif isinstance(value, numbers.Real) or (is_array(value) and not value.shape):
        known = float(np.float32(value))
    else:
        known = math.nan
    if not 0 <= known < 1:
        raise InvalidSparsity(
            "sparsity is the fraction removed, one number in [0, 1) as float32, got "
            f"{shown(value)}: write 0.9 to remove nine weights of ten; use vmap for several "
            "sparsities."
        )


def check_typed_sparsity(value: Any) -> None:
    """The same for what a user can have typed.

    JAX rebuilds a spec with whatever stands for its data (tracers, axes, placeholders): those are
    judged when the spec is applied.
    """
    if isinstance(value, numbers.Real | str):
        check_sparsity(value)


def check_units(spec: Any) -> None:
    """Refuses the fields that all specs of units share."""
    check_typed_sparsity(spec.sparsity)
    check_count("min_nonzero", spec.min_nonzero)
    if spec.reduce not in _REDUCES:
        raise InvalidPattern(
            f"reduce is one of {', '.join(map(repr, _REDUCES))}, got {shown(spec.reduce)}."
        )


def check_count(name: str, value: Any, kind: type[PruningError] = BelowMinNonzero) -> None:
    """Refuses what is not a count."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise kind(
            f"{name} is a Python integer of 0 or more, known when the spec is written, got "
            f"{shown(value)}."
        )


def check_axis(name: str, value: Any, others: str = "") -> None:
    """Refuses what is neither an integer, nor several, nor one of the axis words."""
    several = isinstance(value, tuple) and len(set(value)) == len(value) > 0
    if value in WORDS if isinstance(value, str) else is_integer(value):
        return
    if several and all(map(is_integer, value)):
        return
    expected = f'an integer, a tuple of integers, "input", "output" {others}'.rstrip()
    raise InvalidPattern(
        f"{name} is {expected}, known when the spec is written, got {shown(value)}."
    )


def is_integer(value: Any) -> bool:
    """Whether `value` is an integer and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def absent_axis(leaf: Leaf, axis: int | tuple[int, ...]) -> Problem | None:
    """The problem of a leaf that has no such axis."""
    ndim = len(leaf.value.shape)
    several = axis if isinstance(axis, tuple) else (axis,)
    if all(-ndim <= a < ndim for a in several) and len({a % ndim for a in several}) == len(several):
        return None
    return Problem(
        InvalidPattern,
        f"{leaf.name} has shape {leaf.value.shape} and no axis "
        f"{several[0] if len(several) == 1 else several}: {leave_out(leaf.path)}, or "
        "choose another axis.",
    )


def empty(leaf: Leaf) -> Problem | None:
    """The problem of a leaf that holds no weights."""
    if math.prod(leaf.value.shape):
        return None
    return Problem(
        EmptyTensor,
        f"{leaf.name} has shape {leaf.value.shape} and holds no weights: {leave_out(leaf.path)}.",
    )


def wrong_floor(min_nonzero: int, leaf: Leaf, size: int) -> Problem | None:
    """The problem of a group of `size` weights that cannot keep as many as it should."""
    if min_nonzero <= size:
        return None
    return Problem(
        BelowMinNonzero,
        f"{leaf.name} should keep min_nonzero={min_nonzero} weights of only {size}: lower it, or "
        f"{leave_out(leaf.path)}.",
    )
