"""Single weights, wherever they stand: a budget for each leaf, for all together, or by axis."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import BelowMinNonzero, InvalidPattern, Problem
from jaxprune._kernels import device, host
from jaxprune._kernels.counting import LARGEST
from jaxprune._kernels.limbs import Limbs
from jaxprune._kernels.placement import from_host, on_host
from jaxprune._kernels.ranked import Ranked
from jaxprune._specs.axes import axis_length, with_one_axis
from jaxprune._specs.budget import Budget, all_limbs, budget, pruned_count
from jaxprune._specs.checks import (
    WORDS,
    Axis,
    Scalar,
    absent_axis,
    check_axis,
    check_count,
    check_typed_sparsity,
    empty,
    wrong_floor,
)
from jaxprune._specs.protocol import Work, fit, fit_together, removed, resolved, select
from jaxprune._tree import Leaf, is_traced, node
from jaxprune._where import leave_out

Scope: TypeAlias = Literal["leaf", "global"] | Axis


@node("sparsity")
@dataclass(frozen=True, slots=True)
class Unstructured:
    """Prunes the lowest scores wherever they stand.

    A group of n weights loses exactly `floor(float32(sparsity) * float32(n))`, less what
    `min_nonzero` holds back; among equal scores the lower row-major index goes first.

    Attributes:
        sparsity: The fraction removed, in [0, 1).
        per: What shares a budget. "leaf": each leaf its own. "global": all leaves of the rule
            together. An axis (an integer, several, "input" or "output"): every index along it, so
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
        check_typed_sparsity(self.sparsity)
        check_count("min_nonzero", self.min_nonzero)
        if self.per not in ("leaf", "global"):
            check_axis("per", self.per, 'or "leaf" or "global"')

    @property
    def along(self) -> int | tuple[int, ...] | None:
        """The axis whose indices have budgets of their own; None if budgets are wider."""
        return None if isinstance(self.per, str) else self.per


def leaf_budget(spec: Unstructured, shape: tuple[int, ...]) -> Budget:
    """How many weights a leaf loses, or, with an axis, every index along it."""
    size = math.prod(shape) // _groups(spec, shape)
    return budget(spec.sparsity, size, spec.min_nonzero)


def _groups(spec: Unstructured, shape: tuple[int, ...]) -> int:
    return 1 if spec.along is None else axis_length(shape, spec.along)


@fit.register
def _(spec: Unstructured, leaf: Leaf) -> Problem | None:
    problem = empty(leaf) or (spec.along is not None and absent_axis(leaf, spec.along)) or None
    shape = leaf.value.shape
    if problem:
        return problem
    size = math.prod(shape) // _groups(spec, shape)
    if spec.along is not None and size > LARGEST:
        return Problem(
            InvalidPattern,
            f"{leaf.name} has {size} weights at each index along axis {spec.per}, more than the "
            f"{LARGEST} that one group may have: choose another axis, or {leave_out(leaf.path)}.",
        )
    return wrong_floor(spec.min_nonzero, leaf, size)


@fit_together.register
def _(spec: Unstructured, leaves: Sequence[Leaf]) -> Problem | None:
    if spec.per != "global" or is_traced(spec.sparsity):
        return None
    sizes = {leaf.name: math.prod(leaf.value.shape) for leaf in leaves}
    wanted, most = pool_budget(spec, list(sizes.values()))
    if int(wanted) <= most:
        return None
    floors = ", ".join(f"{name} ({size})" for name, size in list(sizes.items())[:6])
    more = f" and {len(sizes) - 6} more" if len(sizes) > 6 else ""
    return Problem(
        BelowMinNonzero,
        f"a global budget of {int(wanted)} of {sum(sizes.values())} weights cannot be met: with "
        f"min_nonzero={spec.min_nonzero} a leaf, {floors}{more} can lose only {most} together. "
        "Lower the sparsity or min_nonzero.",
    )


def pool_budget(spec: Unstructured, sizes: Sequence[int]) -> Budget:
    """How many weights leaves of these sizes lose together."""
    most = sum(max(size - spec.min_nonzero, 0) for size in sizes)
    return Budget(pruned_count(spec.sparsity, sum(sizes)), most)


@removed.register
def _(spec: Unstructured, shape: tuple[int, ...]) -> int | None:
    if spec.per == "global":
        return None
    return int(leaf_budget(spec, shape)) * _groups(spec, shape)


@resolved.register
def _(spec: Unstructured, leaf: Leaf, axis_of: Callable[[Axis], Axis]) -> Unstructured:
    del leaf
    return dataclasses.replace(spec, per=axis_of(spec.per)) if spec.per in WORDS else spec  # type: ignore[arg-type]


