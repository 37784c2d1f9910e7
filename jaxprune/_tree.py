"""Leaves, paths, boxes, holes and where-rules: the only file that walks trees.

A tree is read as a flat list of `Leaf(path, value)`. Three things make that list the same for every
framework: a `None` is a leaf (a hole, where a mask leaves a weight dense), a box (`nn.Partitioned`,
`nnx.Param`, ...) lends its own path to the array inside it, and two trees correspond when their
paths do, so a mask made of a `FrozenDict` fits the plain dict restored from a checkpoint.
"""

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from jaxprune._errors import NoMatch, Problem, PruningError, StructureMismatch, raise_problems
from jaxprune._text import shown

Pattern: TypeAlias = str | re.Pattern[str]
Where: TypeAlias = Callable[[str, Any], bool] | Pattern | Sequence[Pattern]

PRUNABLE = ("float64", "float32", "bfloat16", "float16")

_Class = TypeVar("_Class", bound=type)


def node(*data: str) -> Callable[[_Class], _Class]:
    """Registers a dataclass as a pytree whose fields are static but for `data`.

    Unlike those of `jax.tree_util.register_dataclass`, the structures of two classes with the same
    fields differ, and by these `jit` looks its traces up.
    """

    def register(cls: _Class) -> _Class:
        static = [field.name for field in dataclasses.fields(cls) if field.name not in data]

        def flatten(of: Any) -> tuple[list[Any], tuple[Any, ...]]:
            return [getattr(of, name) for name in data], tuple(getattr(of, n) for n in static)

        def flatten_with_keys(of: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
            values, fixed = flatten(of)
            keys = map(jax.tree_util.GetAttrKey, data)
            return list(zip(keys, values, strict=True)), fixed

        def unflatten(fixed: tuple[Any, ...], values: Iterable[Any]) -> Any:
            return cls(
                **dict(zip(data, values, strict=True)), **dict(zip(static, fixed, strict=True))
            )

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
        return cls

    return register


class Leaf(NamedTuple):
    """One leaf of a tree: its slash-joined path, and what stands there."""

    path: str
    value: Any

    @property
    def name(self) -> str:
        """The path as messages and tables show it; a bare array has none."""
        return f"`{self.path}`" if self.path else "the array"


def leaves(tree: Any, is_leaf: Callable[[Any], bool] = lambda node: False) -> list[Leaf]:
    """The leaves of `tree` in its own order, holes included, paths free of box suffixes.

    Args:
        tree: Any tree.
        is_leaf: Nodes that are leaves whatever they hold.
    """

    def stop(node: Any) -> bool:
        return node is None or is_leaf(node)

    found = []
    for outer, node in jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: stop(node) or _is_box(node)
    )[0]:
        if _is_box(node):
            inner = jax.tree_util.tree_flatten_with_path(node, is_leaf=stop)[0]
            found += [Leaf(_path((*outer, *keys[1:])), value) for keys, value in inner]
        else:
            found.append(Leaf(_path(outer), node))
    return found


def rebuild(tree: Any, values: Iterable[Any]) -> Any:
    """A tree like `tree` that holds `values`, in the order in which `leaves` gave them."""
    return jax.tree.unflatten(jax.tree.structure(tree, is_leaf=lambda node: node is None), values)


def aligned(tree: Any, other: Any, what: str) -> Iterator[tuple[Leaf, Any]]:
    """Pairs the leaves of `tree` with those of `other`, which `what` names in the error.

    Raises:
        StructureMismatch: the two have different paths.
    """
    ours, theirs = leaves(tree), leaves(other)
    if [leaf.path for leaf in ours] != [leaf.path for leaf in theirs]:
        have, want = {leaf.path for leaf in theirs}, {leaf.path for leaf in ours}
        missing, extra = sorted(want - have), sorted(have - want)
        raise StructureMismatch(
            f"{what} does not have the leaves of the tree it should fit: "
            f"missing {_some(missing)}, unexpected {_some(extra)}. "
            f"Make {what} from the same tree, with None where a leaf is left alone."
        )
    return ((leaf, value) for leaf, (_, value) in zip(ours, theirs, strict=True))


