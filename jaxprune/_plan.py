"""Which leaf is pruned by which rule: decided and checked before any work is done.

`make_mask` carries the decision out, and `plan` shows the same one to a person.
"""

import functools
import math
import numbers
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxprune._errors import NoMatch, Problem, raise_problems
from jaxprune._specs import (
    NM,
    Budgeted,
    Unstructured,
    as_spec,
    budget_of,
    check_sparsity,
    is_spec,
    misfit,
)
from jaxprune._text import integer, shown, table
from jaxprune._tree import Leaf, is_array, is_traced, leaves
from jaxprune._where import Pattern, Where, covers, dense_reasons, is_weight, no_match


class Decision(NamedTuple):
    """A spec, or None, and where it was written ("" for a lone one).

    Leaves are indices: those the pattern or place covers, and among them those the rule decides.
    """

    written_at: Pattern
    spec: Any
    covered: frozenset[int]
    members: list[int]

    @property
    def text(self) -> str:
        """Where the spec was written, as text."""
        return self.written_at if isinstance(self.written_at, str) else self.written_at.pattern


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What a plan says of one leaf.

    Attributes:
        path: The leaf's path.
        shape: Its shape; None if it is no array.
        dtype: Its dtype, or the type of what stands there.
        total: The weights it holds.
        spec: The spec that prunes it; None if it is left dense.
        rule: The pattern or path at which that spec was written; "" for a lone spec.
        prunes: How many weights go. None if that is not known leaf by leaf: under a global budget,
            or a sparsity that is traced.
        reason: Why it is left dense; "" if it is pruned.
    """

    path: str
    shape: tuple[int, ...] | None
    dtype: str
    total: int
    spec: Any
    rule: str
    prunes: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A dry run: what `make_mask` would do, leaf by leaf. Print it.

    Attributes:
        rows: One row a leaf, in the tree's order.
    """

    rows: tuple[PlanRow, ...]

    def __str__(self) -> str:
        cells = []
        for row in self.rows:
            does = repr(row.spec) if row.spec is not None else f"dense: {row.reason}"
            via = f"  (rule {row.rule!r})" if row.rule else ""
            shape = "x".join(map(str, row.shape)) if row.shape is not None else "-"
            prunes = "shared" if row.prunes is None else integer(row.prunes)
            cells.append(
                [row.path or "(array)", shape, row.dtype, integer(row.total), prunes, does + via]
            )
        return table(["leaf", "shape", "dtype", "weights", "prunes", "how"], cells)


def plan(params: Any, spec: Any, *, where: Where = is_weight) -> Plan:
    """Says what would be pruned, by which rule, and why the rest would not; computes nothing.

    Args:
        params: Any tree of arrays, or of their descriptions (`jax.eval_shape` gives one).
        spec: As for `make_mask`.
        where: As for `make_mask`.

    Returns:
        The plan. It raises whatever `make_mask` would raise.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> print(jp.plan({"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}, jp.NM(2, 4)))
        leaf    shape    dtype  weights  prunes  how
        --------------------------------------------------------------
        bias        8  float32        8       0  dense: rank 1
        kernel    4x8  float32       32      16  NM(n=2, m=4, axis=-1)
    """
    found = leaves(params)
    rules, reasons = decide(found, spec, where)
    by_leaf = {i: rule for rule in rules for i in rule.members}
    return Plan(tuple(_row(leaf, by_leaf.get(i), reasons[i]) for i, leaf in enumerate(found)))


