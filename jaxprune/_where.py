"""Which leaves may be pruned: by name, by patterns of paths, by a predicate."""

import difflib
import fnmatch
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from jaxprune._errors import NoMatch, Problem, PruningError, raise_problems
from jaxprune._names import why_no_weight
from jaxprune._text import shown
from jaxprune._tree import Leaf, is_array, is_prunable, some
from jaxprune.tracing._uses import Uses

Pattern: TypeAlias = str | re.Pattern[str]
Where: TypeAlias = Callable[[str, Any], bool] | Pattern | Sequence[Pattern]


def any_leaf(path: str, leaf: Any) -> bool:
    """The `where` that takes every floating leaf, biases and norm scales included.

    Args:
        path: The leaf's slash-joined path.
        leaf: The leaf.

    Returns:
        True.
    """
    del path, leaf
    return True


def is_weight(path: str, leaf: Any) -> bool:
    """The default `where`: the matrices and kernels that pruning is about.

    That is every floating leaf of rank 2 or more that its name and its module's do not tell to be
    something else: a bias, a norm's scale or statistic, an embedding or other learned vectors, a
    code of positions, a state space's decay, a low-rank adapter or a router. So a bias that
    `nn.scan` has stacked to rank 2 stays dense. A leaf called `kernel` is a weight, in a patch
    embedding too, but not in a router or an adapter.

    Args:
        path: The leaf's slash-joined path.
        leaf: The leaf.

    Returns:
        Whether the leaf is a weight in this sense.

    Examples:
        >>> import jax.numpy as jnp
        >>> is_weight("decoder/dense/kernel", jnp.ones((4, 8)))
        True
        >>> is_weight("decoder/dense/bias", jnp.ones((4, 8)))
        False
    """
    return not why_no_weight(path, leaf)


@dataclass(frozen=True, slots=True, init=False)
class Weights:
    """The default `where` with changes: what `is_weight` takes, and `also` these, `but` not those.

    Attributes:
        also: A path pattern or patterns, as for `where`: every floating leaf that one of them
            covers is taken too, whatever its rank.
        but: A path pattern or patterns: what one of them covers is left dense, even if `also` takes
            it.

    Raises:
        PruningError: `also` or `but` holds something else than patterns.
        NoMatch: Raised by the function that it is passed to: one of the patterns covers no leaf, or
            one in `also` covers none that holds floats.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> params = {name: {"kernel": jnp.ones((4, 4))} for name in ("stem", "body", "router")}
        >>> print(jp.plan(params, jp.NM(2, 4), where=jp.Weights(also="router", but="stem")))
        leaf           shape    dtype  weights  prunes  how
        -----------------------------------------------------------------------------
        body/kernel      4x4  float32       16       8  NM(n=2, m=4, axis=-1)
        router/kernel    4x4  float32       16       8  NM(n=2, m=4, axis=-1)
        stem/kernel      4x4  float32       16       0  dense: left out by but='stem'
    """

    also: tuple[Pattern, ...]
    but: tuple[Pattern, ...]

    def __init__(
        self, also: Pattern | Sequence[Pattern] = (), but: Pattern | Sequence[Pattern] = ()
    ) -> None:
        for field, value in (("also", also), ("but", but)):
            patterns = _patterns(value)
            if patterns is None:
                raise PruningError(
                    f"{field}={shown(value)} is neither a path pattern nor several: write "
                    f'{field}="encoder/*" or {field}=["stem", "*/gate"].'
                )
            object.__setattr__(self, field, patterns)

    def __call__(self, path: str, leaf: Any) -> bool:
        """Whether the leaf is taken, as for any predicate."""
        return is_prunable(leaf) and not self._why_dense(path, leaf)

    def _why_dense(self, path: str, leaf: Any) -> str:
        for pattern in self.but:
            if covers(pattern, path):
                return f"left out by but={_text(pattern)!r}"
        taken = any(covers(pattern, path) for pattern in self.also)
        return "" if taken else why_no_weight(path, leaf)

    def _problems(self, leaves: Sequence[Leaf]) -> Iterable[Problem | None]:
        yield from _unmatched((*self.also, *self.but), leaves)
        for pattern in self.also:
            covered = [leaf for leaf in leaves if covers(pattern, leaf.path)]
            if covered and not any(is_prunable(leaf.value) for leaf in covered):
                tally = Counter(_unprunable(leaf.value) for leaf in covered)
                why = ", ".join(f"{reason} ({count})" for reason, count in tally.most_common(6))
                yield Problem(
                    NoMatch,
                    f"also={_text(pattern)!r} covers no leaf that can be pruned: {why}. Leave it "
                    "out, or name leaves that hold floats.",
                )


