"""The picture of a decision: what would be pruned, by which rule, and why the rest would not."""

import math
from dataclasses import dataclass
from typing import Any

from jaxprune._assign import Assignment, assign
from jaxprune._specs.protocol import removed
from jaxprune._text import integer, table
from jaxprune._tree import Leaf, is_array, is_traced, leaves
from jaxprune._where import Where, is_weight
from jaxprune.tracing._uses import Uses


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What a plan says of one leaf.

    Attributes:
        path: The leaf's path.
        shape: Its shape; None if it is no array.
        dtype: Its dtype, or the type of what stands there.
        weights: How many weights it holds.
        spec: The spec that prunes it; None if it is left dense.
        rule: The pattern or path at which that spec was written; "" for a lone spec.
        prunes: How many weights go. None if that is not known leaf by leaf: under a global budget,
            or a sparsity that is traced.
        reason: Why it is left dense; "" if it is pruned.
        multiply_adds: Those of its uses, dense; None if they were not traced.
    """

    path: str
    shape: tuple[int, ...] | None
    dtype: str
    weights: int
    spec: Any
    rule: str
    prunes: int | None
    reason: str
    multiply_adds: int | None = None

    @property
    def multiply_adds_left(self) -> int | None:
        """Those with a weight that stays; None if they or what goes are not known."""
        if self.multiply_adds is None or self.prunes is None:
            return None
        return round(self.multiply_adds * (1 - self.prunes / self.weights)) if self.weights else 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A dry run: what `make_mask` would do, leaf by leaf. Print it.

    Attributes:
        rows: One row a leaf, in the tree's order.
    """

    rows: tuple[PlanRow, ...]

    def __str__(self) -> str:
        cells = []
        traced = any(row.multiply_adds is not None for row in self.rows)
        for row in self.rows:
            does = repr(row.spec) if row.spec is not None else f"dense: {row.reason}"
            via = f"  (rule {row.rule!r})" if row.rule else ""
            shape = "x".join(map(str, row.shape)) if row.shape is not None else "-"
            prunes = "shared" if row.prunes is None else integer(row.prunes)
            work = [row.multiply_adds, row.multiply_adds_left] if traced else []
            numbers = ["" if number is None else integer(number) for number in work]
            name = row.path or "(array)"
            cells.append(
                [name, shape, row.dtype, integer(row.weights), prunes, *numbers, does + via]
            )
        more = ["multiply-adds", "left"] if traced else []
        return table(["leaf", "shape", "dtype", "weights", "prunes", *more, "how"], cells)


def plan(params: Any, spec: Any, *, where: Where = is_weight, uses: Uses | None = None) -> Plan:
    """Says what would be pruned, by which rule, and why the rest would not; computes nothing.

    Args:
        params: Any tree of arrays, or of their descriptions (`jax.eval_shape` gives one).
        spec: As for `make_mask`.
        where: As for `make_mask`.
        uses: As for `make_mask`; the plan then shows multiply-adds too.

    Returns:
        The plan. It raises whatever `make_mask` would raise.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> print(jp.plan({"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}, jp.NM(2, 4)))
        leaf    shape    dtype  weights  prunes  how
        --------------------------------------------------------------
        bias        8  float32        8       0  dense: rank 1
        kernel    4x8  float32       32      16  NM(n=2, m=4, axis=-1)
    """
    return plan_of(assign(leaves(params), spec, where, uses), uses)


def plan_of(assignment: Assignment, uses: Uses | None = None) -> Plan:
    """The picture of a decision."""
    entry = {i: entry for entry in assignment.entries for i in entry.members}

    def row(i: int, leaf: Leaf) -> PlanRow:
        array, spec = is_array(leaf.value), assignment.specs.get(i)
        shape = tuple(leaf.value.shape) if array else None
        return PlanRow(
            path=leaf.path,
            shape=shape,
            dtype=str(leaf.value.dtype) if array else type(leaf.value).__name__,
            weights=math.prod(shape) if shape is not None else 0,
            spec=spec,
            rule=entry[i].text if i in entry else "",
            prunes=_prunes(spec, shape) if spec is not None and shape is not None else 0,
            reason=assignment.reasons[i],
            multiply_adds=uses.multiply_adds(leaf.path) if uses is not None and array else None,
        )

    return Plan(tuple(row(i, leaf) for i, leaf in enumerate(assignment.leaves)))


def _prunes(spec: Any, shape: tuple[int, ...]) -> int | None:
    traced = is_traced(getattr(spec, "sparsity", None)) or is_traced(getattr(spec, "n", None))
    return None if traced else removed(spec, shape)
