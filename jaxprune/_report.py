"""What came out: achieved, in integers, with both denominators. Typed rows, then rendering."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxprune._errors import NoMatch, raise_problems
from jaxprune._kernels import host
from jaxprune._kernels.device import count_true
from jaxprune._kernels.floats import nonzero
from jaxprune._kernels.patterns import find_pattern
from jaxprune._kernels.placement import is_host_array
from jaxprune._prune import mask_problem
from jaxprune._text import integer, table
from jaxprune._tree import Leaf, aligned, concrete_leaves, is_array, is_prunable
from jaxprune._where import Where, dense_reasons, is_weight
from jaxprune.tracing._uses import Uses


@dataclass(frozen=True, slots=True)
class Count:
    """Weights counted, and the bytes they take.

    Attributes:
        total: How many weights there are.
        nonzero: How many are not zero; a NaN is not, nor is a subnormal number.
        bytes_dense: What they take as plain arrays.
        bytes_packed: What they would take with the zeros left out: the other values, and one bit a
            weight to tell where they stood; never more than dense. Leaves out of scope are counted
            dense.
    """

    total: int
    nonzero: int
    bytes_dense: int
    bytes_packed: int

    @property
    def sparsity(self) -> float:
        """The fraction that is zero; 0.0 of nothing."""
        return 1 - self.density if self.total else 0.0

    @property
    def zero_fraction(self) -> float:
        """The reference's name for `sparsity`."""
        return self.sparsity

    @property
    def density(self) -> float:
        """The fraction that is not zero."""
        return self.nonzero / self.total if self.total else 0.0

    def __add__(self, other: "Count") -> "Count":
        # Not by dataclasses.astuple, which copies deeply: reports of files add up many thousands.
        return Count(
            self.total + other.total,
            self.nonzero + other.nonzero,
            self.bytes_dense + other.bytes_dense,
            self.bytes_packed + other.bytes_packed,
        )


@dataclass(frozen=True, slots=True)
class LeafReport:
    """What became of one leaf.

    Attributes:
        path: Its path.
        shape: Its shape.
        dtype: Its dtype.
        count: Its weights; None if it holds no floats.
        pattern: The kind of pattern its zeros form: "dense", "rows", "columns", "rows and columns",
            "channels of axis 2", "blocks of 16x16", "2:4 along axis -2", "all zero" or
            "unstructured". It says what was found, not what was asked for.
        in_scope: Whether it counts as a pruned leaf.
        reason: Why it was left dense; "" if it is in scope.
        stray: Weights that are not zero although the mask does not keep them; 0 without a mask.
        multiply_adds: Those of its uses, dense; None if they were not traced.
        note: What the uses say against its pattern; "" if nothing.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    count: Count | None
    pattern: str
    in_scope: bool
    reason: str
    stray: int
    multiply_adds: int | None = None
    note: str = ""

    @property
    def multiply_adds_left(self) -> int | None:
        """Those with a weight that is not zero; None if they were not traced."""
        if self.multiply_adds is None:
            return None
        return round(self.multiply_adds * (self.count.density if self.count else 1))

    @property
    def summary(self) -> str:
        """The reference's line about one tensor."""
        count = self.count or Count(0, 0, 0, 0)
        return (
            f"tensor={self.path!r} shape={list(self.shape)} total={count.total} "
            f"nonzero={count.nonzero} sparsity={count.sparsity:.4f}"
        )


