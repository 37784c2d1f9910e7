"""How a piece is pruned once its statistics are known: by a metric of them, or by solving."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import InvalidPattern, Problem, PruningError
from jaxprune._kernels.sharding import placed
from jaxprune._metrics import Metric, pointwise, ranked_by, scores_of
from jaxprune._prune import apply_mask
from jaxprune._specs import protocol
from jaxprune._specs.unstructured import Unstructured
from jaxprune._text import shown
from jaxprune._tree import Leaf
from jaxprune.calibration._pieces import Piece
from jaxprune.calibration._refit import Refit
from jaxprune.calibration._sparsegpt import SparseGPT, in_matrix_words, refused
from jaxprune.calibration._statistics import Gather, Sums
from jaxprune.calibration._stats import LeafStats, Stats, of_inputs

# What makes a metric of statistics: the class `Wanda`, say.
MetricOf: TypeAlias = Callable[[Stats], Metric]
Method: TypeAlias = SparseGPT | Refit | MetricOf


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One piece that is to be pruned.

    Attributes:
        piece: The piece.
        box: Its weights.
        sums: What it is multiplied with.
        spec: The spec, its axes integers of the leaf.
    """

    piece: Piece
    box: jax.Array
    sums: Sums
    spec: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """A pruned piece: its weights, and which of them are kept, bool."""

    box: jax.Array
    kept: jax.Array


def gather_of(method: Method) -> Gather:
    """What a method has to know of the activations."""
    return "gram" if isinstance(method, SparseGPT | Refit) else "squares"


def check_method(method: Any) -> None:
    """Refuses what is not a method.

    Raises:
        PruningError: With what would do.
    """
    example = "write method=jp.SparseGPT(), method=jp.Refit() or method=jp.Wanda, the class"
    maker = method.by if isinstance(method, Refit) else method
    for each in (method, maker):
        if isinstance(each, type) and each in (SparseGPT, Refit):
            raise PruningError(f"method is the class {each.__name__}: {example}.")
    if isinstance(maker, SparseGPT) or _is_metric(maker) or callable(maker):
        return
    raise PruningError(f"expected a method, got {shown(method)}: {example}.")


def check_spec(method: Method, spec: Any, piece: Piece, order: str) -> Problem | None:
    """What is wrong with a spec for a piece; None if nothing is."""
    if order == "sequential" and getattr(spec, "per", None) == "global":
        return Problem(
            InvalidPattern,
            f"{piece.leaf.name} shares a global budget, which needs the scores of all leaves at "
            'once: write order="at_once", or share the budget out first, with jp.allocate.',
        )
    problem = protocol.fit(spec, Leaf(piece.leaf.path, _described(piece)))
    solver = method.by if isinstance(method, Refit) else method
    if problem or not isinstance(solver, SparseGPT):
        return problem
    words = refused(spec, exact=solver.exact)
    if words:
        return Problem(InvalidPattern, f"{piece.leaf.name}: {words}")
    spec_or_problem = _in_matrix_words(spec, piece)
    return spec_or_problem if isinstance(spec_or_problem, Problem) else None


def per_output(spec: Any, piece: Piece) -> Any:
    """The spec with a budget for each output of each matrix where it has one for each output."""
    batch, outputs = piece.form.axes("batch"), piece.form.axes("output")
    if not (isinstance(spec, Unstructured) and spec.along is not None and batch):
        return spec
    ndim = len(piece.shape)
    named = {a % ndim for a in ((spec.along,) if isinstance(spec.along, int) else spec.along)}
    if named != {*outputs}:
        return spec
    return dataclasses.replace(spec, per=tuple(dict.fromkeys((*batch, *outputs))))


def pruned(method: Method, jobs: Sequence[Job]) -> list[Done]:
    """Pieces that one array holds side by side, pruned."""
    if isinstance(method, SparseGPT):
        return _solved(method, jobs)
    maker = method.by if isinstance(method, Refit) else method
    if isinstance(maker, SparseGPT):
        masked = _solved(maker, jobs)
    else:
        masked = [_masked(maker, job) for job in jobs]
    if not isinstance(method, Refit):
        return masked
    return [_refitted(method, job, one.kept) for job, one in zip(jobs, masked, strict=True)]


def makes_metric(method: Method) -> bool:
    """Whether a method needs statistics to score weights: it compares those of one output."""
    maker = method.by if isinstance(method, Refit) else method
    return not isinstance(maker, SparseGPT) and not _is_metric(maker)


def metric_of(maker: Any, stats: Stats) -> Metric:
    """The metric that a method makes of statistics, or is."""
    return maker if _is_metric(maker) else maker(stats)


def _is_metric(value: Any) -> bool:
    known = scores_of.dispatch(type(value)) is not scores_of.dispatch(object)
    return known or pointwise.dispatch(type(value)) is not pointwise.dispatch(object)


def _described(piece: Piece) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(piece.shape, piece.leaf.value.dtype)


def _in_matrix_words(spec: Any, piece: Piece) -> Any:
    form = piece.form
    return in_matrix_words(
        spec,
        Leaf(piece.leaf.path, _described(piece)),
        inputs=form.axes("input"),
        outputs=form.axes("output"),
        batch=form.axes("batch"),
    )


# --- by a metric --------------------------------------------------------------------------------


