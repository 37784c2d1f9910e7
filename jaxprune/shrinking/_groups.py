"""Groups: the units of one kind that a model can be cut by, and what each of them costs."""

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from jaxprune._text import integer, table
from jaxprune._tree import Leaf
from jaxprune.shrinking._blocks import ONE, Block, atoms, count
from jaxprune.shrinking._program import Axes, Body, Step, Why
from jaxprune.shrinking._roles import Roles
from jaxprune.tracing import _layouts as at

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


# A number, and the blocks whose sizes multiply it.
Term: TypeAlias = tuple[int, tuple[Block, ...]]


class Costs:
    """What the parameters and the products of a program cost at any sizes.

    Attributes:
        leaves: By the number of each leaf that counts: the blocks whose sizes multiply.
        products: For each product its step, how many multiply-adds an entry takes, and the blocks
            whose sizes multiply.
    """

    def __init__(self, body: Body, leaves: Mapping[int, Axes]) -> None:
        self.leaves: list[tuple[int, Term]] = [(k, (1, axes)) for k, axes in leaves.items()]
        self.products = [
            (step, (factor, (*turns, *blocks)))
            for step, turns in body.all_steps()
            for factor, blocks in _product(step)
        ]
        self._of_step: dict[Step, int] = {}
        for step, term in self.products:
            self._of_step[step] = self._of_step.get(step, 0) + _cost(term, {})
        self._by_unit = [_by_unit([term for _, term in each]) for each in self._terms]

    @property
    def _terms(self) -> tuple[Sequence[tuple[Any, Term]], ...]:
        return self.leaves, self.products

    def weights(self, left: Mapping[Block, int], gone: Container[int] = ()) -> int:
        """How many weights there are.

        Args:
            left: How many units are left, by block.
            gone: The numbers of leaves that are gone as a whole.
        """
        return sum(_cost(term, left) for k, term in self.leaves if k not in gone)

    def multiply_adds(self, left: Mapping[Block, int], dead: Container[Step] = ()) -> int:
        """How many multiply-adds there are.

        Args:
            left: How many units are left, by block.
            dead: Steps that do not run any more.
        """
        return sum(_cost(term, left) for step, term in self.products if step not in dead)

    def weights_of(self, leaves: Container[int]) -> int:
        """How many weights some leaves have."""
        return sum(_cost(term, {}) for k, term in self.leaves if k in leaves)

    def multiply_adds_of(self, steps: Iterable[Step]) -> int:
        """How many multiply-adds some steps take."""
        return sum(self._of_step.get(step, 0) for step in steps)

    def of_unit(self, unit: Block) -> tuple[int, int]:
        """The weights and the multiply-adds that go with one unit of a block."""
        less = {unit: unit.size - 1}
        weights, multiply_adds = (
            sum(_cost(terms[k][1], {}) - _cost(terms[k][1], less) for k in by_unit.get(unit, ()))
            for terms, by_unit in zip(self._terms, self._by_unit, strict=True)
        )
        return weights, multiply_adds


def _cost(term: Term, left: Mapping[Block, int]) -> int:
    cost, blocks = term
    for block in blocks:
        cost *= count(block, left)
    return cost


def _by_unit(terms: Sequence[Term]) -> dict[Block, list[int]]:
    found: dict[Block, list[int]] = {}
    for k, (_, blocks) in enumerate(terms):
        for unit in {unit for block in blocks for unit in atoms(block)}:
            found.setdefault(unit, []).append(k)
    return found


def _product(step: Step) -> list[Term]:
    """The multiply-adds of a step: how often, times the sizes of blocks."""
    match step.reading:
        case at.Product(summed=summed):
            return [(1, (*step.results[0], *(step.operands[0][i] for i, _ in summed)))]
        case at.RaggedProduct(summed=(left, _)):
            return [(1, (*step.results[0], step.operands[0][left]))]
        case at.Convolved(result=result, kernel=kernel, pairs=pairs):
            blocks = [step.results[0][result[k]] for k in (0, 1)]
            return [(pairs, (*blocks, step.operands[1][kernel[1]]))]
    return []


def found_groups(
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
    found: dict[str, tuple[Group, Block]] = {}
    for unit, at_axes in members.items():
        why = unit.why
        if unit is ONE or unit.size == 0 or (isinstance(why, Why) and why.no_units):
            continue
        (k, axis), *_ = at_axes
        name = _name(leaves[k].path, roles.of.get(unit, ""))
        # The plain name is for those that can be cut.
        name = _unused(name, axis, found) if why is None else _with_axis(name, axis, found)
        paths = tuple((leaves[k].path, axis) for k, axis in sorted(at_axes))
        cost = costs.of_unit(unit)
        found[name] = (
            Group(name, unit.size, paths, *cost, refused="" if why is None else str(why)),
            unit,
        )
    return found


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
    number, found = 2, with_axis
    while found in taken:
        found, number = f"{with_axis}#{number}", number + 1
    return found


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
