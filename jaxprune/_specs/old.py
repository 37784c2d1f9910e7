"""What shape sparsity takes, and how much of it.

A spec is a frozen dataclass and a pytree: its `sparsity` is data, so a hundred sparsities share one
compilation and a schedule may feed it a tracer; the rest is static. Whether a leaf can hold a spec
is answered here by `misfit`, and what the spec does to it in `_masks.py` by `masks_of`. Both
dispatch on the type of the spec: registering a class with the two is all it takes to add one.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import (
    BelowMinNonzero,
    EmptyTensor,
    InvalidPattern,
    InvalidSparsity,
    NotTwoDimensional,
    Problem,
    PruningError,
    shown,
)
from jaxprune._select import LARGEST
from jaxprune._tree import Leaf, is_array, is_traced, node

Axis: TypeAlias = int | Literal["input", "output"]
Scope: TypeAlias = Literal["leaf", "global"] | Axis
Reduce: TypeAlias = Literal["sum", "mean", "l2", "max"]
Scalar: TypeAlias = float | jax.Array | np.ndarray[Any, Any]

_AXES = {"input": -2, "output": -1}


@node("sparsity")
@dataclass(frozen=True, slots=True)
class Unstructured:
    """Prunes the lowest scores wherever they stand.

    A group of n weights loses exactly `floor(float32(sparsity) * float32(n))`, less what
    `min_nonzero` holds back; among equal scores the lower row-major index goes first.

    Attributes:
        sparsity: The fraction removed, in [0, 1).
        per: What shares a budget. "leaf": each leaf its own. "global": all leaves of the rule
            together. An axis (an integer, "input" or "output"): every index along it, so
            `per="output"` gives each output unit the same number of inputs.
        min_nonzero: Weights that each leaf (with an axis, each group) keeps at the least. Under a
            global budget the other leaves give what a leaf at its floor cannot.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> jp.make_mask(jnp.array([0.3, 0.1, 0.2, 0.4]), jp.Unstructured(0.5))
        Array([ True, False, False,  True], dtype=bool)
    """

    sparsity: Scalar
    per: Scope = "leaf"
    min_nonzero: int = 1

    def __post_init__(self) -> None:
        _check_sparsity(self.sparsity)
        _check_count("min_nonzero", self.min_nonzero)
        if self.per not in ("leaf", "global"):
            _check_axis("per", self.per, 'or "leaf" or "global"')


@node("sparsity")
@dataclass(frozen=True, slots=True)
class Rows:
    """Prunes whole rows (indices along axis 0) of matrices.

    Attributes:
        sparsity: The fraction of the rows removed, in [0, 1).
        reduce: How the scores of a row become one: "sum", "mean", "l2" (the root of the sum of the
            squared scores: a row's Euclidean norm under `L1()`, but not under `L2()`, whose scores
            are squares already) or "max".
        min_nonzero: Weights (not rows) that a leaf keeps at the least.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> jp.make_mask(jnp.array([[1.0, 2.0], [0.5, 0.1]]), jp.Rows(0.5))
        Array([[ True,  True],
               [False, False]], dtype=bool)
    """

    sparsity: Scalar
    reduce: Reduce = "sum"
    min_nonzero: int = 1

    def __post_init__(self) -> None:
        _check_units(self)


@node("sparsity")
@dataclass(frozen=True, slots=True)
class Columns:
    """Prunes whole columns (indices along axis 1) of matrices.

    Attributes:
        sparsity: The fraction of the columns removed, in [0, 1).
        reduce: How the scores of a column become one: "sum", "mean", "l2" or "max".
        min_nonzero: Weights (not columns) that a leaf keeps at the least.
    """

    sparsity: Scalar
    reduce: Reduce = "sum"
    min_nonzero: int = 1

    def __post_init__(self) -> None:
        _check_units(self)


@node("sparsity")
@dataclass(frozen=True, slots=True)
class Channels:
    """Prunes whole channels: every index along an axis is one unit, in a leaf of any rank.

    Attributes:
        sparsity: The fraction of the channels removed, in [0, 1).
        axis: The axis whose indices are the channels. "input" and "output" mean Flax's kernels
            `[..., in, out]`; elsewhere (Equinox and PyTorch keep `[out, in, ...]`, attention
            kernels are `[in, heads, features]`) give an integer.
        reduce: How the scores of a channel become one: "sum", "mean", "l2" or "max".
        min_nonzero: Weights (not channels) that a leaf keeps at the least.
    """

    sparsity: Scalar
    axis: Axis = -1
    reduce: Reduce = "sum"
    min_nonzero: int = 1

    def __post_init__(self) -> None:
        _check_units(self)
        _check_axis("axis", self.axis)


@node()
@dataclass(frozen=True, slots=True)
class NM:
    """Keeps `n` of every `m` consecutive weights; among equal scores the lower index is kept.

    Sparse tensor cores run 2:4 along the input axis of a matrix product, which in Flax's kernels is
    `axis="input"`, not the default. In attention's `[in, heads, features]` kernels it is axis 0.

    Attributes:
        n: Weights kept in each group.
        m: The size of a group.
        axis: The axis along which groups lie: an integer, "input", "output", or None for the
            row-major order of the whole leaf.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> jp.make_mask(jnp.array([4.0, 1.0, 3.0, 2.0]), jp.NM(2, 4))
        Array([ True, False,  True, False], dtype=bool)
    """

    n: int
    m: int
    axis: Axis | None = -1

    def __post_init__(self) -> None:
        for name in ("n", "m"):
            _check_count(name, getattr(self, name), InvalidPattern)
        if not 1 <= self.n <= self.m:
            raise InvalidPattern(
                f"NM({self.n}, {self.m}) keeps {self.n} of every {self.m}: expected 1 <= n <= m. "
                "NM(2, 4) keeps 2 of every 4."
            )
        if self.axis is not None:
            _check_axis("axis", self.axis, "or None for the whole leaf in row-major order")


@node("sparsity")
@dataclass(frozen=True, slots=True)
class Block:
    """Prunes whole blocks of the last two axes; leading axes stack such matrices under one budget.

    Attributes:
        sparsity: The fraction of the blocks removed, in [0, 1).
        shape: The block's height and width; they divide the last two axes.
        reduce: How the scores of a block become one: "sum", "mean", "l2" or "max".
        min_nonzero: Weights (not blocks) that a leaf keeps at the least.
    """

    sparsity: Scalar
    shape: tuple[int, int]
    reduce: Reduce = "sum"
    min_nonzero: int = 1

    def __post_init__(self) -> None:
        _check_units(self)
        good = isinstance(self.shape, tuple) and len(self.shape) == 2
        if not good or not all(_is_int(side) and side > 0 for side in self.shape):
            raise InvalidPattern(
                f"Block's shape is two positive integers, got {shown(self.shape)}: "
                "write Block(0.5, (16, 16))."
            )


Budgeted: TypeAlias = Unstructured | Rows | Columns | Channels | Block


def as_spec(value: Any) -> Any:
    """A spec as it is, a sparsity as `Unstructured`; anything else is refused."""
    if is_spec(value):
        return value
    if isinstance(value, numbers.Real) or (is_array(value) and not value.shape):
        return Unstructured(value)
    hint = (
        f"{value.__name__} is a class: write {value.__name__}(...)"
        if isinstance(value, type)
        else ""
    )
    kind = InvalidSparsity if isinstance(value, str) else PruningError
    raise kind(
        "expected a spec such as jp.Unstructured(0.5) or jp.NM(2, 4), or a mapping or tree of "
        "specs, "
        f"got {shown(value)}. {hint}".rstrip()
    )


def is_spec(value: Any) -> bool:
    """Whether `misfit` knows the type of `value`."""
    return misfit.dispatch(type(value)) is not misfit.dispatch(object)


@functools.singledispatch
def misfit(spec: Any, leaf: Leaf) -> Problem | None:
    """What is wrong with applying `spec` to `leaf`, its values unseen; None if nothing is."""
    raise TypeError(f"{spec!r} is no spec, and {leaf.name} was to be pruned by it")


@misfit.register
def _(spec: Unstructured, leaf: Leaf) -> Problem | None:
    shape = leaf.value.shape
    axis = per_axis(spec)
    problem = _wrong_size(leaf) or (None if axis is None else _absent(leaf, axis))
    return problem or _wrong_floor(spec, leaf, budget_of(spec, shape).units)


@misfit.register(Rows)
@misfit.register(Columns)
def _(spec: Rows | Columns, leaf: Leaf) -> Problem | None:
    if len(leaf.value.shape) != 2:
        axis = 0 if isinstance(spec, Rows) else 1
        other = f"use Channels(..., axis={axis}), or " if axis < len(leaf.value.shape) else ""
        return Problem(
            NotTwoDimensional,
            f"{leaf.name} has shape {leaf.value.shape}, and {type(spec).__name__} needs 2 "
            f"dimensions: {other}leave it out with where=, or by a rule.",
        )
    return _wrong_size(leaf) or _wrong_floor(spec, leaf, leaf.value.size)


@misfit.register
def _(spec: Channels, leaf: Leaf) -> Problem | None:
    return (
        _wrong_size(leaf) or _absent(leaf, spec.axis) or _wrong_floor(spec, leaf, leaf.value.size)
    )


@misfit.register
def _(spec: NM, leaf: Leaf) -> Problem | None:
    if spec.axis is None:
        along, length = "in row-major order", leaf.value.size
    else:
        problem = _absent(leaf, spec.axis)
        if problem:
            return problem
        axis = axis_of(spec.axis, len(leaf.value.shape))
        along, length = f"along axis {axis - len(leaf.value.shape)}", leaf.value.shape[axis]
    if leaf.value.size and length % spec.m:
        return Problem(
            InvalidPattern,
            f"{leaf.name} has {length} entries {along}, not divisible by m={spec.m}: leave it out "
            "with where=, or choose another axis.",
        )
    return _wrong_size(leaf)


@misfit.register
def _(spec: Block, leaf: Leaf) -> Problem | None:
    shape = leaf.value.shape
    if len(shape) < 2:
        return Problem(
            InvalidPattern,
            f"{leaf.name} has shape {shape}, and Block needs 2 dimensions or more: leave it out "
            "with where=.",
        )
    if any(side % block for side, block in zip(shape[-2:], spec.shape, strict=True)):
        return Problem(
            InvalidPattern,
            f"{leaf.name} has {shape[-2]}x{shape[-1]} entries in its last two axes, not divisible "
            f"into blocks of {spec.shape[0]}x{spec.shape[1]}: leave it out with where=, or choose "
            "another shape.",
        )
    return _wrong_size(leaf) or _wrong_floor(spec, leaf, leaf.value.size)


class SteppedNM(NamedTuple):
    """An N:M pattern on its way: `n` is data. A schedule makes it; users do not."""

    n: jax.Array
    m: int
    axis: Axis | None


def at_sparsity(spec: Any, sparsity: Callable[[Any], Any]) -> Any:
    """The spec with `sparsity` of its own in place of its own, which may be traced."""
    if isinstance(spec, NM):
        # To the whole weight below, and where it is one but for rounding, that one.
        lost = jnp.floor(sparsity(1 - spec.n / spec.m) * spec.m + 2**-8).astype(jnp.int32)
        return SteppedNM(jnp.clip(spec.m - lost, spec.n, spec.m), spec.m, spec.axis)
    if not hasattr(spec, "sparsity"):
        raise PruningError(f"{shown(spec)} has no sparsity that a schedule could set.")
    return dataclasses.replace(spec, sparsity=sparsity(spec.sparsity))


class Budget(NamedTuple):
    """How a spec divides a leaf: `groups` that each lose the same number of their `units`.

    A unit is `size` weights that go or stay together, and `held` units of a group stay in any case.
    """

    groups: int
    units: int
    size: int
    held: int

    def lost(self, sparsity: Scalar) -> Any:
        """How many units each group loses: an int32 scalar of NumPy, or of JAX as `sparsity` is."""
        return pruned_count(sparsity, self.units).clip(0, self.units - self.held).astype(np.int32)


def pruned_count(sparsity: Scalar, size: int) -> Any:
    """`floor(float32(sparsity) * float32(size))`, still as a float32."""
    # NumPy takes a hundredth of the time that JAX does for a scalar.
    xp: Any = jnp if isinstance(sparsity, jax.Array) else np
    # A traced sparsity cannot be refused: NaN and negative ones remove nothing.
    return xp.floor(xp.fmax(xp.asarray(sparsity, np.float32), np.float32(0)) * np.float32(size))


def budget_of(spec: Budgeted, shape: tuple[int, ...]) -> Budget:
    """The budget of one leaf under a spec that has a sparsity and no global scope."""
    size = math.prod(shape)
    if isinstance(spec, Unstructured):
        axis = per_axis(spec)
        groups = 1 if axis is None else shape[axis_of(axis, len(shape))]
        return Budget(groups, size // groups, 1, spec.min_nonzero)
    view, axes = unit_view(spec, shape)
    unit = math.prod(view[axis] for axis in axes)
    return Budget(1, size // unit, unit, -(-spec.min_nonzero // unit))


def per_axis(spec: Unstructured) -> Axis | None:
    """The axis whose indices have budgets of their own; None if budgets are wider."""
    return None if spec.per == "leaf" or spec.per == "global" else spec.per  # noqa: PLR1714  # narrows


def unit_view(
    spec: Rows | Columns | Channels | Block, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape of the same weights, and the axes of it along which each unit lies."""
    ndim = len(shape)
    if isinstance(spec, Block):
        high, wide = spec.shape
        *lead, rows, columns = shape
        return (*lead, rows // high, high, columns // wide, wide), (ndim - 1, ndim + 1)
    across = {Rows: 0, Columns: 1}.get(type(spec))
    if across is None:
        across = axis_of(spec.axis, ndim)  # type: ignore[union-attr]  # only Channels is left
    return shape, tuple(axis for axis in range(ndim) if axis != across)


def axis_of(axis: Axis, ndim: int) -> int:
    """The index, from the front, of an `axis` known to exist."""
    index = _AXES[axis] if isinstance(axis, str) else axis
    return index % ndim


def _absent(leaf: Leaf, axis: Axis) -> Problem | None:
    index = _AXES[axis] if isinstance(axis, str) else axis
    ndim = len(leaf.value.shape)
    if -ndim <= index < ndim:
        return None
    return Problem(
        InvalidPattern,
        f"{leaf.name} has shape {leaf.value.shape} and no axis {shown(axis)}: leave it out with "
        "where=, or choose another axis.",
    )


def _wrong_size(leaf: Leaf) -> Problem | None:
    size = math.prod(leaf.value.shape)
    if not size:
        return Problem(
            EmptyTensor,
            f"{leaf.name} has shape {leaf.value.shape} and holds no weights: leave it out with "
            "where=.",
        )
    if size > LARGEST:
        return Problem(
            InvalidPattern,
            f"{leaf.name} holds {size} weights, more than the {LARGEST} that one leaf may: split "
            "it.",
        )
    return None


def _wrong_floor(spec: Any, leaf: Leaf, size: int) -> Problem | None:
    if spec.min_nonzero <= size:
        return None
    return Problem(
        BelowMinNonzero,
        f"{leaf.name} should keep min_nonzero={spec.min_nonzero} weights of only {size}: lower "
        "it, or leave the leaf out with where=.",
    )


# --- what a user typed --------------------------------------------------------------------------


def check_sparsity(value: Any) -> None:
    """Refuses a sparsity that is known and is no number in [0, 1); one still traced passes.

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


def _check_sparsity(value: Any) -> None:
    # JAX rebuilds a spec with whatever stands for its data (tracers, axes, placeholders): at this
    # point only what a user can have typed is judged, and `make_mask` judges the rest.
    if isinstance(value, numbers.Real | str):
        check_sparsity(value)


def _check_units(spec: Any) -> None:
    _check_sparsity(spec.sparsity)
    _check_count("min_nonzero", spec.min_nonzero)
    if spec.reduce not in _REDUCES:
        raise InvalidPattern(
            f"reduce is one of {', '.join(map(repr, _REDUCES))}, got {shown(spec.reduce)}."
        )


_REDUCES = ("sum", "mean", "l2", "max")


def _check_count(name: str, value: Any, kind: type[PruningError] = BelowMinNonzero) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise kind(
            f"{name} is a Python integer of 0 or more, known when the spec is written, got "
            f"{shown(value)}."
        )


def _check_axis(name: str, value: Any, others: str = "") -> None:
    if value in ("input", "output") if isinstance(value, str) else _is_int(value):
        return
    expected = f'an integer, "input", "output" {others}'.rstrip()
    raise InvalidPattern(
        f"{name} is {expected}, known when the spec is written, got {shown(value)}."
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
