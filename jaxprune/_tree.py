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
            f"missing {some(missing)}, unexpected {some(extra)}. "
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