def _masked(maker: Any, job: Job) -> Done:
    leaf = Leaf(job.piece.leaf.path, job.box)
    (ranked,) = ranked_by(metric_of(maker, _stats(job)), [leaf])
    (kept,) = protocol.select(job.spec, [protocol.Work(job.spec, ranked, 0)])
    return Done(apply_mask(job.box, kept), kept)


def _stats(job: Job) -> Stats:
    """The statistics of one box, as if it were a leaf."""
    path, form = job.piece.leaf.path, job.piece.form
    inputs, outputs, batch = (form.axes(word) for word in ("input", "output", "batch"))
    fixed = LeafStats(path, form.shape, inputs, outputs, batch)
    squares = form.over_box(of_inputs(job.sums))
    return Stats({path: squares}, {}, {path: jnp.ravel(job.sums.count)}, (fixed,))


# --- by solving ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Matrices:
    """The matrices of an array that holds a piece, and which part of them is the piece.

    Attributes:
        weights: [batch, out, in], turns of loops among the batch; zero where other pieces lie.
        sums: The Grams [batch, in, in], and the counts.
        batch: Which of the matrices are the piece's, sorted.
        out: Which of their outputs.
        into: Which of their inputs.
    """

    weights: jax.Array
    sums: Sums
    batch: tuple[int, ...]
    out: tuple[int, ...]
    into: tuple[int, ...]


def _solved(method: SparseGPT, jobs: Sequence[Job]) -> list[Done]:
    """Pieces by themselves; those that are summed up in the same outputs together."""
    matrices = [_matrices(job) for job in jobs]
    together: dict[Any, list[int]] = {}
    for k, one in enumerate(matrices):
        together.setdefault((one.batch, one.out), []).append(k)
    done: dict[int, Done] = {}
    for members in together.values():
        solved_pieces = _jointly(method, [jobs[k] for k in members], [matrices[k] for k in members])
        done.update(zip(members, solved_pieces, strict=True))
    return [done[k] for k in range(len(jobs))]


def _jointly(
    method: SparseGPT, jobs: Sequence[Job], matrices: Sequence[_Matrices]
) -> Sequence[Done]:
    names = " and ".join(job.piece.name for job in jobs)
    words = [_in_matrix_words(job.spec, job.piece) for job in jobs]
    if any(word != words[0] for word in words):
        raise InvalidPattern(
            f"{names} are summed in one product, and solved together: give them one spec."
        )
    first = matrices[0]
    into = tuple(sorted({k for one in matrices for k in one.into}))
    # Each holds zeros where the others are.
    weights = sum((one.weights for one in matrices[1:]), first.weights)
    at = first.batch, first.out, into
    solved, kept = method.solve(
        _part(weights, *at),
        _part(first.sums.sums, first.batch, into, into),
        _part(first.sums.count, first.batch),
        words[0],
        name=names,
    )
    whole = _with_part(weights, solved, *at)
    mask = _with_part(jnp.ones(weights.shape, jnp.float32), kept, *at)
    return [Done(_back(job, whole, job.box), _back_mask(job, mask)) for job in jobs]


def _refitted(method: Refit, job: Job, kept: jax.Array) -> Done:
    one = _matrices(job)
    at = one.batch, one.out, one.into
    solved = method.solve(
        _part(one.weights, *at),
        _part(one.sums.sums, one.batch, one.into, one.into),
        _part(one.sums.count, one.batch),
        _part(_flat(job.piece.form.matrices(kept)), *at),
        name=job.piece.name,
    )
    return Done(_back(job, _with_part(one.weights, solved, *at), job.box), kept)


def _matrices(job: Job) -> _Matrices:
    form, weights = job.piece.form, _flat(job.piece.form.matrices(job.box))
    count, out, into = weights.shape
    sums = Sums(job.sums.sums.reshape(-1, into, into), job.sums.count.reshape(-1))
    if form.roles.groups > 1:
        return _Matrices(weights, sums, *map(tuple, (range(count), range(out), range(into))))
    batch = form.held("batch")
    size = form.size("batch")
    turns = [turn * size + k for turn in range(count // max(size, 1)) for k in batch]
    return _Matrices(weights, sums, tuple(turns), form.held("output"), form.held("input"))


def _flat(matrices: jax.Array) -> jax.Array:
    return matrices.reshape(-1, *matrices.shape[-2:])


def _part(x: jax.Array, *at: Sequence[int]) -> jax.Array:
    whole = all(len(some) == size for some, size in zip(at, x.shape, strict=True))
    return x if whole else x[np.ix_(*at)]


def _with_part(x: jax.Array, part: jax.Array, *at: Sequence[int]) -> jax.Array:
    whole = all(len(some) == size for some, size in zip(at, x.shape, strict=True))
    return part.astype(x.dtype) if whole else x.at[np.ix_(*at)].set(part.astype(x.dtype))


def _back(job: Job, matrices: jax.Array, box: jax.Array) -> jax.Array:
    form = job.piece.form
    shape = jax.eval_shape(form.matrices, box).shape
    return form.of_matrices(matrices.reshape(shape), box)


def _back_mask(job: Job, kept: jax.Array) -> jax.Array:
    ones = placed(jnp.ones(job.box.shape, jnp.float32), job.box)
    return _back(job, kept, ones) > 0
