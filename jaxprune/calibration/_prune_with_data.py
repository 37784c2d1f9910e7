"""Prunes a model with data: from a function, its parameters and batches to pruned parameters."""

import itertools
import math
import numbers
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import jax

from jaxprune._assign import Assignment, assign
from jaxprune._errors import NoMatch, Problem, PruningError, raise_problems
from jaxprune._metrics import ranked_by
from jaxprune._progress import on_terminal
from jaxprune._prune import apply_mask
from jaxprune._specs.protocol import is_spec
from jaxprune._specs.unstructured import Unstructured
from jaxprune._tree import is_array, leaves, rebuild
from jaxprune._where import Where
from jaxprune.calibration._calibrate import check_batch, gathered, kind_of, scope, warn_unreached
from jaxprune.calibration._gathering import MAX_BYTES, Gathering, chosen_pieces
from jaxprune.calibration._in_order import Weights, prune_in_order, prune_jobs
from jaxprune.calibration._methods import (
    Job,
    Method,
    check_method,
    check_spec,
    gather_of,
    makes_metric,
    metric_of,
    per_output,
)
from jaxprune.calibration._refit import Refit
from jaxprune.calibration._sparsegpt import SparseGPT
from jaxprune.calibration._statistics import Sums
from jaxprune.calibration._stats import stats_of
from jaxprune.tracing._trace import Program, read, uses_of
from jaxprune.tracing._uses import Uses

Order: TypeAlias = Literal["sequential", "at_once"]

_Params = TypeVar("_Params")


def prune_with_data(
    f: Callable[..., Any],
    params: _Params,
    batches: Iterable[tuple[Any, ...]],
    spec: Any,
    *,
    method: Method = SparseGPT(),
    order: Order = "sequential",
    where: Where | None = None,
    uses: Uses | None = None,
    max_bytes: int = MAX_BYTES,
) -> tuple[_Params, Any]:
    """Prunes a model by what its weights are multiplied with, in one call.

    In sequence, each weight is pruned when its inputs are known, and what comes after sees what the
    pruned weight gives. The model is opened for that: stacked layers are taken apart, what lies
    between two levels of weights is compiled once for all layers alike, and each equation runs once
    for each batch. A loop that reads one kernel at every turn is run twice, before and after; a
    leaf that is read several times is pruned where it is read last.

    A budget is that of a leaf, as everywhere; in sequence, of each layer of a stack, so that
    stacked layers are pruned as separate ones are.

    Args:
        f: The function, called as `f(params, *batch)`: no module, hook or name is needed.
        params: Its parameters, any tree of arrays; they stay as they are.
        batches: Tuples of inputs. In sequence all of them are held in memory, with what the model
            has made of them so far.
        spec: A sparsity, a spec, or a mapping or tree of these, as for `prune`.
        method: `SparseGPT()`; `Refit()`, which makes a mask by a metric and solves for the weights
            that stay; or what makes a metric of stats, such as the class `Wanda`, by which weights
            are set to zero and nothing else changes. With the latter a bare sparsity means
            `Unstructured(sparsity, per="output")`.
        order: "sequential"; or "at_once": one pass over the batches with dense weights, in which
            no batch is kept.
        where: Which leaves; all that products and convolutions read with the inputs, if not given.
        uses: What `trace` read from the model, if it is there already.
        max_bytes: How much memory Grams may take: of one level, or at once of all.

    Returns:
        The pruned parameters, each leaf in its own dtype and sharding, and the mask.

    Raises:
        NoMatch: There is no batch, or no leaf to prune.
        PruningError: One of its kinds, naming what cannot be done before any work; or an activation
            that is not finite, or sums that cannot be solved with, when they are reached.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxprune as jp
        >>> def model(params, x):
        ...     return jax.nn.relu(x @ params["up"]) @ params["down"]
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> params = {
        ...     "down": jax.random.normal(keys[0], (16, 8)),
        ...     "up": jax.random.normal(keys[1], (8, 16)),
        ... }
        >>> batches = [(jax.random.normal(keys[2], (64, 8)),)]
        >>> spec = jp.NM(2, 4, axis="input")
        >>> pruned, mask = jp.prune_with_data(model, params, batches, spec)
        >>> int(mask["up"].sum()), int((pruned["down"] != 0).sum())
        (64, 64)
    """
    check_method(method)
    if order not in ("sequential", "at_once"):
        raise PruningError(f'order={order!r} is neither "sequential" nor "at_once".')
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        raise NoMatch("there is no batch to prune with: pass [(inputs, ...), ...].")
    check_batch(first)
    program = read(f, params, *first)
    uses = uses or uses_of(program)
    if makes_metric(method):
        spec = _numbers_per_output(spec)
    assignment = _assigned(params, program, spec, where, uses)
    specs = {assignment.leaves[i].path: spec for i, spec in assignment.specs.items()}
    pieces = chosen_pieces(program, lambda path: path in specs)
    raise_problems(
        check_spec(method, per_output(specs[piece.leaf.path], piece), piece, order)
        for piece in pieces
    )
    every = itertools.chain([first], rest)
    total = sum(math.prod(leaf.value.shape) for leaf in assignment.chosen)
    if order == "at_once":
        paths = {leaf.path for leaf in assignment.chosen}
        gathering, sums = gathered(
            f,
            params,
            every,
            gather=gather_of(method),
            is_in_scope=lambda path: path in paths,
            uses=uses,
            max_bytes=max_bytes,
        )
        return _at_once(params, assignment, method, gathering, sums)
    programs: dict[Hashable, Program] = {kind_of(params, first): program}
    kept = []
    for batch in every:
        check_batch(batch)
        kept.append(batch)
        kind = kind_of(params, batch)
        if kind not in programs:
            programs[kind] = read(f, params, *batch)
    with on_terminal("prune", total, "weight") as bar:
        weights = prune_in_order(
            programs, params, kept, specs=specs, method=method, max_bytes=max_bytes, bar=bar
        )
    return _rebuilt(params, weights)