@select.register
def _(spec: Unstructured, works: Sequence[Work]) -> list[jax.Array]:
    del spec
    masks: dict[int, jax.Array] = {}
    pooled = [i for i, work in enumerate(works) if work.spec.along is None]
    for i, work in enumerate(works):
        if work.spec.along is not None:
            masks[i] = _along(work.spec, work.leaf)
    masks |= dict(zip(pooled, _pooled([works[i] for i in pooled]), strict=True))
    return [masks[i] for i in range(len(works))]


def _along(spec: Unstructured, leaf: Ranked) -> jax.Array:
    wanted, ndim = leaf_budget(spec, leaf.values.shape), leaf.values.ndim
    assert spec.along is not None
    if not wanted.known or on_host(leaf) is None:
        # Several axes stay as many as they are: merged, they could not stay sharded.
        several = (spec.along,) if isinstance(spec.along, int) else spec.along
        kept = {axis % ndim for axis in several}
        axes = tuple(axis for axis in range(ndim) if axis not in kept)
        return device.group_survivors(leaf, wanted.as_int32(), axes=axes)

    def mask(leaf: Ranked, axis: int) -> Any:
        here = on_host(leaf)
        assert here is not None
        return from_host(host.survivors_along(here, int(wanted), axis), leaf.values)

    return with_one_axis(mask, leaf, spec.along)


def _pooled(works: Sequence[Work]) -> list[jax.Array]:
    """The masks of leaves that have a budget of their own, or share that of their rule."""
    pools: dict[tuple[int, int], list[int]] = {}
    for i, work in enumerate(works):
        alone = work.spec.per == "leaf"
        pools.setdefault((work.rule, i if alone else -1), []).append(i)
    leaves = [work.leaf for work in works]
    budgets, together = [], []
    for members in pools.values():
        sizes = [math.prod(leaves[i].values.shape) for i in members]
        together.append(sum(sizes))
        budgets.append(pool_budget(works[members[0]].spec, sizes))
        if len(members) > 1:
            widest = functools.reduce(jnp.promote_types, [leaves[i].score_dtype for i in members])
            for i in members:
                leaves[i] = dataclasses.replace(leaves[i], dtype=np.dtype(widest))
    most = [max(math.prod(w.leaf.values.shape) - w.spec.min_nonzero, 0) for w in works]
    here = [on_host(leaf) for leaf in leaves] if all(b.known for b in budgets) else [None]
    if all(leaf is not None for leaf in here):

        def survivors(members: list[int], wanted: Budget) -> list[host.Array]:
            ranked = [leaf for i in members if (leaf := here[i]) is not None]
            return host.pool_survivors(ranked, int(wanted), [most[i] for i in members])

        by_pool = host.in_threads(survivors, pools.values(), budgets)
        masks = {
            i: mask
            for members, masks_of_pool in zip(pools.values(), by_pool, strict=True)
            for i, mask in zip(members, masks_of_pool, strict=True)
        }
        return [from_host(masks[i], leaf.values) for i, leaf in enumerate(leaves)]
    number = {i: n for n, members in enumerate(pools.values()) for i in members}
    sparsities = [works[members[0]].spec.sparsity for members in pools.values()]
    wanted = all_limbs(sparsities, together, [budget.most for budget in budgets])
    return pool_masks(leaves, [number[i] for i in range(len(works))], wanted, most)


def pool_masks(
    leaves: Sequence[Ranked],
    pools: Sequence[int],
    budgets: Limbs,
    most: Sequence[int],
    largest: int = LARGEST,
) -> list[jax.Array]:
    """The masks of pools of leaves, of which some may hold more than the kernel can count.

    Such a leaf is a pool of its parts along its first axis: among equals the earlier part goes
    first, as the lower index does.
    """
    parts = [_parts(leaf, largest) for leaf in leaves]
    numbers = [pool for of, pool in zip(parts, pools, strict=True) for _ in of]
    counts = [min(part.values.size, m) for of, m in zip(parts, most, strict=True) for part in of]
    flat = [part for of in parts for part in of]
    survivors = iter(device.pool_survivors(flat, numbers, budgets, counts))
    return [
        jnp.concatenate([next(survivors) for _ in of]).reshape(leaf.values.shape)
        if len(of) > 1
        else next(survivors)
        for leaf, of in zip(leaves, parts, strict=True)
    ]


def _parts(leaf: Ranked, largest: int) -> list[Ranked]:
    """A leaf in parts along its first axes, each of at most `largest` scores."""
    shape = leaf.values.shape
    if math.prod(shape) <= largest:
        return [leaf]
    step = largest // math.prod(shape[1:])
    if step:
        ends = range(0, shape[0], step)
        return [jax.tree.map(lambda array, at=at: array[at : at + step], leaf) for at in ends]
    rows = [jax.tree.map(lambda array, i=i: array[i], leaf) for i in range(shape[0])]
    return [part for row in rows for part in _parts(row, largest)]
