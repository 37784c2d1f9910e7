"""Which leaf is pruned by what: decided once, on the parameters, before any work is done.

Scores, masks, plans, training and files carry this one decision out.
"""

import dataclasses
import functools
import numbers
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxprune._errors import (
    InvalidPattern,
    NoMatch,
    Problem,
    PruningError,
    StructureMismatch,
    raise_problems,
)
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.sharding import placed
from jaxprune._specs.checks import Axis, check_sparsity
from jaxprune._specs.protocol import (
    Work,
    as_spec,
    fit,
    fit_together,
    is_spec,
    resolved,
    scope,
    select,
)
from jaxprune._text import shown
from jaxprune._tree import Leaf, is_array, leaves
from jaxprune._where import Pattern, Where, covers, dense_reasons, is_weight, no_match
from jaxprune.tracing._uses import Uses


class Entry(NamedTuple):
    """A spec as it was written, or None, and what became of it.

    Attributes:
        written_at: Its path pattern or its place; "" for a lone spec.
        spec: The spec; None leaves its leaves dense.
        covered: The indices of the leaves that the pattern or place covers.
        members: Those among them that this entry decides.
    """

    written_at: Pattern
    spec: Any
    covered: frozenset[int]
    members: list[int]

    @property
    def text(self) -> str:
        """Where the spec was written, as text."""
        return self.written_at if isinstance(self.written_at, str) else self.written_at.pattern


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """Which leaf of a tree is pruned by which spec.

    Attributes:
        leaves: The leaves of the tree.
        entries: The specs that prune something, as they were written.
        specs: By the index of each leaf that is pruned its spec, the axes of it integers.
        reasons: For each leaf why it is left dense; "" if it is pruned.
    """

    leaves: list[Leaf]
    entries: list[Entry]
    specs: dict[int, Any]
    reasons: list[str]

    @property
    def members(self) -> list[int]:
        """The indices of the leaves that are pruned, in order."""
        return sorted(self.specs)

    @property
    def chosen(self) -> list[Leaf]:
        """The leaves that are pruned, in order."""
        return [self.leaves[i] for i in self.members]

    def entry_of(self) -> dict[int, int]:
        """By the index of each leaf that is pruned the number of the entry that decides it."""
        return {i: number for number, entry in enumerate(self.entries) for i in entry.members}

    def masks(self, ranked: Sequence[Ranked], specs: Mapping[int, Any] | None = None) -> list[Any]:
        """The mask of each leaf, None where it is left dense.

        Args:
            ranked: How the weights of each pruned leaf rank, in the order of `members`.
            specs: Specs of the same kinds to use in place of `specs`.
        """
        masks: list[Any] = [None] * len(self.leaves)
        number = self.entry_of()
        by_class: dict[type, list[int]] = {}
        works = {}
        for i, leaf in zip(self.members, ranked, strict=True):
            spec = (specs or self.specs)[i]
            works[i] = Work(spec, leaf, number[i])
            by_class.setdefault(type(spec), []).append(i)
        for at in by_class.values():
            here = [works[i] for i in at]
            for work, i, mask in zip(here, at, select(here[0].spec, here), strict=True):
                # Those of units may be laid out in another way.
                masks[i] = placed(mask, work.leaf.values)
        return masks


def assign(
    tree_leaves: list[Leaf], spec: Any, where: Where, uses: Uses | None = None
) -> Assignment:
    """Settles which spec prunes which leaf, and refuses whatever cannot be done.

    Args:
        tree_leaves: The leaves of a tree.
        spec: A spec or a sparsity; a flat mapping from path patterns to specs, of which the first
            that covers a leaf prunes it; or a tree of specs that is a prefix of the leaves' tree.
            None in place of a spec leaves its leaves dense.
        where: Which leaves may be pruned at all.
        uses: What the leaves are used for: it answers axis words, and where= by default.

    Returns:
        The decision.

    Raises:
        PruningError: One of its kinds, naming every leaf and entry that is wrong.
    """
    entries = []
    for written_at, each, matches in _written(spec):
        if hasattr(each, "sparsity"):
            check_sparsity(each.sparsity)
        covered = frozenset(i for i, leaf in enumerate(tree_leaves) if matches(leaf.path))
        entries.append(Entry(written_at, each, covered, []))
    where = _in_scope(tree_leaves, entries, where)
    reasons = dense_reasons(tree_leaves, where, uses)
    in_scope = frozenset(i for i, reason in enumerate(reasons) if not reason)
    for i in sorted(in_scope):
        entry = next((entry for entry in entries if i in entry.covered), None)
        if entry is None:
            reasons[i] = "no rule names it"
        else:
            entry.members.append(i)
            reasons[i] = "" if entry.spec is not None else f"rule {entry.text!r} leaves it dense"
    raise_problems(_idle(entry, tree_leaves, reasons, in_scope) for entry in entries)
    pruning = [entry for entry in entries if entry.spec is not None]
    if not pruning:
        raise NoMatch(f"nothing is to be pruned: there is only None in {shown(spec)}.")
    specs, problems = {}, []
    for entry in pruning:
        for i in entry.members:
            specs[i], problem = _fitted(entry.spec, tree_leaves[i], uses)
            problems.append(problem)
    raise_problems(problems)
    raise_problems(
        fit_together(entry.spec, [tree_leaves[i] for i in entry.members]) for entry in pruning
    )
    return Assignment(tree_leaves, pruning, specs, reasons)


