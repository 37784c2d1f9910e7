"""Reads which units of a model must be cut together."""

from collections.abc import Callable
from typing import Any

import jax

from jaxprune._tree import is_array, leaves, rebuild
from jaxprune.shrinking._dependencies import Dependencies
from jaxprune.shrinking._model import Keep, Model, read_model


def dependencies(f: Callable[..., Any], params: Any, *inputs: Any, keep: Keep = ()) -> Dependencies:
    """Reads which units of a model must be cut together.

    Nothing is computed: `f` is traced as `jax.make_jaxpr` does, and the program is read. What an
    operation couples is known for the primitives of JAX; one that is not known keeps all that it
    touches from being cut, and the table names it, with the line of the model.

    Args:
        f: The function, called as `f(params, *inputs)`: the forward pass of a model.
        params: Its parameters and whatever else is to be cut with them, such as batch statistics or
            a cache: any tree of arrays or of `jax.ShapeDtypeStruct`s.
        *inputs: Its other arguments, likewise. Their axes stay as they are, and those of the
            result, but for a state that is written back.
        keep: Patterns of paths of leaves that stay as they are, on all of their axes; or a mapping
            from patterns to the axis, or the axes, that stay.

    Returns:
        The groups, and what cuts them.

    Raises:
        PruningError: `params` holds no array, `f` cannot be traced or has side effects, or a
            pattern matches no leaf.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxprune as jp
        >>> def model(params, x):
        ...     return jax.nn.relu(x @ params["up"]) @ params["down"]
        >>> params = {"up": jnp.arange(12.0).reshape(3, 4), "down": jnp.ones((4, 2))}
        >>> x = jnp.ones((5, 3))
        >>> deps = jp.dependencies(model, params, x)
        >>> [(each.name, each.units, each.members) for each in deps.groups if not each.refused]
        [('up', 4, (('down', 0), ('up', 1)))]
        >>> cut = deps.choose(params, 0.5)
        >>> small = deps.shrink(params, cut)
        >>> small["up"].shape, small["down"].shape
        ((3, 2), (2, 2))
        >>> deps.function(cut)(small, x).shape
        (5, 2)
    """
    whole = _described(params)

    def reread(inputs: tuple[Any, ...]) -> Model:
        return read_model(f, whole, inputs, keep)

    return Dependencies(reread(inputs), reread)


def _described(tree: Any) -> Any:
    """A tree of descriptions of its arrays: to read a program takes no more."""
    return rebuild(
        tree,
        [
            jax.ShapeDtypeStruct(leaf.value.shape, leaf.value.dtype)
            if is_array(leaf.value)
            else leaf.value
            for leaf in leaves(tree)
        ],
    )