def is_array(value: Any) -> bool:
    """Whether `value` has a shape and a dtype: an array, a tracer, or the description of one."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_prunable(value: Any) -> bool:
    """Whether `value` is an array of floats that pruning can rank."""
    return is_array(value) and str(value.dtype) in PRUNABLE


def as_array(value: Any) -> jax.Array:
    """`value` as a JAX array of the same dtype, tracers and sharded arrays untouched."""
    raise_problems([_undescribed(Leaf("", value))])
    return value if isinstance(value, jax.Array) else jnp.asarray(value)


def _undescribed(leaf: Leaf) -> Problem | None:
    if not isinstance(leaf.value, jax.ShapeDtypeStruct):
        return None
    return Problem(
        PruningError,
        f"expected arrays, got a description of one, {shown(leaf.value)}: jp.plan works on those.",
    )


def is_traced(value: Any) -> bool:
    """Whether `value` is known only once a compiled function runs."""
    return isinstance(value, jax.core.Tracer)


def concrete_leaves(tree: Any, function: str) -> list[Leaf]:
    """The leaves of `tree`, for a `function` that reads values and so cannot run under jit."""
    found = leaves(tree)

    def problem(leaf: Leaf) -> Problem | None:
        if is_traced(leaf.value):
            what = f"is a tracer, and {function} needs its values: call {function} outside jit, "
            return Problem(PruningError, f"{leaf.name} {what}vmap and scan.")
        return _undescribed(leaf)

    raise_problems(map(problem, found))
    return found


# --- which leaves -------------------------------------------------------------------------------


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

    That is every floating leaf of rank 2 or more that is not a bias, a norm's scale or statistic,
    or an embedding by its name, so a bias stacked to rank 2 by `nn.scan` stays dense. A leaf called
    `kernel` is always a weight, in a patch embedding too.

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
    return not _why_no_weight(path, leaf)


def dense_reasons(found: list[Leaf], where: Where) -> list[str]:
    """For each leaf why it is left dense, and "" where it is in scope.

    A bare array is in scope whatever `where` says: asking for it by name is all there is to ask.

    Raises:
        NoMatch: a path pattern in `where` covers no leaf.
        PruningError: `where` is not a predicate, a pattern or patterns.
    """
    chosen = _predicate(found, where)
    bare = len(found) == 1 and not found[0].path

    def reason(leaf: Leaf) -> str:
        if not is_array(leaf.value):
            return "empty place" if leaf.value is None else "not an array"
        if not is_prunable(leaf.value):
            return f"dtype {leaf.value.dtype}"
        return "" if bare else chosen(leaf)

    return [reason(leaf) for leaf in found]


def covers(pattern: Pattern, path: str) -> bool:
    """Whether `pattern` matches the whole of `path`, or of one of the subtrees that hold it."""
    parts = path.split("/")
    above = ("/".join(parts[:end]) for end in range(len(parts), 0, -1))
    if isinstance(pattern, str):
        return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for name in above)
    return any(pattern.fullmatch(name) for name in above)


def no_match(pattern: Pattern, paths: Sequence[str]) -> Problem:
    """The problem of a `pattern` that covers none of `paths`, with the likeliest remedy."""
    text = pattern if isinstance(pattern, str) else pattern.pattern
    near = difflib.get_close_matches(text, paths, n=3, cutoff=0.4)
    if isinstance(pattern, str) and re.search(r"\.\*|\\|\||\^|\$", text):
        remedy = "Text is read as a shell pattern; pass re.compile(...) for a regular expression."
    elif near:
        remedy = f"Did you mean {_some(near)}?"
    else:
        remedy = f"The paths are {_some(paths)}."
    return Problem(NoMatch, f"the pattern {text!r} matches no leaf and no subtree. {remedy}")


def _predicate(found: list[Leaf], where: Where) -> Callable[[Leaf], str]:
    if where is is_weight:
        return lambda leaf: _why_no_weight(*leaf)
    if isinstance(where, str | re.Pattern):
        where = [where]
    if callable(where):
        predicate = where
        return lambda leaf: "" if predicate(*leaf) else "left out by where="
    patterns = list(where) if isinstance(where, Sequence) else []
    if not patterns or not all(isinstance(pattern, str | re.Pattern) for pattern in patterns):
        raise PruningError(
            f"where={shown(where)} is neither a predicate on (path, leaf) nor path patterns: write "
            'where="encoder/*", where=["*/query/kernel", "*/key/kernel"] or where=jp.any_leaf.'
        )
    paths = [leaf.path for leaf in found]
    raise_problems(
        no_match(pattern, paths)
        for pattern in patterns
        if not any(covers(pattern, path) for path in paths)
    )

    def reason(leaf: Leaf) -> str:
        return "" if any(covers(p, leaf.path) for p in patterns) else "left out by where="

    return reason


# What a leaf is by its own name or, where that says nothing (`weight`), by that of its module.
_NO_WEIGHT = (
    ("bias", re.compile(r".*bias.*|beta"), re.compile("(?!)")),
    (
        "norm scale or statistic",
        re.compile(r".*scale.*|gamma|mean|var|.*norm"),
        re.compile(r".*norm.*|(ln|bn|gn)(_?\w*\d+\w*|_\w+)?"),
    ),
    (
        "embedding",
        re.compile(r".*embed.*|.*token.*|cls|wte|wpe|.*_emb"),
        re.compile(r".*embed.*|.*token.*|wte|wpe|.*_emb"),
    ),
)


def _why_no_weight(path: str, leaf: Any) -> str:
    if not is_prunable(leaf):
        return f"dtype {leaf.dtype}" if is_array(leaf) else "not an array"
    if len(leaf.shape) < 2:
        return f"rank {len(leaf.shape)}"
    if 0 in leaf.shape:
        return "holds no weights"
    module, name = ["", *path.lower().split("/")][-2:]
    kinds = [what for what, own, of in _NO_WEIGHT if own.fullmatch(name) or of.fullmatch(module)]
    return f"{kinds[0]} by name" if kinds and name != "kernel" else ""


def _is_box(node: Any) -> bool:
    # Linen's and NNX's boxes share no class, but both must follow `scan` and `vmap` when these add
    # or remove an axis, and nothing else in a tree of parameters can.
    kind = type(node)
    return hasattr(kind, "add_axis") and hasattr(kind, "remove_axis")


def _path(keys: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _some(paths: Sequence[str]) -> str:
    shown_paths = ", ".join(Leaf(path, None).name for path in paths[:3]) or "none"
    return shown_paths + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
