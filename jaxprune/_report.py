"""What came out: achieved, in integers, with both denominators. Typed rows, then rendering."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._bits import exponent, from_keys, keys, nonzero, scaled_down, scaled_up
from jaxprune._errors import NoMatch, PruningError, raise_problems, shown
from jaxprune._masks import mask_problem
from jaxprune._patterns import find_pattern
from jaxprune._select import count_true, limbs, nth_lowest, survivors
from jaxprune._table import integer, table
from jaxprune._tree import (
    Leaf,
    Where,
    aligned,
    as_array,
    concrete_leaves,
    dense_reasons,
    is_array,
    is_prunable,
    is_weight,
    leaves,
)


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
        count: Its weights; None if it holds no floats, or if it is an array counted before.
        pattern: The kind of pattern its zeros form: "dense", "rows", "columns", "rows and columns",
            "channels of axis 2", "blocks of 16x16", "2:4 along axis -2", "all zero" or
            "unstructured". It says what was found, not what was asked for.
        in_scope: Whether it counts as a pruned leaf.
        reason: Why it was left dense; "" if it is in scope.
        stray: Weights that are not zero although the mask does not keep them; 0 without a mask.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    count: Count | None
    pattern: str
    in_scope: bool
    reason: str
    stray: int

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
        all: All parameters together: every floating leaf, an array that stands in the tree twice
            once.
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


class ScoreStats(NamedTuple):
    """Statistics of scores; scalars of their dtype, float32 at the least.

    Attributes:
        min: The lowest.
        max: The highest.
        mean: The mean.
        median: The exact median; of an even number the mean of the two in the middle.
        std: The population's standard deviation.
    """

    min: jax.Array
    max: jax.Array
    mean: jax.Array
    median: jax.Array
    std: jax.Array


@dataclass(frozen=True, slots=True)
class TopScore:
    """One of the highest scores: the leaf's path, the index in the leaf, and the score."""

    path: str
    index: tuple[int, ...]
    score: float


def report(params: Any, mask: Any = None, *, where: Where = is_weight) -> SparsityReport:
    """Counts what is zero, leaf by leaf, and says what pattern the zeros form.

    A mask by itself makes nothing smaller or faster; the report tells what a format that leaves
    zeros out could save.

    Args:
        params: Any tree of arrays.
        mask: The mask, if there is one: it decides which leaves are in scope, and the report tells
            how many weights it does not keep are not zero.
        where: Without a mask, which leaves are in scope.

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
    found = concrete_leaves(params, "report")
    concrete_leaves(mask, "report")
    kept = (
        [None] * len(found)
        if mask is None
        else [value for _, value in aligned(params, mask, "mask")]
    )
    raise_problems(mask_problem(leaf, value) for leaf, value in zip(found, kept, strict=True))
    if not any(is_prunable(leaf.value) for leaf in found):
        raise NoMatch(
            f"there is nothing to report: none of the tree's {len(found)} leaves is a floating "
            "array. Pass parameters; a mask goes second, jp.report(params, mask)."
        )
    reasons = dense_reasons(found, where)
    if mask is not None:
        outside = [reason or "no mask" for reason in reasons]
        reasons = [why if value is None else "" for why, value in zip(outside, kept, strict=True)]
    if all(reasons):
        raise NoMatch("no leaf is in scope: choose some with where=, or pass a mask that has some.")
    # An array in several places is counted once, where it is in scope if it is anywhere.
    owners: dict[int, str] = {}
    for leaf, _ in sorted(zip(found, reasons, strict=True), key=lambda pair: pair[1] != ""):
        owners.setdefault(id(leaf.value), leaf.path)
    rows = []
    for leaf, value, reason in zip(found, kept, reasons, strict=True):
        if not is_array(leaf.value):
            continue
        owner = owners[id(leaf.value)]
        rows.append(leaf_report(leaf, value, reason, "" if owner == leaf.path else owner))
    return gathered(rows)


def gathered(rows: Sequence[LeafReport]) -> SparsityReport:
    """The report that these rows make."""
    counts = [(row.count, row.in_scope) for row in rows if row.count]
    none = Count(0, 0, 0, 0)
    pruned = sum((count for count, in_scope in counts if in_scope), none)
    return SparsityReport(tuple(rows), pruned, sum((count for count, _ in counts), none))


def stats(scores: Any) -> ScoreStats:
    """Minimum, maximum, mean, median and standard deviation of all the scores in a tree.

    Args:
        scores: A tree of scores; for one leaf's statistics pass the leaf.

    Returns:
        The statistics, as arrays: it runs under jit.

    Raises:
        NoMatch: The tree holds no scores.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> float(jp.stats(jnp.array([4.0, 1.0, 3.0, 2.0])).median)
        2.5
    """
    return _stats(_scores(scores, leaves(scores)))


def top_scores(scores: Any, k: int) -> list[TopScore]:
    """The k highest scores of a tree, highest first.

    Args:
        scores: A tree of scores.
        k: How many; all of them if there are fewer.

    Returns:
        Path, index and score of each. Among equals the earlier leaf and the lower index come first.

    Raises:
        PruningError: `k` is no positive integer, or the scores are traced.
        NoMatch: The tree holds no scores.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> jp.top_scores({"w": jnp.array([[1.0, 5.0], [3.0, 2.0]])}, 2)
        [TopScore(path='w', index=(0, 1), score=5.0), TopScore(path='w', index=(1, 0), score=3.0)]
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise PruningError(f"k is a positive Python integer, got {shown(k)}.")
    found = [leaf for leaf in concrete_leaves(scores, "top_scores") if is_prunable(leaf.value)]
    arrays = _scores(scores, found)
    widest = _widest(arrays)
    best: list[tuple[int, TopScore]] = []
    for leaf, array in zip(found, arrays, strict=True):
        high = survivors(array, jnp.int32(max(0, array.size - k)), ties="last")
        order, values = np.asarray(keys(array.astype(widest))), np.asarray(array)
        for index in np.argwhere(np.asarray(high)):
            place = tuple(map(int, index))
            best.append((int(order[place]), TopScore(leaf.path, place, float(values[place]))))
    best.sort(key=lambda item: -item[0])
    return [score for _, score in best[:k]]


