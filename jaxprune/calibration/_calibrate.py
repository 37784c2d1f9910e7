"""Runs a model over batches, and gathers what each of its weights is multiplied with."""

import warnings
from collections.abc import Callable, Hashable, Iterable, Sized
from typing import Any

import jax

from jaxprune._errors import NoMatch, Problem, PruningError, StructureMismatch, raise_problems
from jaxprune._progress import on_terminal
from jaxprune._tree import Leaf, arrays_in, is_array, leaves, some
from jaxprune._where import Where, dense_reasons, is_weight
from jaxprune.calibration._gathering import (
    MAX_BYTES,
    Gathering,
    chosen_pieces,
    compiled,
    gathering_of,
    refuse_infinite,
    refuse_large,
)
from jaxprune.calibration._pieces import Piece
from jaxprune.calibration._statistics import Gather, Sums, add, completed
from jaxprune.calibration._stats import Stats, stats_of
from jaxprune.tracing._trace import read
from jaxprune.tracing._uses import Uses


def calibrate(
    f: Callable[..., Any],
    params: Any,
    batches: Iterable[tuple[Any, ...]],
    *,
    gather: Gather = "squares",
    where: Where | None = None,
    uses: Uses | None = None,
    max_bytes: int = MAX_BYTES,
) -> Stats:
    """Runs a model over batches, and gathers what each of its weights is multiplied with.

    One program is compiled for all batches of one shape; a batch of another shape has one of its
    own, and counts as its positions do. The model's results are thrown away. Sums are float32
    products at the highest precision, whatever the model computes in. Leaves that read one
    activation, as queries, keys and values do, share one statistic.

    Params and batches may be spread over devices. On a terminal that has tqdm a bar shows the
    batches. A warning names matrices that met no data, as an expert to which nothing is routed.

    Args:
        f: The function, called as `f(params, *batch)`.
        params: Its parameters.
        batches: Tuples of inputs, from any iterable; each is read once.
        gather: "squares", the sum of squares of each input, which is what `Wanda` needs; or "gram",
            the sum of the products of each pair of inputs, in squares of 4 bytes for each pair.
        where: Which leaves, a predicate or path patterns; all that products and convolutions read
            with the inputs, if not given.
        uses: What `trace` read from the model: leaves that it calls products or convolutions are
            in scope, and it must say of them what this run finds.
        max_bytes: How much memory the Grams may take together.

    Returns:
        The sums, by leaf.

    Raises:
        NoMatch: There is no batch, or no leaf to gather for.
        PruningError: A leaf is read in several different ways, an activation is not finite, or the
            Grams would take more than `max_bytes`.
        StructureMismatch: `uses` is of another model.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxprune as jp
        >>> def model(params, x):
        ...     return x @ params["kernel"]
        >>> batches = [(jnp.ones((2, 3)),), (jnp.ones((1, 3)),)]
        >>> stats = jp.calibrate(model, {"kernel": jnp.ones((3, 4))}, batches)
        >>> stats.squares["kernel"]
        Array([[3.],
               [3.],
               [3.]], dtype=float32)
        >>> print(stats)
        leaf    shape  matrices  inputs  positions  gathered
        ----------------------------------------------------
        kernel    3x4         1       3          3  squares
    """
    if gather not in ("squares", "gram"):
        raise PruningError(f'gather={gather!r} is neither "squares" nor "gram".')
    gathering, total = gathered(
        f,
        params,
        batches,
        gather=gather,
        is_in_scope=scope(params, where, uses),
        uses=uses,
        max_bytes=max_bytes,
    )
    stats = stats_of(gathering, total, gather)
    warn_unreached(stats)
    return stats