def decide(found: list[Leaf], spec: Any, where: Where) -> tuple[list[Decision], list[str]]:
    """Settles which rule prunes which leaf, and refuses whatever cannot be done.

    Args:
        found: The leaves of a tree.
        spec: A spec or a sparsity; a flat mapping from path patterns to specs, of which the first
            that covers a leaf prunes it; or a tree of specs that is a prefix of the leaves' tree.
            None in place of a spec leaves its leaves dense.
        where: Which leaves may be pruned at all.

    Returns:
        The rules that prune something, and for each leaf the reason why none does ("" if one does).

    Raises:
        PruningError: One of its kinds, naming every leaf and rule that is wrong.
    """
    rules = []
    for written_at, each, matches in _written(spec):
        if hasattr(each, "sparsity"):
            check_sparsity(each.sparsity)
        covered = frozenset(i for i, leaf in enumerate(found) if matches(leaf.path))
        rules.append(Decision(written_at, each, covered, []))
    reasons = dense_reasons(found, where)
    in_scope = frozenset(i for i, reason in enumerate(reasons) if not reason)
    for i in sorted(in_scope):
        rule = next((rule for rule in rules if i in rule.covered), None)
        if rule is None:
            reasons[i] = "no rule names it"
        else:
            rule.members.append(i)
            reasons[i] = "" if rule.spec is not None else f"rule {rule.text!r} leaves it dense"
    raise_problems(_idle(rule, found, reasons, in_scope) for rule in rules)
    pruning = [rule for rule in rules if rule.spec is not None]
    if not pruning:
        raise NoMatch(f"nothing is to be pruned: there is only None in {shown(spec)}.")
    raise_problems(misfit(rule.spec, found[i]) for rule in pruning for i in rule.members)
    return pruning, reasons


_Written = tuple[Pattern, Any, Callable[[str], bool]]


def _written(spec: Any) -> list[_Written]:
    """The specs in `spec`, each with the text of where it stands and a test of what it covers."""
    if isinstance(spec, Mapping) and spec and all(map(_is_entry, spec, spec.values())):
        entries: list[_Written] = [
            (key, each, functools.partial(covers, key)) for key, each in spec.items()
        ]
    else:
        entries = [
            (leaf.path, leaf.value, functools.partial(_lies_in, leaf.path))
            for leaf in leaves(spec, is_leaf=is_spec)
        ]
    if not entries:
        raise NoMatch(
            f"there is no spec in {shown(spec)}: write jp.Unstructured(0.5), for example."
        )
    return [(at, None if each is None else as_spec(each), matches) for at, each, matches in entries]


def _is_entry(key: Any, value: Any) -> bool:
    """Whether an item of a mapping reads as path pattern and spec, and not as part of a tree."""
    simple = value is None or is_spec(value) or isinstance(value, numbers.Real) or is_array(value)
    return isinstance(key, str | re.Pattern) and simple


def _lies_in(subtree: str, path: str) -> bool:
    return not subtree or path == subtree or path.startswith(f"{subtree}/")


def _idle(
    rule: Decision, found: list[Leaf], reasons: list[str], in_scope: frozenset[int]
) -> Problem | None:
    """The problem of a rule that changes nothing."""
    shadowed = rule.covered & in_scope
    if rule.members or (rule.spec is None and rule.covered and not shadowed):
        return None
    what = f"the rule {rule.text!r}" if rule.written_at else "the spec"
    if not rule.covered:
        if rule.written_at:
            return no_match(rule.written_at, [leaf.path for leaf in found])
        return Problem(NoMatch, f"{what} prunes nothing: the tree has no leaves.")
    tally = Counter(reasons[i] or "taken by an earlier rule" for i in rule.covered)
    why = ", ".join(f"{reason} ({count})" for reason, count in tally.most_common(6))
    remedy = (
        "Write it before the rules that take them."
        if shadowed
        else "Choose others with where=, for example where=jp.any_leaf."
    )
    return Problem(NoMatch, f"{what} changes none of the leaves it covers: {why}. {remedy}")


def _row(leaf: Leaf, rule: Decision | None, reason: str) -> PlanRow:
    array = is_array(leaf.value)
    shape = tuple(leaf.value.shape) if array else None
    return PlanRow(
        path=leaf.path,
        shape=shape,
        dtype=str(leaf.value.dtype) if array else type(leaf.value).__name__,
        total=math.prod(shape) if shape is not None else 0,
        spec=rule.spec if rule else None,
        rule=rule.text if rule else "",
        prunes=_prunes(rule.spec, shape) if rule and shape is not None else 0,
        reason=reason,
    )


def _prunes(spec: Any, shape: tuple[int, ...]) -> int | None:
    if isinstance(spec, NM):
        return math.prod(shape) // spec.m * (spec.m - spec.n)
    if not isinstance(spec, Budgeted) or is_traced(spec.sparsity):
        return None
    if isinstance(spec, Unstructured) and spec.per == "global":
        return None
    budget = budget_of(spec, shape)
    return budget.groups * budget.size * int(budget.lost(spec.sparsity))