def _in_scope(tree_leaves: Sequence[Leaf], entries: Sequence[Entry], where: Where) -> Where:
    """The default `where`, but for leaves whose spec says itself which leaves it is for."""
    if where is not is_weight or all(scope(entry.spec) is None for entry in entries):
        return where
    decided: dict[str, Callable[[str, Any], bool]] = {}
    for i, leaf in enumerate(tree_leaves):
        entry = next((entry for entry in entries if i in entry.covered), None)
        decided[leaf.path] = (entry and scope(entry.spec)) or is_weight
    raise_problems(_elsewhere(entry, tree_leaves) for entry in entries)
    return lambda path, value: decided[path](path, value)


def _elsewhere(entry: Entry, tree_leaves: Sequence[Leaf]) -> Problem | None:
    """The problem of a spec that is for other leaves than those that it covers."""
    is_for, covered = scope(entry.spec), [tree_leaves[i] for i in sorted(entry.covered)]
    if is_for is None or not covered or any(is_for(*leaf) for leaf in covered):
        return None
    other = f", or the rule {entry.text!r} is to cover others" if entry.written_at else ""
    return Problem(
        StructureMismatch,
        f"{entry.spec!r} is for none of the leaves that it covers, such as {covered[0].name}: it "
        f"was made for another model{other}. Make it anew for this one.",
    )


def _fitted(spec: Any, leaf: Leaf, uses: Uses | None) -> tuple[Any, Problem | None]:
    """The spec with integer axes for this leaf, and what is wrong with it there."""

    def axis_of(word: Axis) -> Axis:
        if uses is None:
            return _flax_axis(leaf, word)
        axes = uses.axes(leaf.path, "input" if word == "input" else "output")
        return axes[0] if len(axes) == 1 else axes

    try:
        spec = resolved(spec, leaf, axis_of)
    except PruningError as error:
        return spec, Problem(type(error), str(error))
    return spec, fit(spec, leaf)


_FLAX = {"input": -2, "output": -1}


def _flax_axis(leaf: Leaf, word: Axis) -> int:
    """What an axis word means for a leaf, where that is certain.

    Flax's kernels of dense layers are `[in, out]`, those of convolutions in 2 and more dimensions
    `[..., in, out]`. One of rank 3 may be a 1-D convolution's, or attention's `[in, heads,
    features]`; and a `weight` may be `[out, in]`, as Equinox and PyTorch have it.
    """
    shape = tuple(leaf.value.shape)
    if not leaf.path and len(shape) == 2:
        return _FLAX[str(word)]
    if leaf.path.split("/")[-1] == "kernel" and len(shape) not in (0, 1, 3):
        return _FLAX[str(word)]
    raise InvalidPattern(
        f"{leaf.name} has shape {shape}, and which of its axes is the {word} cannot be told by its "
        "name and shape: pass uses=jp.trace(f, params, *inputs), which reads it from the model; or "
        "give the axis as an integer, with a rule for each layout if there are several."
    )


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
    entry: Entry, tree_leaves: list[Leaf], reasons: list[str], in_scope: frozenset[int]
) -> Problem | None:
    """The problem of a spec that changes nothing."""
    shadowed = entry.covered & in_scope
    if entry.members or (entry.spec is None and entry.covered and not shadowed):
        return None
    what = f"the rule {entry.text!r}" if entry.written_at else "the spec"
    if not entry.covered:
        if entry.written_at:
            return no_match(entry.written_at, [leaf.path for leaf in tree_leaves])
        return Problem(NoMatch, f"{what} prunes nothing: the tree has no leaves.")
    tally = Counter(reasons[i] or "taken by an earlier rule" for i in entry.covered)
    why = ", ".join(f"{reason} ({count})" for reason, count in tally.most_common(6))
    remedy = (
        "Write it before the rules that take them."
        if shadowed
        else "Choose others with where=, for example where=jp.any_leaf."
    )
    return Problem(NoMatch, f"{what} changes none of the leaves it covers: {why}. {remedy}")
