"""Leaves, paths, boxes and holes: the only file that walks trees.

A tree is read as a flat list of `Leaf(path, value)`. Three things make that list the same for every
framework: a `None` is a leaf (a hole, where a mask leaves a weight dense), a box (`nn.Partitioned`,
`nnx.Param`, ...) lends its own path to the array inside it, and two trees correspond when their
paths do, so a mask made of a `FrozenDict` fits the plain dict restored from a checkpoint.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxprune._errors import Problem, PruningError, StructureMismatch, raise_problems
from jaxprune._text import shown

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

    tree_leaves = []
    for outer, node in jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: stop(node) or _is_box(node)
    )[0]:
        if _is_box(node):
            inner = jax.tree_util.tree_flatten_with_path(node, is_leaf=stop)[0]
            tree_leaves += [Leaf(_path((*outer, *keys[1:])), value) for keys, value in inner]
        else:
            tree_leaves.append(Leaf(_path(outer), node))
    return tree_leaves


def rebuild(
    tree: Any, values: Iterable[Any], is_leaf: Callable[[Any], bool] = lambda node: False
) -> Any:
    """A tree like `tree` that holds `values`, in the order in which `leaves` gave them."""
    return jax.tree.unflatten(
        jax.tree.structure(tree, is_leaf=lambda node: node is None or is_leaf(node)), values
    )


def arrays_in(tree: Any) -> list[Any]:
    """The leaves of `tree` that are arrays, or descriptions of them, in order."""
    return [leaf.value for leaf in leaves(tree) if is_array(leaf.value)]


def with_arrays(tree: Any, arrays: Iterable[Any]) -> Any:
    """A tree like `tree` with other arrays, in the order in which `arrays_in` gives them."""
    rest = iter(arrays)
    values = [next(rest) if is_array(leaf.value) else leaf.value for leaf in leaves(tree)]
    return rebuild(tree, values)


def aligned(tree: Any, other: Any, what: str) -> Iterator[tuple[Leaf, Any]]:
    """Pairs the leaves of `tree` with those of `other`, which `what` names in the error.

    A hole in `other`, None or an empty named tuple such as `optax.MaskedNode`, stands for every
    leaf of `tree` below it. Where `tree` has an empty named tuple, what `other` has below is not
    used.

    Raises:
        StructureMismatch: the two have different paths.
    """
    ours, theirs = leaves(tree), leaves(other)
    if [leaf.path for leaf in ours] == [leaf.path for leaf in theirs]:
        return ((leaf, value) for leaf, (_, value) in zip(ours, theirs, strict=True))
    left_out = {leaf.path for leaf in leaves(tree, is_leaf=_is_empty) if _is_empty(leaf.value)}
    by_path = {
        leaf.path: leaf.value
        for leaf in leaves(other, is_leaf=_is_empty)
        if left_out.isdisjoint(_with_parents(leaf.path))
    }
    holes = {path for path, value in by_path.items() if is_hole(value)}
    covering = {leaf.path: [p for p in _with_parents(leaf.path) if p in holes] for leaf in ours}
    missing = [path for path, above in covering.items() if path not in by_path and not above]
    used = {path for above in covering.values() for path in above} | covering.keys()
    extra = [path for path in by_path if path not in used and not _is_empty(by_path[path])]
    if missing or extra:
        raise StructureMismatch(
            f"{what} does not have the leaves of the tree it should fit: "
            f"missing {some(sorted(missing))}, unexpected {some(sorted(extra))}. "
            f"Make {what} from the same tree, with None where a leaf is left alone."
        )
    return ((leaf, None if covering[leaf.path] else by_path[leaf.path]) for leaf in ours)


def is_hole(node: Any) -> bool:
    """Whether a node of a tree stands for leaves that are left alone."""
    return node is None or _is_empty(node)


def combined(first: Any, second: Any, what: str) -> Any:
    """One tree of two, each of which has holes where the other has leaves.

    Raises:
        StructureMismatch: Both have a leaf at the same path, or their nodes differ.
    """
    return _combined(first, second, what, ())


def _combined(first: Any, second: Any, what: str, keys: tuple[Any, ...]) -> Any:
    if is_hole(second):
        return None if second is None and is_hole(first) else first
    if is_hole(first):
        return second

    def is_child(of: Any) -> Callable[[Any], bool]:
        return lambda node: node is not of

    structure: Any
    other_structure: Any
    ours, structure = jax.tree_util.tree_flatten_with_path(first, is_leaf=is_child(first))
    theirs, other_structure = jax.tree_util.tree_flatten_with_path(second, is_leaf=is_child(second))
    if structure != other_structure or jax.tree_util.treedef_is_leaf(structure):
        raise StructureMismatch(
            f"there are several {what} for {Leaf(_path(keys), None).name}: pass the part of the "
            "tree that holds one of them."
        )
    return jax.tree.unflatten(
        structure,
        [
            _combined(ours_, theirs_, what, (*keys, *key))
            for (key, ours_), (_, theirs_) in zip(ours, theirs, strict=True)
        ],
    )


def _is_empty(node: Any) -> bool:
    return isinstance(node, tuple) and hasattr(node, "_fields") and not node


def _with_parents(path: str) -> list[str]:
    """A path and those above it, but for the root: a hole there is a missing tree."""
    parts = path.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts) + 1) if parts[0] or i > 1]


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
    tree_leaves = leaves(tree)

    def problem(leaf: Leaf) -> Problem | None:
        if is_traced(leaf.value):
            what = f"is a tracer, and {function} needs its values: call {function} outside jit, "
            return Problem(PruningError, f"{leaf.name} {what}vmap and scan.")
        return _undescribed(leaf)

    raise_problems(map(problem, tree_leaves))
    return tree_leaves


def _is_box(node: Any) -> bool:
    # Linen's and NNX's boxes share no class, but both must follow `scan` and `vmap` when these add
    # or remove an axis, and nothing else in a tree of parameters can.
    kind = type(node)
    return hasattr(kind, "add_axis") and hasattr(kind, "remove_axis")


def _path(keys: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def some(paths: Sequence[str]) -> str:
    """The first of `paths`, and how many more there are, for a message."""
    shown_paths = ", ".join(Leaf(path, None).name for path in paths[:3]) or "none"
    return shown_paths + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