def _numbers_per_output(spec: Any) -> Any:
    """What bare sparsities mean to methods that compare the weights of one output."""
    if isinstance(spec, Mapping):  # whose order matters
        return {key: _numbers_per_output(each) for key, each in spec.items()}

    def one(each: Any) -> Any:
        is_number = isinstance(each, numbers.Real) or (is_array(each) and not each.shape)
        return Unstructured(each, per="output") if is_number else each

    return jax.tree.map(one, spec, is_leaf=lambda each: each is None or is_spec(each))


def _assigned(
    params: Any, program: Program, spec: Any, where: Where | None, uses: Uses
) -> Assignment:
    """Which leaf is pruned by what; refuses those that data says nothing of."""
    params_leaves = leaves(params)
    scope(params, where, uses)
    with_data = {
        program.leaves[met.part.leaf].path
        for met in program.met
        if met.use in ("product", "convolution") and met.roles and met.with_data
    }
    asked: Where = (lambda path, _: path in with_data) if where is None else where
    assignment = assign(params_leaves, spec, asked, uses)
    raise_problems(
        Problem(
            NoMatch,
            f"no product or convolution with the inputs reads {leaf.name} as it is: it is used for "
            f"{', '.join(dict.fromkeys(use.in_words for use in uses.of(leaf.path)))}. Leave it out "
            "with where=, or prune it without data.",
        )
        for leaf in assignment.chosen
        if leaf.path not in with_data
    )
    return assignment


def _at_once(
    params: _Params,
    assignment: Assignment,
    method: Method,
    gathering: Gathering,
    total: Sequence[Sums],
) -> tuple[_Params, Any]:
    """All leaves by what the dense model gives them."""
    specs = {
        i: per_output(spec, next(p for p in gathering.pieces if p.leaf.path == path))
        for i, spec in assignment.specs.items()
        for path in [assignment.leaves[i].path]
    }
    if not isinstance(method, SparseGPT | Refit):
        # Budgets of leaves, of all together, whatever the spec says.
        stats = stats_of(gathering, total, "squares")
        warn_unreached(stats)
        ranked = ranked_by(metric_of(method, stats), assignment.chosen)
        mask = rebuild(params, assignment.masks(ranked, specs))
        return apply_mask(params, mask), mask
    of_path = {assignment.leaves[i].path: spec for i, spec in specs.items()}
    weights = Weights([leaf.value for leaf in leaves(params) if is_array(leaf.value)])
    jobs = [
        Job(piece, piece.cut(weights.values[piece.number]), total[group], of_path[piece.leaf.path])
        for piece, group in zip(gathering.pieces, gathering.group, strict=True)
    ]
    with on_terminal("prune", sum(job.piece.size for job in jobs), "weight") as bar:
        prune_jobs(method, jobs, weights, bar)
    return _rebuilt(params, weights)


def _rebuilt(params: _Params, weights: Weights) -> tuple[_Params, Any]:
    """The parameters and the mask as trees; leaves that were not pruned are those that came."""
    numbers_ = itertools.count()
    values, masks = [], []
    for leaf in leaves(params):
        k = next(numbers_) if is_array(leaf.value) else -1
        values.append(weights.values[k] if k in weights.masks else leaf.value)
        masks.append(weights.masks.get(k))
    return rebuild(params, values), rebuild(params, masks)
