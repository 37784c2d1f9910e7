"""A function whose axes are coupled: everything that is read from it once."""

import dataclasses
import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp

from jaxprune._errors import Problem, PruningError, StructureMismatch, raise_problems
from jaxprune._text import shown
from jaxprune._tree import Leaf, is_array, leaves
from jaxprune._where import Pattern, covers, no_match
from jaxprune.shrinking._blocks import Block, join, pin
from jaxprune.shrinking._costs import Costs
from jaxprune.shrinking._depth import Depth, depth_of
from jaxprune.shrinking._groups import Group, groups_of
from jaxprune.shrinking._masked import everywhere, nowhere
from jaxprune.shrinking._paths import Paths
from jaxprune.shrinking._program import Axes, Body, Why, couple_program, fresh
from jaxprune.shrinking._roles import Roles, values_of
from jaxprune.shrinking._traced import Traced, traced
from jaxprune.shrinking._zeros import inexact_units
from jaxprune.tracing import _jax

Keep: TypeAlias = Pattern | Sequence[Pattern] | Mapping[Pattern, Any]


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class Model:
    """A function as a program whose axes are coupled.

    Attributes:
        traced: The function as a program.
        body: The program, with its axes.
        axes: The axes of each leaf of the parameters.
        groups: The groups by name.
        blocks: Their blocks by name.
        costs: What units cost.
        multiplied: The numbers of the leaves that products and convolutions read.
        depth: Its residual blocks.
    """

    traced: Traced
    body: Body
    axes: tuple[Axes, ...]
    groups: Mapping[str, Group]
    blocks: Mapping[str, Block]
    costs: Costs
    multiplied: frozenset[int]
    depth: Depth

    def scored_members(
        self, name: str, there: Container[int] | None = None
    ) -> list[tuple[int, int]]:
        """The (number of the leaf, axis) of the weights that a group's units are scored by.

        Those that products and convolutions read; where there are none, all.

        Args:
            name: The name of the group.
            there: The leaves that there are; None for all.
        """
        numbers = {leaf.path: k for k, leaf in enumerate(self.leaves)}
        members = [(numbers[path], axis) for path, axis in self.groups[name].members]
        members = [member for member in members if there is None or member[0] in there]
        return [member for member in members if member[0] in self.multiplied] or members

    def check(self, params: Any) -> None:
        """Refuses parameters that are not those that the model was read with.

        Raises:
            StructureMismatch: They have other paths or shapes.
        """
        params_leaves = [leaf for leaf in leaves(params) if is_array(leaf.value)]
        if [leaf.path for leaf in params_leaves] != [leaf.path for leaf in self.leaves]:
            raise StructureMismatch(
                "these are not the params that the dependencies were read with: other paths. Pass "
                "the whole tree that f takes."
            )
        raise_problems(map(_other_shape, params_leaves, self.leaves))

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The leaves of the parameters that are arrays."""
        return self.traced.leaves


def _other_shape(leaf: Leaf, expected: Leaf) -> Problem | None:
    if tuple(leaf.value.shape) == tuple(expected.value.shape):
        return None
    return Problem(
        StructureMismatch,
        f"{leaf.name} has shape {tuple(leaf.value.shape)}, and had {tuple(expected.value.shape)} "
        "when the dependencies were read: pass the whole parameters.",
    )


def read_model(f: Callable[..., Any], params: Any, inputs: tuple[Any, ...], keep: Keep) -> Model:
    """Traces a function and couples the axes of its values.

    Args:
        f: The function.
        params: Its parameters.
        inputs: Its other arguments.
        keep: Which axes of which leaves stay: see `dependencies`.
    """
    program = traced(f, params, inputs)
    leaves = program.leaves
    axes = [fresh(leaf.value.shape) for leaf in leaves]
    _pin_leaves(program, axes)
    kept = _pin_kept(leaves, axes, keep)
    input_axes = [fresh(leaf.value.shape) for leaf in program.inputs]
    for leaf, blocks in zip(program.inputs, input_axes, strict=True):
        number, _, path = leaf.path.partition("/")
        of = f"`{path}` of input {number}" if path else f"input {number}"
        for k, block in enumerate(blocks):
            pin(block, Why(f"it is axis {k} of {of}, and only what is passed in params is cut"))
    body = couple_program(program.jaxpr, [*axes, *input_axes])
    _settle_results(program, axes, body.outputs)
    costs = Costs(body, {k: axes[k] for k, leaf in enumerate(leaves) if _is_float(leaf.value)})
    roles = Roles(body, values_of(axes, input_axes))
    pairs = groups_of(leaves, axes, roles, costs)
    inexact = inexact_units(body, [*map(everywhere, axes), *map(nowhere, input_axes)])
    groups = {
        name: dataclasses.replace(group, inexact=str(inexact.get(block, "")))
        for name, (group, block) in pairs.items()
    }
    by_name = {name: block for name, (_, block) in pairs.items()}
    multiplied = frozenset(roles.multiplied)
    depth = depth_of(body, leaves, axes, costs=costs, multiplied=multiplied, kept=kept)
    return Model(program, body, tuple(axes), groups, by_name, costs, multiplied, depth)


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.inexact)


def _pin_leaves(program: Traced, axes: Sequence[Axes]) -> None:
    """Keeps what is no float, and what the program never reads."""
    jaxpr = _jax.opened(program.jaxpr)
    _, used = _jax.live(jaxpr, [True] * len(jaxpr.outvars))
    for leaf, blocks, variable in zip(program.leaves, axes, jaxpr.invars, strict=False):
        why = ""
        if not _is_float(leaf.value):
            why = f"it holds {leaf.value.dtype}: dequantize it to cut it"
        elif variable not in used:
            why = "the function never reads it"
        for block in blocks if why else ():
            pin(block, Why(why))


def _pin_kept(leaves: Sequence[Leaf], axes: Sequence[Axes], keep: Keep) -> dict[int, str]:
    """Keeps what the caller wants kept, and says why, by the number of the leaf."""
    if isinstance(keep, Mapping):
        wanted = list(keep.items())
    else:
        patterns = [keep] if isinstance(keep, str | re.Pattern) else keep
        wanted = [(pattern, None) for pattern in patterns]
    problems = []
    kept: dict[int, str] = {}
    for pattern, only in wanted:
        members = [k for k, leaf in enumerate(leaves) if covers(pattern, leaf.path)]
        if not members:
            problems.append(no_match(pattern, [leaf.path for leaf in leaves]))
        for k in members:
            kept.setdefault(k, f"keep={pattern!r} keeps {leaves[k].name}")
            for axis in _kept_axes(leaves[k], only):
                pin(axes[k][axis], Why(f"keep={pattern!r} keeps {leaves[k].name}"))
    raise_problems(problems)
    return kept


def _kept_axes(leaf: Leaf, only: Any) -> list[int]:
    rank = len(leaf.value.shape)
    if only is None:
        return list(range(rank))
    several = only if isinstance(only, tuple) else (only,)
    if not all(isinstance(axis, int) and -rank <= axis < rank for axis in several):
        raise PruningError(
            f"keep has {shown(only)} for {leaf.name} of shape {tuple(leaf.value.shape)}: expected "
            "None for the whole leaf, or an axis of it, or a tuple of axes."
        )
    return [axis % rank for axis in several]


def _settle_results(program: Traced, axes: Sequence[Axes], outputs: Sequence[Axes]) -> None:
    """Keeps the axes of results, but joins a state that is written back with what it was."""
    paths = Paths([leaf.path for leaf in program.leaves])
    results = [leaf for leaf in program.results if is_array(leaf.value)]
    for leaf, blocks in zip(results, outputs, strict=True):
        numbers, shared = paths.ending_as(leaf.path)
        if shared > 1 and len(numbers) == 1:
            (k,) = numbers
            if program.leaves[k].value.shape == leaf.value.shape:
                for one, other in zip(axes[k], blocks, strict=True):
                    join(one, other, Why(f"it is written back as {leaf.name}"))
                continue
        for k, block in enumerate(blocks):
            pin(block, Why(f"it is axis {k} of the result" + f" {leaf.name}" * bool(leaf.path)))
