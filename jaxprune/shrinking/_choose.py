"""Which units go: rankings, limits and budgets."""

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from jaxprune._errors import InvalidPattern, InvalidSparsity, NoMatch
from jaxprune._metrics import Metric
from jaxprune._text import shown
from jaxprune.shrinking._blocks import Block
from jaxprune.shrinking._cut import Cut
from jaxprune.shrinking._dropped import NOTHING, Dropped
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._remains import Remains, remains
from jaxprune.shrinking._rules import Amount, Rule, rules_of
from jaxprune.shrinking._scores import Scores, unit_scores

Per: TypeAlias = Literal["group", "global"]
Budget: TypeAlias = Literal["units", "weights", "multiply_adds"]

# These are few, and what devices like is the product of their number with another.
_COUNTED_SINGLY = ("heads", "queries", "experts")


def choose(
    model: Model,
    params: Any,
    amount: Amount,
    *,
    metric: Metric,
    per: Per,
    budget: Budget,
    most: float,
    multiple_of: int,
    cut: Cut,
) -> Cut:
    """The cut that meets a budget; see `Dependencies.choose`."""
    _check_choices(per, budget, most, multiple_of)
    before = remains(cut, model)
    rules = rules_of(model, amount, before.dropped)
    names = [name for rule in rules for name in rule.names]
    scores = unit_scores(model, params, metric, names, before)
    limits = Limits(model, most, multiple_of, before)
    if budget != "units":
        removed = _to_cost(rules, scores, per, budget, limits)
    elif per == "global":
        removed = {
            name: count
            for rule in rules
            for name, count in _global_units(model, rule, scores, limits).items()
        }
    else:
        removed = {
            name: _fraction(rule.amount, model.groups[name].units, most, name)
            for rule in rules
            for name in rule.names
        }
    kept = {}
    for name, count in removed.items():
        left = limits.left(name, count)
        order = np.argsort(scores[name], kind="stable")
        if left < limits.there(name):
            kept[name] = tuple(sorted(order[len(order) - left :].tolist()))
    if not kept:
        words = f"an amount of {shown(amount)} cuts no unit of the {len(names)} groups"
        if cut.kept:
            raise NoMatch(
                f"{words} that `cut` does not: it leaves no more than is asked for, or as little "
                "as can be. Ask for more, or pass a smaller cut."
            )
        raise NoMatch(
            f"{words}: each keeps at least one unit, and a multiple of multiple_of. Ask for more, "
            "or lower multiple_of."
        )
    return cut | Cut(kept)


