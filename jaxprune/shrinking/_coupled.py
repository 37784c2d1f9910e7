"""Whole units as a spec: masks and training prune them in every leaf that they are a part of."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import Problem, PruningError, StructureMismatch
from jaxprune._kernels import device
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.sharding import on_any_mesh
from jaxprune._specs.budget import budget
from jaxprune._specs.checks import Axis, Scalar, check_typed_sparsity
from jaxprune._specs.protocol import Work, fit, fit_together, removed, resolved, scope, select
from jaxprune._text import shown
from jaxprune._tree import Leaf, is_prunable, node
from jaxprune._where import Pattern, leave_out
from jaxprune.shrinking._blocks import Block
from jaxprune.shrinking._dependencies import Dependencies
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._positions import kept_positions, unit_positions
from jaxprune.shrinking._rules import names_matching


@node("sparsity")
@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Coupled:
    """Prunes whole units, in every leaf that they are a part of: what can then be cut out.

    Of every group of n units the `floor(float32(sparsity) * float32(n))` that score lowest go. A
    unit's score is the sum over its weights in the kernels that products and convolutions read.
    Without `where=`, the leaves that the groups are a part of are pruned, biases and norms too:
    so the pruned model is the one that `Dependencies.function` computes without these units.

    Attributes:
        dependencies: What `jaxprune.dependencies` read from the model.
        sparsity: The fraction of the units of every group that goes, in [0, 1).
        groups: Patterns of names of groups; by default all that can be cut, and exactly.
        path: Where the spec stands once it is settled; leave it out.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxprune as jp
        >>> def model(params, x):
        ...     return jax.nn.relu(x @ params["up"] + params["bias"]) @ params["down"]
        >>> params = {"up": jnp.arange(8.0).reshape(2, 4), "bias": jnp.ones(4)}
        >>> params["down"] = jnp.ones((4, 3))
        >>> deps = jp.dependencies(model, params, jnp.ones((5, 2)))
        >>> pruned, mask = jp.prune(params, jp.Coupled(deps, 0.5))
        >>> pruned["bias"]
        Array([0., 0., 1., 1.], dtype=float32)
        >>> deps.cut_of(mask)
        Cut(kept={'up': (2, 3)})
    """

    dependencies: Dependencies
    sparsity: Scalar
    groups: Pattern | tuple[Pattern, ...] = "*"
    path: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dependencies, Dependencies):
            raise PruningError(
                f"expected what jp.dependencies made, got {shown(self.dependencies)}: write "
                "jp.Coupled(jp.dependencies(f, params, x), 0.5)."
            )
        check_typed_sparsity(self.sparsity)

    def __repr__(self) -> str:
        return f"Coupled(..., {self.sparsity!r})"

    @property
    def model(self) -> Model:
        """The model that was read."""
        return self.dependencies.model

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the groups that are pruned."""
        patterns = self.groups if isinstance(self.groups, tuple) else (self.groups,)
        return names_matching(self.model, patterns)

    @property
    def paths(self) -> frozenset[str]:
        """The paths of the leaves that they are a part of."""
        return frozenset(path for name in self.names for path, _ in self.model.groups[name].members)


@scope.register
def _(spec: Coupled) -> Callable[[str, Any], bool]:
    paths = spec.paths
    return lambda path, leaf: path in paths and is_prunable(leaf)


@fit.register
def _(spec: Coupled, leaf: Leaf) -> Problem | None:
    shapes = {known.path: tuple(known.value.shape) for known in spec.model.leaves}
    if leaf.path not in spec.paths:
        return Problem(
            StructureMismatch,
            f"{leaf.name} has no part in the units of these dependencies: {leave_out(leaf.path)}, "
            "or leave where= out, and the leaves that they are a part of are pruned.",
        )
    if shapes[leaf.path] != tuple(leaf.value.shape):
        return Problem(
            StructureMismatch,
            f"{leaf.name} has shape {tuple(leaf.value.shape)}, and had {shapes[leaf.path]} when "
            "the dependencies were read: read them again with these parameters.",
        )
    return None


