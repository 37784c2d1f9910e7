"""`allocate`: one sparsity shared out to the leaves, by any method."""

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from jaxprune._allocation.cost_curves import cheapest, convex, unmeasured
from jaxprune._allocation.lamp import lamp_shares
from jaxprune._allocation.outliers import OWL, denser_by
from jaxprune._assign import assign
from jaxprune._errors import InvalidSparsity, PruningError, raise_problems
from jaxprune._sensitivity import Sensitivity
from jaxprune._specs.checks import check_sparsity
from jaxprune._specs.unstructured import Unstructured
from jaxprune._text import shown
from jaxprune._tree import Leaf, concrete_leaves, is_traced, leaves, rebuild
from jaxprune._where import Pattern, Where, covers, is_weight, no_match
from jaxprune.calibration._stats import Stats
from jaxprune.tracing._uses import Uses

Method: TypeAlias = Callable[[tuple[int, ...]], float]


def uniform(shape: tuple[int, ...]) -> float:
    """The allocation that makes every leaf equally sparse.

    Args:
        shape: The shape of a leaf.

    Returns:
        1.0, whatever the shape.
    """
    del shape
    return 1.0


def erk(power: float = 1.0) -> Method:
    """Erdős–Rényi-kernel allocation: densities as `(sum(shape) / prod(shape)) ** power`.

    Small and narrow layers stay denser than large ones. `power=0` is uniform. Evci et al., "Rigging
    the Lottery: Making All Tickets Winners", 2020.

    Args:
        power: The scale of the power.

    Returns:
        A method for `allocate`.
    """
    return lambda shape: float((sum(shape) / math.prod(shape)) ** power)


_BY_SHAPE: dict[str, Method] = {"uniform": uniform, "erk": erk()}
_NAMES = (*_BY_SHAPE, "lamp", "owl")


def allocate(
    params: Any,
    sparsity: float,
    method: str | Method | OWL | Sensitivity = "erk",
    *,
    where: Where = is_weight,
    overrides: Mapping[Pattern, float | None] | None = None,
    uses: Uses | None = None,
    stats: Stats | None = None,
) -> Any:
    """Shares one sparsity out to the leaves: by shape, by values, by data, or by measured cost.

    Of the N weights in scope exactly `floor(float32(sparsity) * float32(N))` are to go, and every
    leaf keeps at least one.

    By shape, a leaf whose share would make it more than dense is left dense, and the others take
    over its part; the shares are rounded to whole weights by largest remainder.

    By "lamp", the shares are those of the lowest scores of all leaves, where a weight scores its
    square over the sum of the squares of all weights of its leaf that are at least as large; equal
    weights count one after the other. Lee et al., "Layer-adaptive sparsity for the magnitude-based
    pruning", 2021. Weights are ranked on the host, leaf by leaf.

    By "owl", the shares follow from `stats`: see `OWL`.

    By a `Sensitivity`, the shares are those of the smallest sum of the leaves' own increases of the
    loss, each measured curve made convex and straight between its points: weights go where one more
    costs least. It is as if leaves did not interact, which is false, and still tells which are
    sensitive. But for a last whole weight, no leaf becomes sparser than it was measured.

    Args:
        params: Any tree of arrays; by shape and by sensitivity, their descriptions will do.
        sparsity: The fraction removed from all leaves in scope together, in [0, 1).
        method: "uniform", "erk", `jp.erk(power=...)`, or a function from a leaf's shape to its
            density, up to a common factor; "lamp"; "owl" or `jp.OWL(...)`; or what
            `jp.sensitivity` returned.
        where: Which leaves are in scope.
        overrides: Sparsities fixed by path pattern, of which the first that covers a leaf holds;
            None or 0 leaves its leaves dense. The budget includes them.
        uses: What `trace` read from the model: `where` is by default what products and convolutions
            read, and of a product a method is given (fan-in, fan-out) in place of the shape.
        stats: What `calibrate` gathered of these parameters, for "owl".

    Returns:
        A tree like `params` of sparsities, None where a leaf is out of scope. It is a spec for
        `make_mask` as it stands; `jax.tree.map(jp.Rows, ...)` makes it one of another kind. Each
        sparsity is a float32 value at which the leaf loses its share to the weight. (In a leaf of
        more than 2**24 weights float32 cannot name every count; what is left over goes to leaves
        where it can.)

    Raises:
        InvalidSparsity: The sparsity lies outside [0, 1), is traced, or cannot be met beside the
            overrides.
        NoMatch: No leaf is in scope, or an override covers none.
        StructureMismatch: A leaf in scope was not measured, or had another size.
        PruningError: A method needs values or `stats`, and they are not given.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> params = {"big": jnp.ones((64, 64)), "small": jnp.ones((8, 8))}
        >>> jp.allocate(params, 0.9, "erk")
        {'big': 0.90966796875, 'small': 0.28125}
    """
    params_leaves = leaves(params)
    if any(map(is_traced, [sparsity, *(overrides or {}).values()])):
        raise InvalidSparsity(
            "allocate needs sparsities known before compilation, got a tracer: call it outside jit."
        )
    check_sparsity(sparsity)
    members = assign(params_leaves, Unstructured(float(sparsity)), where, uses).members
    shapes = {i: tuple(params_leaves[i].value.shape) for i in members}
    fixed = _fixed({i: params_leaves[i].path for i in members}, overrides or {})
    sizes = {i: math.prod(shape) for i, shape in shapes.items()}
    total = _removed(sparsity, sum(sizes.values()))
    left = total - sum(_removed(value, sizes[i]) for i, value in fixed.items())
    sharing = _sharing(method, {i: params_leaves[i] for i in shapes if i not in fixed}, uses, stats)
    if not 0 <= left <= sharing.most:
        raise InvalidSparsity(
            f"sparsity {sparsity} removes {total} weights, the overrides {total - left} of them, "
            f"and the other leaves can lose between 0 and {sharing.most}: expected {left} to lie "
            f"there. Change the sparsity or the overrides{sharing.remedy}."
        )
    sparsities = fixed | _named(sharing.shares(left), sizes)
    return rebuild(params, [sparsities.get(i) for i in range(len(params_leaves))])