@dataclass(frozen=True, slots=True)
class SparsityReport:
    """A model's sparsity. Print it, or take its rows.

    Attributes:
        rows: One row an array, in the tree's order.
        pruned: The leaves in scope together.
        all: All parameters together: every floating leaf.
    """

    rows: tuple[LeafReport, ...]
    pruned: Count
    all: Count

    @property
    def sparsity(self) -> float:
        """The fraction of all parameters that is zero."""
        return self.all.sparsity

    @property
    def zero_fraction(self) -> float:
        """The reference's name for `sparsity`."""
        return self.all.sparsity

    @property
    def density(self) -> float:
        """The fraction of all parameters that is not zero."""
        return self.all.density

    @property
    def stray(self) -> int:
        """Weights that are not zero although the mask does not keep them."""
        return sum(row.stray for row in self.rows)

    @property
    def summary(self) -> str:
        """The reference's line about a model."""
        return (
            f"layers={sum(row.count is not None for row in self.rows)} "
            f"total_params={self.all.total} total_nonzero={self.all.nonzero} "
            f"overall_sparsity={self.all.sparsity:.4f}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers, ready for JSON."""

        def count(of: Count | None) -> dict[str, Any] | None:
            return None if of is None else dataclasses.asdict(of) | {"sparsity": of.sparsity}

        rows = [
            dataclasses.asdict(row) | {"shape": list(row.shape), "count": count(row.count)}
            for row in self.rows
        ]
        return {
            "rows": rows,
            "pruned": count(self.pruned),
            "all": count(self.all),
            "stray": self.stray,
        }

    def __str__(self) -> str:
        return _rendered(self)


def report(
    params: Any,
    mask: Any = None,
    *,
    where: Where = is_weight,
    uses: Uses | None = None,
) -> SparsityReport:
    """Counts what is zero, leaf by leaf, and says what pattern the zeros form.

    A mask by itself makes nothing smaller or faster; the report tells what a format that leaves
    zeros out could save.

    Args:
        params: Any tree of arrays.
        mask: The mask, if there is one: it decides which leaves are in scope, and the report tells
            how many weights it does not keep are not zero.
        where: Without a mask, which leaves are in scope.
        uses: What `trace` read from the model: the report then shows multiply-adds, and says where
            an N:M pattern lies along an axis that no product sums over.

    Returns:
        The report. `print` it, read its `rows`, or save its `to_dict()`.

    Raises:
        PruningError: A leaf is traced: a report reads values, so it cannot run under jit.
        StructureMismatch: The mask does not fit.
        NoMatch: There is no floating leaf, or none is in scope.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> print(
        ...     jp.report(
        ...         {"kernel": jnp.array([[1.0, 0, 0, 2], [0, 3, 4, 0]]), "bias": jnp.ones(4)}
        ...     )
        ... )
        leaf            shape    dtype  weights  nonzero  sparsity  pattern
        -------------------------------------------------------------------------------------
        bias                4  float32        4        4     0.00%  dense; left dense: rank 1
        kernel            2x4  float32        8        4    50.00%  unstructured
        -------------------------------------------------------------------------------------
        pruned leaves                         8        4    50.00%  32 bytes, packed 17
        all parameters                       12        8    33.33%  48 bytes, packed 33
        A mask by itself makes nothing smaller or faster; packed is the size without the zeros.
    """
    leaves = concrete_leaves(params, "report")
    concrete_leaves(mask, "report")
    kept = (
        [None] * len(leaves)
        if mask is None
        else [value for _, value in aligned(params, mask, "mask")]
    )
    raise_problems(mask_problem(leaf, value) for leaf, value in zip(leaves, kept, strict=True))
    if not any(is_prunable(leaf.value) for leaf in leaves):
        raise NoMatch(
            f"there is nothing to report: none of the tree's {len(leaves)} leaves is a floating "
            "array. Pass parameters; a mask goes second, jp.report(params, mask)."
        )
    reasons = dense_reasons(leaves, where, uses)
    if mask is not None:
        outside = [reason or "no mask" for reason in reasons]
        reasons = [why if value is None else "" for why, value in zip(outside, kept, strict=True)]
    if all(reasons):
        raise NoMatch("no leaf is in scope: choose some with where=, or pass a mask that has some.")
    rows = zip(leaves, kept, reasons, strict=True)
    arrays = [row for row in rows if is_array(row[0].value)]
    # Where arrays are spread over processes, all of them must count in one order.
    here = all(is_host_array(leaf.value) for leaf, *_ in arrays)
    each = host.in_threads if here else map
    counted = list(each(leaf_report, *zip(*arrays, strict=True)))
    return gathered(counted if uses is None else [_with_uses(row, uses) for row in counted])


def _with_uses(row: LeafReport, uses: Uses) -> LeafReport:
    """The row with what the model does with the leaf."""
    note = ""
    pattern = re.fullmatch(r"(\d+:\d+) along axis (-?\d+)", row.pattern)
    if pattern and uses.is_product(row.path):
        axis = int(pattern[2]) % len(row.shape)
        sums = {axis for use in uses.of(row.path) for axis in use.input_axes}
        if axis not in sums:
            note = (
                f"no product sums over axis {pattern[2]}: hardware for {pattern[1]} cannot use it"
            )
    return dataclasses.replace(row, multiply_adds=uses.multiply_adds(row.path), note=note)


def gathered(rows: Sequence[LeafReport]) -> SparsityReport:
    """The report that these rows make."""
    counts = [(row.count, row.in_scope) for row in rows if row.count]
    none = Count(0, 0, 0, 0)
    pruned = sum((count for count, in_scope in counts if in_scope), none)
    return SparsityReport(tuple(rows), pruned, sum((count for count, _ in counts), none))


def leaf_report(leaf: Leaf, kept: Any, reason: str) -> LeafReport:
    """The row of one leaf that holds an array.

    Args:
        leaf: The leaf.
        kept: Its mask, or None.
        reason: Why it is out of scope; "" if it is in.

    Returns:
        The row.
    """
    shape, dtype = tuple(leaf.value.shape), str(leaf.value.dtype)
    if not is_prunable(leaf.value):
        return LeafReport(leaf.path, shape, dtype, None, "", False, reason, 0)
    alive = _alive(leaf.value)
    nonzeros = _count(alive)
    stray = 0 if kept is None else _count(alive & ~_like(alive, kept))
    return counted_leaf(leaf, nonzeros, find_pattern(alive, nonzeros), reason, stray)


def counted_leaf(
    leaf: Leaf, nonzeros: int, pattern: str, reason: str, stray: int = 0
) -> LeafReport:
    """The row of one leaf of floats that were counted.

    Args:
        leaf: The leaf, or a description of it.
        nonzeros: How many weights are not zero.
        pattern: What `find_pattern` says of them.
        reason: Why it is out of scope; "" if it is in.
        stray: How many its mask does not keep.

    Returns:
        The row.
    """
    shape, dtype = tuple(leaf.value.shape), str(leaf.value.dtype)
    total, width = math.prod(shape), np.dtype(leaf.value.dtype).itemsize
    dense, packed = total * width, nonzeros * width + -(-total // 8)
    count = Count(total, nonzeros, dense, dense if reason else min(dense, packed))
    return LeafReport(leaf.path, shape, dtype, count, pattern, not reason, reason, stray)


def _alive(weights: Any) -> Any:
    """Where weights are not zero: an array of NumPy's where the host can read them."""
    if isinstance(weights, jax.Array) and not is_host_array(weights):
        return nonzero(weights)
    return host.nonzero(np.asarray(weights))


def _like(alive: Any, kept: Any) -> Any:
    return kept if isinstance(alive, jax.Array) else np.asarray(kept)


def _count(hits: Any) -> int:
    if not isinstance(hits, jax.Array):
        return int(np.count_nonzero(hits))
    high, low = count_true(hits)
    return (int(high) << 16) + int(low)


def _rendered(report: SparsityReport) -> str:
    traced = any(row.multiply_adds is not None for row in report.rows)
    cells: list[Sequence[str]] = []
    for row in report.rows:
        numbers = _numbers(row.count) if row.count else ["-", "-", "-"]
        work = _work([row]) if traced else []
        left_dense = row.reason and f"left dense: {row.reason}"
        how = "; ".join(filter(None, [row.pattern, left_dense, row.note]))
        shape = "x".join(map(str, row.shape)) or "()"
        cells.append([row.path or "(array)", shape, row.dtype, *numbers, *work, how])
    cells.append([])
    pruned = [row for row in report.rows if row.in_scope]
    for name, count, rows in (
        ("pruned leaves", report.pruned, pruned),
        ("all parameters", report.all, report.rows),
    ):
        size = f"{integer(count.bytes_dense)} bytes, packed {integer(count.bytes_packed)}"
        cells.append([name, "", "", *_numbers(count), *(_work(rows) if traced else []), size])
    more = ["multiply-adds", "left"] if traced else []
    header = ["leaf", "shape", "dtype", "weights", "nonzero", "sparsity", *more, "pattern"]
    lines = [table(header, cells)]
    if report.stray:
        lines.append(
            f"{integer(report.stray)} weights that the mask does not keep are not zero: call "
            "apply_mask."
        )
    lines.append(
        "A mask by itself makes nothing smaller or faster; packed is the size without the zeros."
    )
    return "\n".join(lines)


def _numbers(count: Count) -> list[str]:
    return [integer(count.total), integer(count.nonzero), f"{count.sparsity:.2%}"]


def _work(rows: Sequence[LeafReport]) -> list[str]:
    """Multiply-adds, dense and left."""
    dense = sum(row.multiply_adds or 0 for row in rows)
    return [integer(dense), integer(sum(row.multiply_adds_left or 0 for row in rows))]
