"""Reads from a function's program what it does with each of its parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxprune._errors import PruningError
from jaxprune._text import shown
from jaxprune._tree import Leaf, arrays_in, is_array, leaves, with_arrays
from jaxprune.tracing import _jax
from jaxprune.tracing._readings import AnyJaxpr
from jaxprune.tracing._uses import Uses, rows_of, use_of
from jaxprune.tracing._walk import Met, walk


def trace(f: Callable[..., Any], params: Any, *inputs: Any) -> Uses:
    """Reads where, how and along which axes a function uses each of its parameters.

    Nothing is computed: `f` is traced as `jax.make_jaxpr` does, and the program is read. Only the
    primitives that are known here are read; a leaf that goes into any other is "opaque", and the
    table names that primitive and the line of the model.

    Args:
        f: The function, called as `f(params, *inputs)`: the forward pass of a model, or its loss.
        params: Its parameters: any tree of arrays or of `jax.ShapeDtypeStruct`s.
        *inputs: Its other arguments, likewise. What is neither stays as it is, as in a closure.

    Returns:
        A row for each leaf and use.

    Raises:
        PruningError: `params` holds no array.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxprune as jp
        >>> def model(params, tokens):
        ...     x = params["embed"][tokens]
        ...     return jnp.einsum("td,hdk->thk", x, params["heads"]) + params["bias"]
        >>> of = jax.ShapeDtypeStruct
        >>> params = {
        ...     "bias": of((2, 4), jnp.float32),
        ...     "embed": of((100, 8), jnp.float32),
        ...     "heads": of((2, 8, 4), jnp.float32),
        ... }
        >>> uses = jp.trace(model, params, of((5,), jnp.int32))
        >>> uses.axes("heads", "input"), uses.axes("heads", "output")
        ((1,), (0, 2))
        >>> [row.use for row in uses.rows]
        ['elementwise', 'lookup', 'product']
    """
    return uses_of(read(f, params, *inputs))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A function as a program, and what its leaves meet there.

    Attributes:
        jaxpr: The program: (leaves, inputs) to results, all flat.
        leaves: The leaves of the parameters that are arrays.
        met: What they meet.
    """

    jaxpr: AnyJaxpr
    leaves: tuple[Leaf, ...]
    met: tuple[Met, ...]


def uses_of(program: Program) -> Uses:
    """What a program says of its leaves, as a table."""
    uses = [
        use_of(program.leaves[met.part.leaf], met, _jax.source(met.place.equations))
        for met in program.met
    ]
    return Uses(program.leaves, rows_of(program.leaves, uses))


def read(f: Callable[..., Any], params: Any, *inputs: Any) -> Program:
    """Traces a function, as `trace` does, and reads the program."""
    array_leaves = tuple(leaf for leaf in leaves(params) if is_array(leaf.value))
    return program_of(jaxpr_of(f, params, inputs), array_leaves)


def jaxpr_of(f: Callable[..., Any], params: Any, inputs: tuple[Any, ...]) -> AnyJaxpr:
    """The program of a function: of the arrays of its arguments.

    Raises:
        PruningError: No parameter is an array, or the function cannot be traced.
    """
    if not arrays_in(params):
        raise PruningError(
            f"expected params that hold arrays, got {shown(params)}: pass what f(params, *inputs) "
            "takes."
        )

    def flat(values: list[Any]) -> Any:
        of_params, of_inputs = with_arrays((params, inputs), values)
        return f(of_params, *of_inputs)

    try:
        return jax.make_jaxpr(flat)(arrays_in((params, inputs)))
    except PruningError:
        raise
    except Exception as error:  # whatever a model may say of arguments that are not its own
        raise PruningError(
            f"f(params, *inputs) cannot be traced: {type(error).__name__}: {error}\n"
            "It must run under jax.jit with these arguments; pass what it treats as Python values "
            "by a closure, as in lambda params, x: f(params, x, train=False)."
        ) from error


def program_of(jaxpr: AnyJaxpr, array_leaves: tuple[Leaf, ...]) -> Program:
    """A jaxpr whose first arguments are leaves, and what these meet in it."""
    met = walk(jaxpr, [tuple(leaf.value.shape) for leaf in array_leaves])
    return Program(jaxpr, array_leaves, tuple(_with_data(met)))


def _with_data(meetings: list[Met]) -> list[Met]:
    """What is left where a leaf meets data, and leaves without data only for want of anything else.

    A kernel that is multiplied with other parameters as well, as for its spectral norm, is a kernel
    for what it does with the data; a product of learned queries with a kernel is all there is.
    """
    with_data = {met.part.leaf for met in meetings if met.with_data and met.roles is not None}
    kept = [
        met for met in meetings if met.with_data or (met.part.leaf not in with_data and met.roles)
    ]
    read = {met.part.leaf for met in kept}
    returned = {met.part.leaf: met for met in reversed(meetings) if not met.place.equations}
    return kept + [met for leaf, met in returned.items() if leaf not in read]
