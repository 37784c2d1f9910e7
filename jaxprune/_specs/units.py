"""Whole units: rows, columns, channels and blocks, each of which goes or stays as one."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from jaxprune._errors import InvalidPattern, NotTwoDimensional, Problem
from jaxprune._kernels import device, host
from jaxprune._kernels.placement import from_host, on_host
from jaxprune._kernels.ranked import Ranked
from jaxprune._specs.budget import Budget, budget
from jaxprune._specs.checks import (
    WORDS,
    Axis,
    Reduce,
    Scalar,
    absent_axis,
    check_axis,
    check_units,
    empty,
    is_integer,
    wrong_floor,
)
from jaxprune._specs.protocol import Work, fit, removed, resolved, select
from jaxprune._text import shown
from jaxprune._tree import Leaf, node
from jaxprune._where import leave_out


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
        check_units(self)


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
        check_units(self)


@node("sparsity")
@dataclass(frozen=True, slots=True)
class Channels:
    """Prunes whole channels: every index along an axis is one unit, in a leaf of any rank.

    Attributes:
        sparsity: The fraction of the channels removed, in [0, 1).
        axis: The axis whose indices are the channels: an integer; several, of which every
            combination of indices is a channel; or "input" or "output" where the layout of a leaf
            is certain.
        reduce: How the scores of a channel become one: "sum", "mean", "l2" or "max".
        min_nonzero: Weights (not channels) that a leaf keeps at the least.
    """

    sparsity: Scalar
    axis: Axis = -1
    reduce: Reduce = "sum"
    min_nonzero: int = 1

    def __post_init__(self) -> None:
        check_units(self)
        check_axis("axis", self.axis)


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
        check_units(self)
        good = isinstance(self.shape, tuple) and len(self.shape) == 2
        if not good or not all(is_integer(side) and side > 0 for side in self.shape):
            raise InvalidPattern(
                f"Block's shape is two positive integers, got {shown(self.shape)}: "
                "write Block(0.5, (16, 16))."
            )


OfUnits: TypeAlias = Rows | Columns | Channels | Block


class UnitView(NamedTuple):
    """A leaf as units.

    Attributes:
        shape: A shape of the same weights.
        axes: The axes of it that a unit spans; each index along the others is a unit.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def unit_size(self) -> int:
        """How many weights a unit holds."""
        return math.prod(self.shape[axis] for axis in self.axes)


def unit_view(spec: OfUnits, shape: tuple[int, ...]) -> UnitView:
    """How a leaf of this shape divides into units."""
    ndim = len(shape)
    if isinstance(spec, Block):
        high, wide = spec.shape
        *lead, rows, columns = shape
        return UnitView((*lead, rows // high, high, columns // wide, wide), (ndim - 1, ndim + 1))
    if isinstance(spec, Channels):
        across = {int(axis) % ndim for axis in _several(spec.axis)}
    else:
        across = {int(isinstance(spec, Columns))}
    return UnitView(shape, tuple(axis for axis in range(ndim) if axis not in across))


def _several(axis: Any) -> tuple[int, ...]:
    return axis if isinstance(axis, tuple) else (axis,)


def unit_budget(spec: OfUnits, shape: tuple[int, ...]) -> Budget:
    """How many units a leaf loses."""
    size = unit_view(spec, shape).unit_size
    return budget(spec.sparsity, math.prod(shape) // size, -(-spec.min_nonzero // size))


@fit.register(Rows)
@fit.register(Columns)
def _(spec: Rows | Columns, leaf: Leaf) -> Problem | None:
    shape = leaf.value.shape
    if len(shape) != 2:
        axis = int(isinstance(spec, Columns))
        other = f"use Channels(..., axis={axis}), or " if axis < len(shape) else ""
        return Problem(
            NotTwoDimensional,
            f"{leaf.name} has shape {shape}, and {type(spec).__name__} needs 2 dimensions: {other}"
            f"{leave_out(leaf.path)}.",
        )
    return empty(leaf) or wrong_floor(spec.min_nonzero, leaf, math.prod(shape))


@fit.register
def _(spec: Channels, leaf: Leaf) -> Problem | None:
    return (
        empty(leaf)
        or absent_axis(leaf, _several(spec.axis))
        or wrong_floor(spec.min_nonzero, leaf, math.prod(leaf.value.shape))
    )


@fit.register
def _(spec: Block, leaf: Leaf) -> Problem | None:
    shape = leaf.value.shape
    if len(shape) < 2:
        return Problem(
            InvalidPattern,
            f"{leaf.name} has shape {shape}, and Block needs 2 dimensions or more: "
            f"{leave_out(leaf.path)}.",
        )
    if any(side % block for side, block in zip(shape[-2:], spec.shape, strict=True)):
        return Problem(
            InvalidPattern,
            f"{leaf.name} has {shape[-2]}x{shape[-1]} entries in its last two axes, not divisible "
            f"into blocks of {spec.shape[0]}x{spec.shape[1]}: {leave_out(leaf.path)}, or choose "
            "another shape.",
        )
    return empty(leaf) or wrong_floor(spec.min_nonzero, leaf, math.prod(shape))


@removed.register(Rows)
@removed.register(Columns)
@removed.register(Channels)
@removed.register(Block)
def _(spec: OfUnits, shape: tuple[int, ...]) -> int:
    return int(unit_budget(spec, shape)) * unit_view(spec, shape).unit_size


@resolved.register
def _(spec: Channels, leaf: Leaf, axis_of: Callable[[Axis], Axis]) -> Channels:
    del leaf
    return dataclasses.replace(spec, axis=axis_of(spec.axis)) if spec.axis in WORDS else spec


@select.register(Rows)
@select.register(Columns)
@select.register(Channels)
@select.register(Block)
def _(spec: OfUnits, works: Sequence[Work]) -> list[jax.Array]:
    del spec
    return [_mask(work.spec, work.leaf) for work in works]


def _mask(spec: OfUnits, leaf: Ranked) -> jax.Array:
    shape = leaf.values.shape
    view, count = unit_view(spec, shape), unit_budget(spec, shape)
    choices = {"view": view.shape, "axes": view.axes, "reduce": spec.reduce}
    if not count.known or on_host(leaf) is None:
        return device.unit_survivors(leaf, count.as_int32(), **choices)
    # Sums of floats are left to the compiler, so that they are rounded alike wherever they run.
    # Under `jax.set_mesh` they come back on every device of the mesh, each with all of them.
    units: Any = jax.tree.map(np.asarray, device.unit_scores(leaf, **choices))
    kept = np.broadcast_to(host.survivors(units, int(count)), view.shape).reshape(shape)
    return from_host(kept, leaf.values)
