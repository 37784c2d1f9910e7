"""Runs a model over batches, and gathers what each of its weights is multiplied with."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxprune._errors import NoMatch, Problem, PruningError, StructureMismatch, raise_problems
from jaxprune._tree import Leaf, leaves, node
from jaxprune._where import Where, dense_reasons
from jaxprune.calibration import _statistics
from jaxprune.tracing._activations import run_measured
from jaxprune.tracing._matrices import spread
from jaxprune.tracing._trace import Program, arrays_of, read
from jaxprune.tracing._walk import Met

Gather = Literal["squares", "gram"]


@node("sums")
@dataclasses.dataclass(frozen=True, eq=False)
class Stats:
    """Sums over activations, for each leaf that a product or a convolution reads.

    Those of two runs are added by `+`: a tree of arrays, it can be saved and loaded as one.

    Attributes:
        sums: For each leaf by its path: of "squares", sum_p x_p^2, in a shape that broadcasts
            against the leaf, 1 along its outputs; of "gram", sum_p x_p x_p^T,
            [*turns, batch, in, in], inputs in the order of the array that the product reads.
        gather: "squares" or "gram".
    """

    sums: dict[str, jax.Array]
    gather: Gather

    def __add__(self, other: "Stats") -> "Stats":
        """The sums over both runs' batches.

        Raises:
            StructureMismatch: They are not of the same leaves, or not of the same kind.
        """
        mine, theirs = (
            {path: x.shape for path, x in stats.sums.items()} for stats in (self, other)
        )
        if mine != theirs or self.gather != other.gather:
            raise StructureMismatch(
                f"stats of {self.gather} of {len(mine)} leaves and of {other.gather} of "
                f"{len(theirs)} do not add up: gather both of the same model, with one where=."
            )
        return Stats({p: x + other.sums[p] for p, x in self.sums.items()}, self.gather)


def calibrate(
    f: Callable[..., Any],
    params: Any,
    batches: Iterable[tuple[Any, ...]],
    *,
    gather: Gather = "squares",
    where: Where | None = None,
) -> Stats:
    """Runs a model over batches, and gathers what each of its weights is multiplied with.

    One program is compiled for all batches of one shape. The model's results are thrown away.

    Args:
        f: The function, called as `f(params, *batch)`.
        params: Its parameters.
        batches: Tuples of inputs.
        gather: "squares", the sum of squares of each input, or "gram", the sum of the products of
            each pair of inputs.
        where: Which leaves, a predicate or path patterns; all that products and convolutions read,
            if not given.

    Returns:
        The sums, for each leaf.

    Raises:
        NoMatch: There is no batch, or no leaf to gather for.
        PruningError: A leaf is read in several different ways, or an activation is not finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> def model(params, x):
        ...     return x @ params["kernel"]
        >>> batches = [(jnp.ones((2, 3)),), (jnp.ones((1, 3)),)]
        >>> stats = calibrate(model, {"kernel": jnp.ones((3, 4))}, batches)
        >>> stats.sums["kernel"]
        Array([[3.],
               [3.],
               [3.]], dtype=float32)
    """
    if gather not in ("squares", "gram"):
        raise PruningError(f'gather={gather!r} is neither "squares" nor "gram".')
    compiled: dict[Any, Callable[[list[Any]], dict[str, jax.Array]]] = {}
    total: Stats | None = None
    for batch in batches:
        if not isinstance(batch, tuple):
            raise PruningError(
                f"a batch is a tuple of inputs, got {type(batch).__name__}: write [(x,), ...]."
            )
        arrays = arrays_of(params, batch)
        key = tuple((jnp.shape(x), jnp.result_type(x)) for x in arrays)
        if key not in compiled:
            compiled[key] = _gathering(read(f, params, *batch), params, gather, where)
        found = Stats(compiled[key](arrays), gather)
        total = found if total is None else total + found
    if total is None:
        raise NoMatch("there is no batch to calibrate with: pass [(inputs, ...), ...].")
    raise_problems(
        Problem(
            PruningError,
            f"an activation that meets {Leaf(path, None).name} is not finite: look for NaN and "
            "infinity in the batches and in params, or leave the leaf out with where=.",
        )
        for path, one in total.sums.items()
        if not bool(jnp.isfinite(one).all())
    )
    return total


def _gathering(
    program: Program, params: Any, gather: Gather, where: Where | None
) -> Callable[[list[Any]], dict[str, jax.Array]]:
    """The compiled function of all arrays that gives one batch's sums by path."""
    chosen = _chosen(program, params, where)
    measure = _statistics.squares if gather == "squares" else _statistics.gram

    def gathered(arrays: list[Any]) -> dict[str, jax.Array]:
        _, found = run_measured(program.jaxpr, arrays, chosen, measure)
        sums: dict[str, jax.Array] = {}
        for met, one in zip(chosen, found, strict=True):
            leaf = program.leaves[met.part.leaf]
            laid = _over(met, one, leaf.value) if gather == "squares" else one
            sums[leaf.path] = sums[leaf.path] + laid if leaf.path in sums else laid
        return sums

    return jax.jit(gathered)


def _chosen(program: Program, params: Any, where: Where | None) -> list[Met]:
    """Where to measure: the contractions of the leaves in scope, each read in one way only."""
    reasons = dense_reasons(leaves(params), (lambda *_: True) if where is None else where)
    scope = {leaf.path for leaf, why in zip(leaves(params), reasons, strict=True) if not why}
    ways: dict[int, set[Any]] = {}
    chosen = []
    for met in program.met:
        roles = met.roles
        if roles is None or met.use not in ("product", "convolution") or not met.with_data:
            continue
        if program.leaves[met.part.leaf].path in scope:
            way = met.part.moves, roles.batch, roles.output, roles.input
            ways.setdefault(met.part.leaf, set()).add(way)
            chosen.append(met)
    raise_problems(
        Problem(
            PruningError,
            f"{program.leaves[leaf].name} is read in {len(found)} different ways, and what it is "
            "multiplied with has no one meaning: leave it out with where=.",
        )
        for leaf, found in ways.items()
        if len(found) > 1
    )
    if not chosen:
        raise NoMatch(
            "no product or convolution with the inputs reads a leaf in scope: print(jp.trace(f, "
            "params, *inputs)) shows what each leaf is used for."
        )
    return chosen


def _over(met: Met, found: jax.Array, leaf: Any) -> jax.Array:
    """Sums of squares in the layout of the leaf, 1 along the axes of outputs that share them."""
    laid, dims, roles = spread(met, found, leaf), met.part.dims, met.roles
    assert dims is not None
    assert roles is not None
    of_output = {axis for k in roles.output for axis in dims[k].axes}
    others = {a for k in (*roles.input, *roles.batch) for a in dims[k].axes} | {*met.part.batch}
    shared = tuple(sorted(of_output - others)) if roles.groups == 1 else ()
    # Where only a part of the outputs is read, the rest is zero.
    return jnp.max(laid, axis=shared, keepdims=True)
