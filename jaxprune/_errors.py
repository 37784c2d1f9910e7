"""What can go wrong, in words."""

from collections.abc import Iterable
from typing import NamedTuple


class PruningError(ValueError):
    """The root of every error jaxprune raises on purpose."""


class InvalidSparsity(PruningError):
    """A sparsity that is not a number in [0, 1)."""


class EmptyTensor(PruningError):
    """A leaf in scope that holds no weights."""


class NotTwoDimensional(PruningError):
    """Rows or columns asked of a leaf that is not a matrix."""


class BelowMinNonzero(PruningError):
    """A `min_nonzero` that the leaf, or the group of weights, cannot hold."""


class InvalidPattern(PruningError):
    """A pattern that makes no sense, or that a leaf's shape cannot hold."""


class NoMatch(PruningError):
    """A rule, a path pattern or a whole call that reaches no leaf."""


class StructureMismatch(PruningError):
    """Two trees that should have the same leaves and shapes, and do not."""


# Tracebacks name them as users import them.
for _kind in (PruningError, *PruningError.__subclasses__()):
    _kind.__module__ = "jaxprune"


class Problem(NamedTuple):
    """One thing wrong with one leaf: the kind of error, and the words for it."""

    kind: type[PruningError]
    message: str


def raise_problems(problems: Iterable[Problem | None]) -> None:
    """Raise every problem found as one error, so that a user mends all leaves at once.

    The error's type is that of the first problem; the others are named in its message.
    """
    faults = [problem for problem in problems if problem is not None]
    if not faults:
        return
    kind, first = faults[0]
    if len(faults) == 1:
        raise kind(first)
    lines = [f"{p.kind.__name__}: {p.message}" if p.kind is not kind else p.message for p in faults]
    raise kind(f"{len(faults)} problems:\n  " + "\n  ".join(lines))
