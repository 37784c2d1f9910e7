"""What is asked of each model: its axes, its groups, and whether it can be pruned with data."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxprune as jp
from benchmarks.packages.model import Layout, PackageModel
from jaxprune._tree import is_array, leaves

SPECS = {"50 %": 0.5, "2:4": jp.NM(2, 4, axis="input")}
METHODS: dict[str, Any] = {"Wanda": jp.Wanda, "SparseGPT": jp.SparseGPT(), "Refit": jp.Refit()}


class Reading(NamedTuple):
    """What was read from a model, and how long that took.

    Attributes:
        uses: What its leaves are used for.
        deps: What of it must be cut together.
        trace_seconds: How long `jp.trace` took.
        dependencies_seconds: How long `jp.dependencies` took.
    """

    uses: jp.Uses
    deps: jp.Dependencies
    trace_seconds: float
    dependencies_seconds: float


def described(tree: Any) -> Any:
    """Descriptions in place of arrays."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if is_array(x) else x, tree
    )


def reading(model: PackageModel) -> Reading:
    """Reads a model from descriptions alone."""
    params, inputs = described(model.params), described(model.inputs)
    start = time.perf_counter()
    uses = jp.trace(model.f, params, *inputs)
    middle = time.perf_counter()
    jax.clear_caches()  # else the second would find what the first has traced
    between = time.perf_counter()
    deps = jp.dependencies(model.f, params, *inputs)
    return Reading(uses, deps, middle - start, time.perf_counter() - between)


def wrong_axes(uses: jp.Uses, layout: Layout) -> list[str]:
    """The kernels whose axes are not those that the package's documentation states.

    An axis of size 1 is one or the other as one likes.
    """
    shapes = {leaf.path: leaf.value.shape for leaf in uses.leaves}
    wrong = []
    for path, (summed, left) in layout.items():
        try:
            found = uses.axes(path, "input"), uses.axes(path, "output")
        except jp.PruningError as error:
            wrong.append(f"{path}: {error}")
            continue
        longer = {axis for axis, size in enumerate(shapes[path]) if size > 1}
        if [longer & {*axes} for axes in found] != [longer & {*axes} for axes in (summed, left)]:
            wrong.append(f"{path}: {found}, and by its layer {summed}, {left}")
    return wrong


def worst_squares(stats: jp.Stats, seen: dict[str, np.ndarray]) -> float:
    """How far statistics are from those of what the layers were given, relative to the largest."""
    worst = 0.0
    for path, squares in seen.items():
        found = np.broadcast_to(np.asarray(stats.squares[path], np.float64), squares.shape)
        worst = max(worst, float(np.abs(found - squares).max() / np.abs(squares).max()))
    return worst


def cut_difference(model: PackageModel, params: Any, deps: jp.Dependencies, cut: jp.Cut) -> float:
    """How far the small model is from the masked one, relative to its largest result."""
    masked = jp.apply_mask(params, deps.mask(params, cut))
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(model.f)(masked, *model.inputs)
        found = jax.jit(deps.function(cut))(deps.shrink(params, cut), *model.inputs)
    worst = 0.0
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        a, b = (np.asarray(x, np.float64) for x in (one, other))
        if a.std() == 0 or not np.isfinite(a).all():
            return math.nan  # such a result would prove nothing
        worst = max(worst, float(np.abs(a - b).max() / np.abs(a).max()))
    return worst


def prunable(uses: jp.Uses) -> list[str]:
    """The leaves whose inputs come in fours."""
    found = []
    for leaf in uses.leaves:
        try:
            if uses.is_product(leaf.path) and uses.fan_in(leaf.path) % 4 == 0:
                found.append(leaf.path)
        except jp.PruningError:
            continue  # read in two ways, or in parts
    return found


class Pruned(NamedTuple):
    """One way to prune with data, and what was wrong with the result.

    Attributes:
        name: Method, order and pattern.
        seconds: How long it took.
        leaves: How many leaves were pruned.
        problems: What is wrong.
    """

    name: str
    seconds: float
    leaves: int
    problems: list[str]


def pruning(
    model: PackageModel, params: Any, uses: jp.Uses, is_wanted: Callable[[str], bool]
) -> Iterator[Pruned]:
    """Prunes a model in each way, and looks at what comes back."""
    fours = frozenset(prunable(uses))
    orders = ("at_once", "sequential")
    for (method, by), order, (pattern, spec) in itertools.product(
        METHODS.items(), orders, SPECS.items()
    ):
        name = f"{method}, {order}, {pattern}"
        if not is_wanted(name):
            continue
        start = time.perf_counter()
        where = None if pattern == "50 %" else (lambda path, _: path in fours)
        try:
            new, mask = jp.prune_with_data(
                model.f, params, [model.inputs], spec, method=by, order=order, where=where
            )
        except jp.PruningError as error:
            yield Pruned(name, time.perf_counter() - start, 0, [str(error)])
            continue
        jax.block_until_ready(new)
        took = time.perf_counter() - start
        per_output = method == "Wanda" and pattern == "50 %"
        problems = list(_problems(params, new, mask, uses, per_output))
        count = sum(leaf.value is not None for leaf in leaves(mask))
        yield Pruned(name, took, count, problems)


def _problems(old: Any, new: Any, mask: Any, uses: jp.Uses, per_output: bool) -> Iterator[str]:
    """What is wrong with pruned parameters."""
    if jax.tree.structure(old) != jax.tree.structure(new) or type(old) is not type(new):
        yield "the tree has another structure"
    kept = {leaf.path: leaf.value for leaf in leaves(mask) if leaf.value is not None}
    if not kept:
        yield "nothing was pruned"
    for before, after in zip(leaves(old), leaves(new), strict=True):
        if not is_array(before.value):
            continue
        a, b = np.asarray(before.value), np.asarray(after.value)
        if a.dtype != b.dtype or a.shape != b.shape:
            yield f"{before.path}: {a.dtype} {a.shape} is now {b.dtype} {b.shape}"
        if a.dtype.kind == "f" and not np.isfinite(b).all():
            yield f"{before.path}: not finite"
        stays = kept.get(before.path)
        if stays is None:
            if not np.array_equal(a, b):
                yield f"{before.path}: changed without a mask"
            continue
        stays = np.asarray(stays)
        if b[~stays].any():
            yield f"{before.path}: not zero under its mask"
        gone, expected = int((~stays).sum()), _budgets(before.path, a.shape, uses, per_output)
        if gone not in expected:
            yield f"{before.path}: {gone} of {a.size} went, expected one of {expected}"


def _budgets(path: str, shape: Any, uses: jp.Uses, per_output: bool) -> set[int]:
    """How many weights of a leaf may go: half of it, or half of each of its layers or outputs."""
    row = next(row for row in uses.of(path) if row.is_contraction)
    parts = {1, math.prod(shape[axis] for axis in row.batch_axes)}
    if per_output:
        parts = {math.prod(shape) // math.prod(shape[axis] for axis in row.input_axes)}
    return {n * (math.prod(shape) // n // 2) for n in parts}
