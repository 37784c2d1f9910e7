"""Which groups amounts are for, by patterns of their names."""

import dataclasses
import numbers
from collections.abc import Container, Mapping, Sequence
from typing import Any, TypeAlias

from jaxprune._errors import InvalidSparsity, NoMatch, PruningError
from jaxprune._text import shown
from jaxprune._where import Pattern, covers
from jaxprune.shrinking._dropped import NOTHING, Dropped
from jaxprune.shrinking._groups import Group
from jaxprune.shrinking._model import Model

Amount: TypeAlias = float | Mapping[Pattern, float | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """Groups that one amount is for.

    Attributes:
        amount: The fraction that goes.
        names: The names of the groups.
    """

    amount: float
    names: tuple[str, ...]


def rules_of(model: Model, amount: Amount, dropped: Dropped) -> list[Rule]:
    """Which groups an amount, or each amount of a mapping, is for.

    Args:
        model: The model.
        amount: The amount.
        dropped: What is left out of the model already.

    Raises:
        InvalidSparsity: An amount is not between 0 and 1.
        NoMatch: A pattern matches no group that can be cut.
    """
    amounts = amount if isinstance(amount, Mapping) else {"*": amount}
    if not any(value is not None for value in amounts.values()):
        raise NoMatch(f"nothing is to be cut: there is only None in {shown(amount)}.")
    taken: set[str] = set()
    rules = []
    for pattern, value in amounts.items():
        matched = [name for name in model.groups if _matches(pattern, name)]
        mine = [name for name in matched if name not in taken]
        taken |= set(mine)
        if value is None:
            if not matched:
                raise _no_group(pattern, model)
            continue
        _check_amount(value)
        rules.append(Rule(float(value), _cuttable(model, pattern, mine, dropped)))
    return rules


def names_matching(model: Model, patterns: Sequence[Pattern]) -> tuple[str, ...]:
    """The names of the groups that patterns match and that can be cut.

    Raises:
        NoMatch: A pattern matches none.
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        mine = [name for name in model.groups if _matches(pattern, name)]
        names |= dict.fromkeys(_cuttable(model, pattern, mine, NOTHING))
    return tuple(names)


def _matches(pattern: Pattern, name: str) -> bool:
    """Whether a pattern covers a group's name, with or without the role or axis at its end."""
    bare = name.partition("[")[0].partition(":")[0]
    return covers(pattern, name) or covers(pattern, bare)


def _cuttable(
    model: Model, pattern: Pattern, names: Sequence[str], dropped: Dropped
) -> tuple[str, ...]:
    """Those of some groups that a pattern may cut.

    Raises:
        NoMatch: There are none.
    """
    gone = {model.leaves[k].path for k in dropped.leaves}
    why_left = {name: _why_left(model.groups[name], pattern, gone) for name in names}
    targets = tuple(name for name, why in why_left.items() if not why)
    if not targets:
        raise _no_group(pattern, model, why_left)
    return targets


def _why_left(group: Group, pattern: Pattern, gone: Container[str]) -> str:
    if group.refused:
        return group.refused
    if all(path in gone for path, _ in group.members):
        return "it goes as a whole with a residual block"
    # What is not exact is cut only where it is called by its name.
    return "" if not group.inexact or pattern == group.name else group.inexact


def _check_amount(value: Any) -> None:
    if isinstance(value, numbers.Real) and 0 < float(value) < 1:
        return
    raise InvalidSparsity(
        f"an amount is the fraction that is cut, between 0 and 1, got {shown(value)}: write 0.5 "
        "for half, and None in a mapping for groups that stay."
    )


def _no_group(
    pattern: Pattern, model: Model, why_left: Mapping[str, str] | None = None
) -> PruningError:
    if why_left:
        reasons = "; ".join(f"{name}: {why}" for name, why in [*why_left.items()][:4])
        return NoMatch(f"no group that {pattern!r} matches can be cut. {reasons}.")
    names = ", ".join(name for name, group in model.groups.items() if not group.refused)
    return NoMatch(f"the pattern {pattern!r} matches no group. The groups are {names or 'none'}.")