class _Sharing(NamedTuple):
    """How some leaves share a budget: the most they can lose, and who loses how much of it."""

    most: int
    shares: Callable[[int], dict[int, int]]
    remedy: str = ""


def _sharing(
    method: str | Method | OWL | Sensitivity,
    free: dict[int, Leaf],
    uses: Uses | None,
    stats: Stats | None,
) -> _Sharing:
    if isinstance(method, str) and method.lower() == "owl":
        method = OWL()
    _check_stats(method, stats)
    if isinstance(method, Sensitivity):
        raise_problems(unmeasured(method, leaf) for leaf in free.values())
        curves = {i: convex(method, method.paths.index(leaf.path)) for i, leaf in free.items()}
        most = sum(curve[-1].lost for curve in curves.values())
        return _Sharing(most, lambda left: cheapest(curves, left), ", or measure higher sparsities")
    sizes = {i: math.prod(leaf.value.shape) for i, leaf in free.items()}
    most = sum(size - 1 for size in sizes.values())
    if isinstance(method, OWL) or method == "lamp":
        concrete_leaves(
            {leaf.path: leaf.value for leaf in free.values()}, "allocate by this method"
        )
    if isinstance(method, OWL):
        assert stats is not None
        above = denser_by(method, free, stats)
        return _Sharing(most, lambda left: _apart(sizes, left, above))
    if method == "lamp":
        return _Sharing(most, lambda left: lamp_shares(free, left))
    density = _method(method)
    matrices = {i: _matrix(leaf, uses) for i, leaf in free.items()}
    densities = {i: _checked(density(matrices[i]), matrices[i]) for i in free}
    return _Sharing(most, lambda left: _shares(sizes, left, densities))


def _check_stats(method: Any, stats: Any) -> None:
    """Refuses "owl" without statistics, and statistics that nothing reads."""
    if isinstance(method, OWL) and not isinstance(stats, Stats):
        raise PruningError(
            '"owl" needs stats=jp.calibrate(f, params, batches), got '
            f"{'none' if stats is None else shown(stats)}."
        )
    if stats is not None and not isinstance(method, OWL):
        raise PruningError(f'stats= is for "owl", and method is {shown(method)}: leave it out.')


def _matrix(leaf: Leaf, uses: Uses | None) -> tuple[int, ...]:
    """The shape that a method is given: of a product (fan-in, fan-out)."""
    shape = tuple(leaf.value.shape)
    if uses is None or not all(use.use == "product" for use in uses.of(leaf.path)):
        return shape
    return uses.fan_in(leaf.path), uses.fan_out(leaf.path)


