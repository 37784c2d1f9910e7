"""A function as a program: what goes in, what comes out, and how to call it with flat arrays."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxprune._errors import Problem, PruningError, raise_problems
from jaxprune._tree import Leaf, arrays_in, is_array, leaves, with_arrays
from jaxprune.tracing import _jax_layouts
from jaxprune.tracing._readings import AnyJaxpr
from jaxprune.tracing._trace import jaxpr_of


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class Traced:
    """A function of a tree of parameters and other arguments, as a program.

    Attributes:
        jaxpr: The program: (leaves, inputs) to results, all flat.
        leaves: The leaves of the parameters that are arrays.
        inputs: Those of the other arguments, their paths begin with the argument's number.
        results: The leaves of the result; what is no array stands there as it is.
        constants: What stands among the arguments and is no array.
        out: A tree like the result.
    """

    jaxpr: AnyJaxpr
    leaves: tuple[Leaf, ...]
    inputs: tuple[Leaf, ...]
    results: tuple[Leaf, ...]
    constants: tuple[Any, ...]
    out: Any

    def packed(self, arrays: Sequence[Any]) -> Any:
        """The result as the function returns it, of the program's results."""
        return with_arrays(self.out, arrays)


def flat_constants(params: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What stands among the arguments as it is, which the program has in it.

    Where a leaf of the parameters is gone as a whole there is None.
    """
    kept = [leaf.value for leaf in leaves(params) if leaf.value is not None]
    values = [*kept, *(leaf.value for leaf in leaves(inputs))]
    return tuple(value for value in values if not is_array(value))


def traced(f: Callable[..., Any], params: Any, inputs: tuple[Any, ...]) -> Traced:
    """Traces a function; nothing is computed.

    Raises:
        PruningError: There is nothing to cut, the function cannot be traced, it has effects, or a
            size is symbolic.
    """
    raise_problems(map(_symbolic, leaves((params, inputs))))
    params_leaves = tuple(leaf for leaf in leaves(params) if is_array(leaf.value))
    out: list[Any] = []

    def flat(*arguments: Any) -> list[Any]:
        out[:] = [f(*arguments)]
        return arrays_in(out[0])

    jaxpr = jaxpr_of(flat, params, inputs)
    effects = _jax_layouts.effects(jaxpr)
    if effects:
        raise PruningError(
            f"f has side effects, which a smaller function would repeat: {', '.join(effects)}. "
            "Leave them out of the function that you pass."
        )
    inside = tuple(leaf for leaf in leaves(inputs) if is_array(leaf.value))
    # The result's leaves were tracers, whose time is over: what they were is all that is kept.
    result = jax.tree.map(_described, out[0])
    return Traced(
        jaxpr, params_leaves, inside, tuple(leaves(result)), flat_constants(params, inputs), result
    )


def _symbolic(leaf: Leaf) -> Problem | None:
    if not is_array(leaf.value) or all(isinstance(size, int) for size in leaf.value.shape):
        return None
    return Problem(
        PruningError,
        f"an argument has the symbolic shape {tuple(leaf.value.shape)}, and what is cut needs "
        "sizes that are known: to export batches of any size, export one example under vmap, "
        "jax.vmap(lambda x: f(params, x[None])[0])(batch).",
    )


def _described(value: Any) -> Any:
    return jax.ShapeDtypeStruct(value.shape, value.dtype) if is_array(value) else value