def _scores(tree: Any, found: Sequence[Leaf]) -> list[jax.Array]:
    arrays = [as_array(leaf.value) for leaf in found if is_prunable(leaf.value) and leaf.value.size]
    if not arrays:
        raise NoMatch(f"there are no scores in {shown(tree)}: pass what jp.importance returned.")
    return arrays


def _widest(arrays: Sequence[jax.Array]) -> Any:
    """The type that holds the scores of all `arrays`, float32 at the least."""
    return functools.reduce(jnp.promote_types, [a.dtype for a in arrays], jnp.dtype("float32"))


@jax.jit
def _stats(scores: Sequence[jax.Array]) -> ScoreStats:
    widest = _widest(scores)
    wide = [array.astype(widest) for array in scores]
    total = sum(array.size for array in wide)
    orders = [keys(array) for array in wide]
    lowest = from_keys(jnp.stack([jnp.min(order) for order in orders]).min(), widest)
    highest = from_keys(jnp.stack([jnp.max(order) for order in orders]).max(), widest)
    # Sums and squares are taken of numbers of magnitude below 2, whatever the scores: they neither
    # overflow nor are flushed.
    power = _power(lowest, highest)
    fractions = [scaled_down(array, power) for array in wide]

    def mean_of(parts: Iterable[jax.Array]) -> jax.Array:
        # Two short sums lose less to rounding than one long one.
        sums = [jnp.sum(jnp.sum(part, -1)) if part.ndim else part for part in parts]
        return sum(sums, jnp.zeros((), widest)) / total

    mean = mean_of(fractions)
    std = jnp.sqrt(mean_of(jnp.square(part - mean) for part in fractions))
    middle = nth_lowest(wide, limbs((total + 1) // 2))
    median = middle if total % 2 else _midpoint(middle, nth_lowest(wide, limbs(total // 2 + 1)))
    return ScoreStats(lowest, highest, scaled_up(mean, power), median, scaled_up(std, power))


def _midpoint(a: jax.Array, b: jax.Array) -> jax.Array:
    power = _power(a, b)
    return scaled_up((scaled_down(a, power) + scaled_down(b, power)) / 2, power)


def _power(a: jax.Array, b: jax.Array) -> jax.Array:
    """The power of two that scales two numbers, and all between them, to a magnitude below 2."""
    power = jnp.maximum(exponent(a), exponent(b))
    return jnp.where(jnp.isfinite(a) & jnp.isfinite(b), power, 0)


def leaf_report(leaf: Leaf, kept: Any, reason: str, shared_with: str = "") -> LeafReport:
    """The row of one leaf that holds an array.

    Args:
        leaf: The leaf.
        kept: Its mask, or None.
        reason: Why it is out of scope; "" if it is in.
        shared_with: The path at which the same array is counted, if it is counted elsewhere.

    Returns:
        The row.
    """
    shape, dtype = tuple(leaf.value.shape), str(leaf.value.dtype)
    if shared_with or not is_prunable(leaf.value):
        why = f"same array as {shared_with!r}" if shared_with else reason
        return LeafReport(leaf.path, shape, dtype, None, "", False, why, 0)
    alive = nonzero(leaf.value)
    nonzeros = int(count_true(alive))
    stray = 0 if kept is None else int(count_true(alive & ~kept))
    dense = alive.size * leaf.value.dtype.itemsize
    packed = nonzeros * leaf.value.dtype.itemsize + -(-alive.size // 8)
    count = Count(alive.size, nonzeros, dense, dense if reason else min(dense, packed))
    pattern = find_pattern(alive, nonzeros)
    return LeafReport(leaf.path, shape, dtype, count, pattern, not reason, reason, stray)


def _rendered(report: SparsityReport) -> str:
    cells: list[Sequence[str]] = []
    for row in report.rows:
        numbers = _numbers(row.count) if row.count else ["-", "-", "-"]
        how = "; ".join(filter(None, [row.pattern, row.reason and f"left dense: {row.reason}"]))
        cells.append(
            [row.path or "(array)", "x".join(map(str, row.shape)) or "()", row.dtype, *numbers, how]
        )
    cells.append([])
    for name, count in (("pruned leaves", report.pruned), ("all parameters", report.all)):
        size = f"{integer(count.bytes_dense)} bytes, packed {integer(count.bytes_packed)}"
        cells.append([name, "", "", *_numbers(count), size])
    header = ["leaf", "shape", "dtype", "weights", "nonzero", "sparsity", "pattern"]
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