def dense_reasons(leaves: list[Leaf], where: Where, uses: Uses | None = None) -> list[str]:
    """For each leaf why it is left dense, and "" where it is in scope.

    A bare array is in scope whatever `where` says: asking for it by name is all there is to ask.

    Args:
        leaves: The leaves of a tree.
        where: Which leaves may be pruned. With `uses`, `is_weight` stands for what products and
            convolutions read.
        uses: What the leaves are used for, if that was traced.

    Raises:
        NoMatch: a path pattern in `where` covers no leaf.
        PruningError: `where` is not a predicate, a pattern or patterns.
    """
    bare = len(leaves) == 1 and not leaves[0].path
    if bare:
        return [_unprunable(leaf.value) for leaf in leaves]
    if where is is_weight and uses is not None:
        chosen: Callable[[Leaf], str] = functools.partial(_why_unread, uses)
    else:
        chosen = _predicate(leaves, where)
    return [_unprunable(leaf.value) or chosen(leaf) for leaf in leaves]


def _why_unread(uses: Uses, leaf: Leaf) -> str:
    if uses.is_product(leaf.path):
        return ""
    return "used for " + ", ".join(dict.fromkeys(use.in_words for use in uses.of(leaf.path)))


def covers(pattern: Pattern, path: str) -> bool:
    """Whether `pattern` matches the whole of `path`, or of one of the subtrees that hold it."""
    parts = path.split("/")
    above = ("/".join(parts[:end]) for end in range(len(parts), 0, -1))
    if isinstance(pattern, str):
        return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for name in above)
    return any(pattern.fullmatch(name) for name in above)


def no_match(pattern: Pattern, paths: Sequence[str]) -> Problem:
    """The problem of a `pattern` that covers none of `paths`, with the likeliest remedy."""
    text = _text(pattern)
    near = difflib.get_close_matches(text, paths, n=3, cutoff=0.4)
    if isinstance(pattern, str) and re.search(r"\.\*|\\|\||\^|\$", text):
        remedy = "Text is read as a shell pattern; pass re.compile(...) for a regular expression."
    elif near:
        remedy = f"Did you mean {some(near)}?"
    else:
        remedy = f"The paths are {some(paths)}."
    return Problem(NoMatch, f"the pattern {text!r} matches no leaf and no subtree. {remedy}")


def leave_out(path: str) -> str:
    """The remedy for a leaf that a spec cannot prune, as code."""
    return f'leave it dense by a rule, {{"{path}": None, "*": ...}}'


def _predicate(leaves: Sequence[Leaf], where: Where) -> Callable[[Leaf], str]:
    if where is is_weight:
        where = Weights()
    if isinstance(where, Weights):
        default = where
        raise_problems(default._problems(leaves))
        return lambda leaf: default._why_dense(*leaf)
    if callable(where):
        predicate = where
        return lambda leaf: "" if predicate(*leaf) else "left out by where="
    patterns = _patterns(where)
    if not patterns:
        raise PruningError(
            f"where={shown(where)} is neither a predicate on (path, leaf) nor path patterns: write "
            'where="encoder/*", where=["*/query/kernel", "*/key/kernel"], where=jp.any_leaf or, to '
            'change the default, where=jp.Weights(also="*/shared", but="stem"). To leave leaves '
            'dense a rule will do: {"stem": None, "*": 0.5} in place of 0.5.'
        )
    raise_problems(_unmatched(patterns, leaves))

    def reason(leaf: Leaf) -> str:
        return "" if any(covers(p, leaf.path) for p in patterns) else "left out by where="

    return reason


def _patterns(value: Any) -> tuple[Pattern, ...] | None:
    """One pattern or several as a tuple; None if something else is among them."""
    several = (value,) if isinstance(value, str | re.Pattern) else value
    if not isinstance(several, Sequence):
        return None
    return tuple(several) if all(isinstance(p, str | re.Pattern) for p in several) else None


def _unmatched(patterns: Iterable[Pattern], leaves: Sequence[Leaf]) -> Iterable[Problem | None]:
    paths = [leaf.path for leaf in leaves]
    return (no_match(p, paths) for p in patterns if not any(covers(p, path) for path in paths))


def _text(pattern: Pattern) -> str:
    return pattern if isinstance(pattern, str) else pattern.pattern


def _unprunable(value: Any) -> str:
    """Why no `where` can take what stands there; "" if one can."""
    if not is_array(value):
        return "empty place" if value is None else "not an array"
    return "" if is_prunable(value) else f"dtype {value.dtype}"