def _check_choices(per: Any, budget: Any, most: Any, multiple_of: Any) -> None:
    if per not in ("group", "global"):
        raise InvalidPattern(f'per is "group" or "global", got {shown(per)}.')
    if budget not in ("units", "weights", "multiply_adds"):
        raise InvalidPattern(
            f'budget is "units", "weights" or "multiply_adds", got {shown(budget)}.'
        )
    if not isinstance(most, numbers.Real) or not 0 < float(most) < 1:
        raise InvalidSparsity(
            f"most is the largest fraction of a group that may go, between 0 and 1, got "
            f"{shown(most)}."
        )
    if isinstance(multiple_of, bool) or not isinstance(multiple_of, int) or multiple_of < 1:
        raise InvalidPattern(f"multiple_of is an integer of 1 or more, got {shown(multiple_of)}.")


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How many units a group keeps.

    Attributes:
        model: The model.
        most: The largest fraction of a group that may go.
        multiple_of: What the number of units that stay is a multiple of.
        before: What there is to choose from.
    """

    model: Model
    most: float
    multiple_of: int
    before: Remains

    def there(self, name: str) -> int:
        """How many units there are to choose from."""
        return int(np.count_nonzero(self.before.of(self.model.blocks[name])))

    def left(self, name: str, removed: int) -> int:
        """How many units are left when `removed` are to go, with those that are gone already."""
        units = self.model.groups[name].units
        left = max(units - removed, units - _floor(self.most, units), 1)
        if name.partition("[")[0].rpartition(":")[2] not in _COUNTED_SINGLY:
            left = math.ceil(left / self.multiple_of) * self.multiple_of
        return min(left, self.there(name))


def _floor(fraction: float, units: int) -> int:
    return int(np.floor(np.float32(fraction) * np.float32(units)))


def _fraction(amount: float, units: int, most: float, name: str) -> int:
    removed = _floor(amount, units)
    if removed > _floor(most, units):
        raise InvalidSparsity(
            f"{name} is to lose {removed} of its {units} units, and most={most} lets it lose "
            f"{_floor(most, units)}: raise most, or ask for less."
        )
    return removed


def _events(names: Sequence[str], scores: Mapping[str, Scores], per: Per) -> list[str]:
    """The names of groups in the order in which their units go, each as often as it has units."""
    keys, numbers_ = [], []
    for number, name in enumerate(names):
        here = np.sort(scores[name])
        # Per group every group loses the same fraction at any time.
        keys.append(here if per == "global" else np.arange(1, len(here) + 1) / len(here))
        numbers_.append(np.full(len(here), number))
    if not keys:
        return []
    order = np.argsort(np.concatenate(keys), kind="stable")
    return [names[number] for number in np.concatenate(numbers_)[order]]


def _global_units(
    model: Model, rule: Rule, scores: Mapping[str, Scores], limits: Limits
) -> dict[str, int]:
    """The lowest units of all groups of a rule; those of a group at its limit are passed over."""
    names = rule.names
    wanted = _floor(rule.amount, sum(model.groups[name].units for name in names))
    removed = dict.fromkeys(names, 0)
    least = {name: limits.left(name, model.groups[name].units) for name in names}
    left = wanted
    for name in _events(names, scores, "global"):
        if left and model.groups[name].units - removed[name] > least[name]:
            removed[name] += 1
            left -= 1
    if left:
        raise InvalidSparsity(
            f"{wanted} units are to go, and only {wanted - left} can: raise most={limits.most}, or "
            "ask for less."
        )
    return removed


def _to_cost(
    rules: Sequence[Rule],
    scores: Mapping[str, Scores],
    per: Per,
    budget: Budget,
    limits: Limits,
) -> dict[str, int]:
    """As many units as it takes for the whole model to cost no more than is left of its budget."""
    if len({rule.amount for rule in rules}) > 1:
        raise InvalidPattern(
            f'budget="{budget}" is for the whole model: give all groups one amount, and None to '
            'those that stay; budget="units" takes an amount for each.'
        )
    model, before = limits.model, limits.before
    names = [name for rule in rules for name in rule.names]
    events = _events(names, scores, per)

    def cost(left: Mapping[Block, int], dropped: Dropped) -> int:
        if budget == "weights":
            return model.costs.weights(left, dropped.leaves)
        return model.costs.multiply_adds(left, dropped.dead)

    def removed(count: int) -> dict[str, int]:
        tally = dict.fromkeys(names, 0)
        for name in events[:count]:
            tally[name] += 1
        return tally

    def costs(count: int) -> int:
        gone = removed(count)
        left = {model.blocks[name]: limits.left(name, gone[name]) for name in names}
        return cost(before.counts() | left, before.dropped)

    whole = cost({}, NOTHING)
    target = (1 - rules[0].amount) * whole
    low, high = 0, len(events)
    if costs(high) > target:
        share = 1 - costs(high) / max(whole, 1)
        raise InvalidSparsity(
            f"at most {share:.1%} of the {budget.replace('_', '-')} can be cut with most="
            f"{limits.most} and multiple_of={limits.multiple_of}, and {rules[0].amount:.1%} are "
            "asked for. Ask for less, or raise most."
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if costs(middle) <= target else (middle + 1, high)
    return removed(low)