def gathered(
    f: Callable[..., Any],
    params: Any,
    batches: Iterable[tuple[Any, ...]],
    *,
    gather: Gather,
    is_in_scope: Callable[[str], bool],
    uses: Uses | None,
    max_bytes: int,
) -> tuple[Gathering, list[Sums]]:
    """What `calibrate` does, with the sums as they are shared."""
    known: dict[Hashable, Callable[[list[Any]], list[Sums]]] = {}
    first: Gathering | None = None
    total: list[Sums] | None = None
    length = len(batches) if isinstance(batches, Sized) else None
    with on_terminal("calibrate", length, "batch") as bar:
        for batch in batches:
            check_batch(batch)
            kind = kind_of(params, batch)
            if kind not in known:
                program = read(f, params, *batch)
                gathering = gathering_of(program, chosen_pieces(program, is_in_scope))
                agree(uses, gathering.pieces)
                first = first or gathering
                refuse_other(first, gathering)
                if gather == "gram":
                    refuse_large(gathering, max_bytes)
                known[kind] = compiled(program, gathering, gather)
            batch_sums = known[kind](arrays_in((params, batch)))
            total = batch_sums if total is None else list(map(add, total, batch_sums))
            bar.update(1)
    if first is None or total is None:
        raise NoMatch("there is no batch to calibrate with: pass [(inputs, ...), ...].")
    sums = [completed(each) for each in total]
    refuse_infinite(first, sums)
    return first, sums


def scope(params: Any, where: Where | None, uses: Uses | None) -> Callable[[str], bool]:
    """Says of a path whether its leaf is asked for."""
    params_leaves = leaves(params)
    if uses is not None:
        traced = {leaf.path: tuple(leaf.value.shape) for leaf in uses.leaves}
        raise_problems(
            Problem(
                StructureMismatch,
                f"{leaf.name} of shape {tuple(leaf.value.shape)} is not in uses: pass "
                "uses=jp.trace(f, params, *inputs) of these params, or leave uses out.",
            )
            for leaf in params_leaves
            if is_array(leaf.value) and traced.get(leaf.path) != tuple(leaf.value.shape)
        )
    if where is None:
        where = is_weight if uses is not None else (lambda *_: True)
    reasons = dense_reasons(params_leaves, where, uses)
    paths = {leaf.path for leaf, why in zip(params_leaves, reasons, strict=True) if not why}
    return lambda path: path in paths


def agree(uses: Uses | None, pieces: Iterable[Piece]) -> None:
    """Refuses `uses` that say something else than this program.

    Raises:
        StructureMismatch: Naming the leaves.
    """
    if uses is None:
        return
    said = {
        path: {row.input_axes for row in uses.of(path) if row.is_contraction}
        for path in {piece.leaf.path for piece in pieces}
    }
    raise_problems(
        Problem(
            StructureMismatch,
            f"{piece.leaf.name} is summed over axes {piece.form.axes('input')} with this batch, "
            f"and uses says {sorted(said[piece.leaf.path])}: trace the same function.",
        )
        for piece in pieces
        if piece.form.axes("input") not in said[piece.leaf.path]
    )


def check_batch(batch: Any) -> None:
    """Refuses what is not a tuple of inputs."""
    if not isinstance(batch, tuple):
        raise PruningError(
            f"a batch is a tuple of inputs, got {type(batch).__name__}: write [(x,), ...]."
        )


def kind_of(params: Any, batch: tuple[Any, ...]) -> Hashable:
    """Batches of one kind share one program: arrays of the same types, and equal other values."""
    arguments = leaves((params, batch))
    return tuple((leaf.path, _type(leaf)) for leaf in arguments), jax.tree.structure(batch)


def _type(leaf: Leaf) -> Hashable:
    if is_array(leaf.value):
        return jax.typeof(leaf.value)
    return leaf.value if isinstance(leaf.value, Hashable) else id(leaf.value)


def warn_unreached(stats: Stats) -> None:
    """Warns of matrices that met no data."""
    silent = stats.unreached()
    if silent:
        paths = [
            path if not of > 1 else f"{path} ({count} of {of} matrices)"
            for path, (count, of) in silent.items()
        ]
        warnings.warn(
            f"no data has reached {some(paths)}: their inputs were all zero. More batches may "
            "reach them; until then nothing tells their weights apart but the weights themselves.",
            stacklevel=3,
        )


def refuse_other(first: Gathering, other: Gathering) -> None:
    if first.signature != other.signature:
        mine, theirs = ({piece.leaf.path for piece in each.pieces} for each in (first, other))
        raise StructureMismatch(
            "this batch makes the function another model than the first did: "
            f"{some(sorted(mine ^ theirs))} read what others do not, or not what they did. "
            "Calibrate with batches that run the same layers."
        )
