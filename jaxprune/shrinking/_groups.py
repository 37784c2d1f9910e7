"""Groups: the units of one kind that a model can be cut by, and what each of them costs."""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxprune._text import integer, table
from jaxprune._tree import Leaf
from jaxprune.shrinking._blocks import ONE, Block, atoms
from jaxprune.shrinking._costs import Costs
from jaxprune.shrinking._program import Axes, Why
from jaxprune.shrinking._roles import Roles

# What a leaf is called inside of its module: its group is called as the module is.
_LEAF_NAMES = ("kernel", "weight", "w", "embedding", "scale", "bias", "b")


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Units of one kind, each of which can be cut without the others.

    Attributes:
        name: The module that makes the units, and ":heads", ":queries", ":head_dim" or ":experts"
            where the program says that they are these.
        units: How many there are.
        members: The (path, axis) of every leaf that the units are a part of.
        weights: How many weights go with one unit, the others kept.
        multiply_adds: How many multiply-adds of one call go with one unit.
        inexact: Why a model without some of the units is not the model that is masked; "" if it is.
        refused: Why no unit can be cut; "" if they can.
    """

    name: str
    units: int
    members: tuple[tuple[str, int], ...]
    weights: int
    multiply_adds: int
    inexact: str = ""
    refused: str = ""


def groups_of(
    leaves: Sequence[Leaf], axes: Sequence[Axes], roles: Roles, costs: Costs
) -> dict[str, tuple[Group, Block]]:
    """The groups of a program's leaves, by name, each with its block.

    Those that cannot be cut are among them, but for the positions that a window slides along.

    Args:
        leaves: The leaves of the parameters.
        axes: Their axes.
        roles: What the program does with units.
        costs: What units cost.
    """
    members: dict[Block, dict[tuple[int, int], None]] = {}
    order = [*roles.order, *(k for k in range(len(leaves)) if k not in roles.order)]
    for k in order:
        for axis, block in enumerate(axes[k]):
            for unit in atoms(block):
                members.setdefault(unit, {})[k, axis] = None
    groups: dict[str, tuple[Group, Block]] = {}
    for unit, at_axes in members.items():
        why = unit.why
        if unit is ONE or unit.size == 0 or (isinstance(why, Why) and why.no_units):
            continue
        (k, axis), *_ = at_axes
        name = _name(leaves[k].path, roles.of.get(unit, ""))
        # The plain name is for those that can be cut.
        name = _unused(name, axis, groups) if why is None else _with_axis(name, axis, groups)
        paths = tuple((leaves[k].path, axis) for k, axis in sorted(at_axes))
        cost = costs.of_unit(unit)
        groups[name] = (
            Group(name, unit.size, paths, *cost, refused="" if why is None else str(why)),
            unit,
        )
    return groups


def module_of(path: str) -> str:
    """The module that a leaf belongs to, or the leaf itself where that is all that is known."""
    parts = path.split("/")
    if len(parts) > 1 and parts[-1] in _LEAF_NAMES:
        parts.pop()
    return "/".join(parts) or "array"


def _name(path: str, role: str) -> str:
    return module_of(path) + (f":{role}" if role else "")


def _unused(name: str, axis: int, taken: Mapping[str, object]) -> str:
    """The name, or one with the axis and a number, so that no two groups have one name."""
    return _with_axis(name, axis, taken) if name in taken else name


def _with_axis(name: str, axis: int, taken: Mapping[str, object]) -> str:
    with_axis = f"{name}[{axis}]"
    number, candidate = 2, with_axis
    while candidate in taken:
        candidate, number = f"{with_axis}#{number}", number + 1
    return candidate


def groups_table(groups: Sequence[Group]) -> str:
    """The groups as a table: those that can be cut, then why the others cannot."""
    header = ("group", "units", "weights/unit", "multiply-adds/unit", "leaves", "exact")
    rows = [
        (
            group.name,
            integer(group.units),
            integer(group.weights),
            integer(group.multiply_adds),
            integer(len({path for path, _ in group.members})),
            f"no: {group.inexact}" if group.inexact else "yes",
        )
        for group in groups
        if not group.refused
    ]
    lines = [table(header, rows)] if rows else ["No group can be cut."]
    by_reason: dict[str, list[str]] = {}
    for group in groups:
        if group.refused:
            by_reason.setdefault(group.refused, []).append(f"{group.name} ({integer(group.units)})")
    if by_reason:
        lines += ["", "Not cut:"]
    for reason, names in by_reason.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"  {', '.join(names[:3])}{more}: {reason}")
    return "\n".join(lines)