@fit_together.register
def _(spec: Coupled, leaves: Sequence[Leaf]) -> Problem | None:
    missing = sorted(spec.paths - {leaf.path for leaf in leaves})
    if not missing:
        return None
    return Problem(
        StructureMismatch,
        f"units are pruned in every leaf that they are a part of, and {len(missing)} of these are "
        f"not among the leaves that are pruned here, such as `{missing[0]}`: leave where= and "
        "rules out, and pass the whole tree that the dependencies were read with. If there is no "
        "such leaf, they were made for another model: read those of this one.",
    )


@resolved.register
def _(spec: Coupled, leaf: Leaf, axis_of: Callable[[Axis], Axis]) -> Coupled:
    del axis_of
    return dataclasses.replace(spec, path=leaf.path)


@removed.register
def _(spec: Coupled, shape: tuple[int, ...]) -> int | None:
    del spec, shape
    return None


@select.register
def _(spec: Coupled, works: Sequence[Work]) -> list[jax.Array]:
    del spec
    masks: dict[int, jax.Array] = {}
    for rule in {work.rule for work in works}:
        at = [i for i, work in enumerate(works) if work.rule == rule]
        first = works[at[0]].spec
        kept = _survivors(
            [works[i].leaf for i in at],
            jnp.asarray(first.sparsity, jnp.float32),
            model=first.model,
            names=first.names,
            paths=tuple(works[i].spec.path for i in at),
        )
        masks |= dict(zip(at, kept, strict=True))
    return [masks[i] for i in range(len(works))]


@functools.partial(jax.jit, static_argnames=("model", "names", "paths"))
@functools.partial(on_any_mesh, like=lambda leaves, *_: [leaf.values for leaf in leaves])
def _survivors(
    leaves: list[Ranked],
    sparsity: jax.Array,
    *,
    model: Model,
    names: tuple[str, ...],
    paths: tuple[str, ...],
) -> list[jax.Array]:
    """The masks of leaves: False at every weight of a unit that goes."""
    numbers = {leaf.path: k for k, leaf in enumerate(model.leaves)}
    ranked = {numbers[path]: leaf for path, leaf in zip(paths, leaves, strict=True)}
    kept: dict[Block, Any] = {}
    for name in names:
        units = model.groups[name].units
        scores = _unit_scores(model, name, ranked)
        count = budget(sparsity, units, 1).as_int32()
        view = {"view": (units,), "axes": (), "reduce": "sum"}
        kept[model.blocks[name]] = device.unit_survivors(scores, count, **view)

    def of_units(block: Block) -> Any:
        return kept.get(block, np.ones(block.size, bool))

    masks = []
    for path, leaf in zip(paths, leaves, strict=True):
        axes = model.axes[numbers[path]]
        mask = jnp.ones(leaf.values.shape, bool)
        for axis, block in enumerate(axes):
            others = [k for k in range(len(axes)) if k != axis]
            mask &= jnp.expand_dims(kept_positions(block, of_units, jnp), others)
        masks.append(mask)
    return masks


def _unit_scores(model: Model, name: str, ranked: dict[int, Ranked]) -> Ranked:
    """The scores of a group's units; those of which nothing is alive rank below all others."""
    unit, group = model.blocks[name], model.groups[name]
    scores = jnp.zeros(group.units, jnp.float32)
    alive, held = (jnp.zeros(group.units, bool) for _ in range(2))
    for k, axis in model.scored_members(name, ranked):
        leaf = ranked[k]
        others = tuple(a for a in range(leaf.values.ndim) if a != axis)
        values = leaf.scores().astype(jnp.float32)
        there = jnp.ones(leaf.values.shape, bool) if leaf.alive is None else leaf.alive
        values = jnp.where(there, values, 0)
        stays = jnp.zeros(leaf.values.shape, bool) if leaf.held is None else leaf.held
        along = values.sum(others), there.any(others), stays.any(others)
        for numbers in unit_positions(model.axes[k][axis], unit):
            if np.array_equal(numbers, np.arange(group.units)):  # compiled sooner
                scores, alive, held = scores + along[0], alive | along[1], held | along[2]
                continue
            at = np.where(numbers < 0, group.units, numbers)  # out of bounds, and dropped
            scores = scores.at[at].add(along[0], mode="drop")
            alive = alive.at[at].max(along[1], mode="drop")
            held = held.at[at].max(along[2], mode="drop")
    return Ranked(scores, alive=alive, held=held)