def _method(method: str | Method) -> Method:
    if isinstance(method, str) and method.lower() in _BY_SHAPE:
        return _BY_SHAPE[method.lower()]
    if isinstance(method, str) or not callable(method):
        raise PruningError(
            f"method is {', '.join(map(repr, _NAMES))}, jp.erk(power=...), jp.OWL(...), what "
            f"jp.sensitivity returned, or a function of a leaf's shape, got {shown(method)}."
        )
    return method


def _fixed(paths: dict[int, str], overrides: Mapping[Pattern, float | None]) -> dict[int, float]:
    """The sparsity of each leaf that an override covers."""
    fixed: dict[int, float] = {}
    problems = []
    for pattern, value in overrides.items():
        sparsity = 0.0 if value is None else value
        check_sparsity(sparsity)
        covered = [i for i, path in paths.items() if covers(pattern, path)]
        if not covered:
            problems.append(no_match(pattern, list(paths.values())))
        for i in covered:
            fixed.setdefault(i, float(np.float32(sparsity)))
    raise_problems(problems)
    return fixed


def _shares(sizes: dict[int, int], removed: int, densities: dict[int, float]) -> dict[int, int]:
    """How many weights each leaf loses, `removed` in all, by densities up to a common factor."""
    weights = {i: densities[i] * sizes[i] for i in sizes}
    kept, sparse = sum(sizes.values()) - removed, set(sizes)
    while sparse:
        factor = kept / sum(weights[i] for i in sparse)
        full = {i for i in sparse if factor * weights[i] >= sizes[i]}
        if not full:
            break
        kept -= sum(sizes[i] for i in full)
        sparse -= full
    return _rounded({i: sizes[i] - factor * weights[i] for i in sparse}, sizes, removed)


def _apart(sizes: dict[int, int], removed: int, above: dict[int, float]) -> dict[int, int]:
    """The same, by densities up to a common summand."""

    def exact(sparsity: float) -> dict[int, float]:
        return {i: max(sparsity - above[i], 0.0) * n for i, n in sizes.items()}

    low, high = 0.0, 1 + max(above.values(), default=0.0)
    for _ in range(64):
        middle = (low + high) / 2
        lost = sum(min(x, sizes[i] - 1) for i, x in exact(middle).items())
        low, high = (low, middle) if lost >= removed else (middle, high)
    return _rounded({i: x for i, x in exact(high).items() if x}, sizes, removed)


def _rounded(exact: dict[int, float], sizes: dict[int, int], removed: int) -> dict[int, int]:
    """Shares of leaves that are not dense, as whole weights."""
    exact = {i: min(x, sizes[i] - 1) for i, x in exact.items()}
    shares = {i: math.floor(exact.get(i, 0)) for i in sizes}
    # Largest remainder first. A leaf that may not lose its last weight passes its part on.
    order = sorted(exact, key=lambda i: shares[i] - exact[i])
    while sum(shares.values()) < removed:
        for i in order:
            if shares[i] < sizes[i] - 1 and sum(shares.values()) < removed:
                shares[i] += 1
    return shares


def _checked(density: Any, shape: tuple[int, ...]) -> float:
    if isinstance(density, numbers.Real) and 0 < float(density) < math.inf:
        return float(density)
    raise PruningError(
        f"a method gives each shape its density, a number above 0, up to a common factor; for "
        f"{shape} it gave {shown(density)}. jp.erk(power=1.0) makes one."
    )


def _named(shares: dict[int, int], sizes: dict[int, int]) -> dict[int, float]:
    """For each share the float32 sparsity at which a leaf loses it."""
    named, carried = {}, 0
    for i in sorted(shares, key=lambda i: -sizes[i]):
        wanted = min(max(shares[i] + carried, 0), sizes[i] - 1)
        sparsity = np.float32(wanted / sizes[i])
        while _removed(sparsity, sizes[i]) < wanted:
            sparsity = np.nextafter(sparsity, np.float32(1))
        while _removed(sparsity, sizes[i]) > wanted:  # a later leaf can take one more, not one less
            sparsity = np.nextafter(sparsity, np.float32(0))
        carried += shares[i] - _removed(sparsity, sizes[i])
        named[i] = float(sparsity)
    return named


def _removed(sparsity: float | np.float32, size: int) -> int:
    return int(np.floor(np.float32(sparsity) * np.float32(size)))
