"""Pruning a checkpoint tensor by tensor: what `prune` makes of all of it at once, to the bit."""

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._kernels.host import Cut, find_cut, key_pieces, survivors, zeroed
from jaxprune._kernels.ranked import Ranked
from jaxprune._metrics import L1, Metric, importance, pointwise
from jaxprune._plan import Plan, PlanRow, plan
from jaxprune._report import LeafReport
from jaxprune._specs.protocol import Work, select
from jaxprune._specs.unstructured import Unstructured, pool_budget
from jaxprune._tree import is_prunable
from jaxprune._where import Where, is_weight
from jaxprune.io._checkpoint import Array, Checkpoint, Put, Tensor, paths_of, wide_types
from jaxprune.io._formats import rewriting
from jaxprune.io._overlap import reading_ahead, writing_behind
from jaxprune.io._progress import Progress, quiet
from jaxprune.io._report import tensor_report


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of a checkpoint.

    Attributes:
        tensors: How many tensors were pruned.
        total: The weights they hold.
        removed: How many of these the masks do not keep.
        parameters: The weights of all floating tensors.
        zeros: How many of those are zero now.
        rows: A report's rows, in the checkpoint's order; empty if none was asked for.
    """

    tensors: int = 0
    total: int = 0
    removed: int = 0
    parameters: int = 0
    zeros: int = 0
    rows: tuple[LeafReport, ...] = ()


def plan_checkpoint(source: Checkpoint, spec: Any, *, where: Where = is_weight) -> Plan:
    """Says what `prune_checkpoint` would do; reads no values.

    Args:
        source: An open checkpoint.
        spec: As for `jaxprune.make_mask`.
        where: As for `jaxprune.make_mask`.

    Returns:
        The plan of the tree {path: tensor}.
    """
    return plan(
        {path: tensor for tensor, path in paths_of(source.tensors).items()}, spec, where=where
    )


def prune_checkpoint(
    source: Checkpoint,
    target: Path | str,
    spec: Any,
    *,
    metric: Metric = L1(),
    where: Where = is_weight,
    mask_target: Path | None = None,
    with_report: bool = False,
    progress: Progress = quiet,
) -> Pruned:
    """Prunes a checkpoint of any size into another file.

    The values are those that `jaxprune.prune` gives for the whole tree, under a global budget too.
    One tensor at a time is in memory.

    Args:
        source: An open checkpoint.
        target: The file or folder to write; its extension says in which format, and a slash at its
            end that it is a folder.
        spec: A spec, or rules by path patterns, as for `jaxprune.make_mask`.
        metric: How weights are scored.
        where: Which tensors may be pruned.
        mask_target: A file for the masks, by the names of their tensors: bool, True = kept.
        with_report: Whether to look for patterns too, which takes longer.
        progress: Makes a progress bar of a label and a number of bytes.

    Returns:
        What was done.

    Raises:
        PruningError: as `jaxprune.prune` does, and for files that are broken; then nothing is
            written.
        OSError: a file cannot be read or written; then nothing is written.
    """
    rows = {row.path: row for row in plan_checkpoint(source, spec, where=where).rows}
    with wide_types(source.tensors):
        work = _Work(source, metric, rows)
        return _written(work, target, mask_target, with_report, progress)


def _written(
    work: "_Work",
    target: Path | str,
    mask_target: Path | None,
    with_report: bool,
    progress: Progress,
) -> Pruned:
    source = work.source
    tally, reports = _Tally(), []
    masked = [_mask_of(tensor) for tensor in source.tensors if work.row(tensor).spec is not None]
    with ExitStack() as stack:
        put, put_mask = stack.enter_context(
            rewriting(target, source, mask_target=mask_target, masks=masked, progress=progress)
        )
        work.share_budgets(progress)  # now that the outputs are known to be possible
        bar = stack.enter_context(progress("pruning", sum(t.nbytes for t in source.tensors)))
        read = stack.enter_context(reading_ahead(source.read, source.tensors))
        write = stack.enter_context(writing_behind())
        for tensor in source.tensors:
            array, kept = work.pruned(tensor, read(tensor))
            write(tensor, functools.partial(_put, tensor, array, kept, put, put_mask))
            tally.add(tensor, array, kept)
            if with_report:
                row = work.row(tensor)
                reports.append(tensor_report(row.path, tensor, array, kept, row.reason))
            bar.update(tensor.nbytes)
    return Pruned(**vars(tally), rows=tuple(reports))


def _put(tensor: Tensor, array: Array, kept: Array | None, put: Put, put_mask: Put) -> None:
    put(tensor, array)
    if kept is not None:
        put_mask(_mask_of(tensor), kept)


def _shares_budget(spec: Any) -> bool:
    return isinstance(spec, Unstructured) and spec.per == "global"


def _in_order(tensor: Tensor) -> tuple[tuple[bool, str | int], ...]:
    # msgpack may have numbers and names side by side, which Python does not compare.
    return tuple((isinstance(key, str), key) for key in tensor.keys)


def _mask_of(tensor: Tensor) -> Tensor:
    return Tensor(tensor.keys, tensor.shape, "bool", tensor.size)


@dataclass
class _Tally:
    """The numbers of `Pruned`, while they are counted."""

    tensors: int = 0
    total: int = 0
    removed: int = 0
    parameters: int = 0
    zeros: int = 0

    def add(self, tensor: Tensor, array: Array, kept: Array | None) -> None:
        """Counts a tensor and its mask."""
        if not is_prunable(tensor):
            return
        self.parameters += tensor.size
        self.zeros += tensor.size - int(np.count_nonzero(array))
        if kept is not None:
            self.tensors += 1
            self.total += tensor.size
            self.removed += tensor.size - int(np.count_nonzero(kept))


@dataclass
class _Work:
    """What is pruned and how; and how many weights each tensor loses to a shared budget."""

    source: Checkpoint
    metric: Metric
    rows: dict[str, PlanRow]

    def __post_init__(self) -> None:
        self.paths = paths_of(self.source.tensors)
        self._counts: dict[Tensor, int] = {}
        self._cuts: dict[Tensor, Cut[Tensor]] = {}
        self._dtypes = self._score_dtypes()

    def row(self, tensor: Tensor) -> PlanRow:
        """What the plan says of a tensor."""
        return self.rows[self.paths[tensor]]

    def pruned(self, tensor: Tensor, array: Array) -> tuple[Array, Array | None]:
        """The values of a tensor without what goes, and the mask; None if it is left dense."""
        spec = self.row(tensor).spec
        if spec is None:
            return array, None
        leaf = self._ranked(tensor, array)
        if _shares_budget(spec):
            kept = survivors(leaf, self._share(tensor, leaf))
        else:
            (mask,) = select(spec, [Work(spec, leaf, 0)])
            kept = np.asarray(mask)
        return zeroed(array, kept, out=array), kept

    def _ranked(self, tensor: Tensor, array: Array) -> Ranked:
        """How the values of a tensor rank, in the dtype in which they are compared."""
        score, dtype = pointwise(self.metric), self._dtypes[tensor]
        if score is not None:
            return Ranked(array, score, dtype)
        path = self.paths[tensor]
        return Ranked(np.asarray(importance({path: array}, self.metric)[path]), dtype=dtype)

    def _share(self, tensor: Tensor, leaf: Ranked) -> int:
        if tensor in self._cuts:
            return self._cuts[tensor].take(tensor, key_pieces(leaf))
        return self._counts.get(tensor, 0)

    def share_budgets(self, progress: Progress) -> None:
        """Finds out what each tensor gives to a budget that it shares with others."""
        pools: dict[str, list[Tensor]] = {}
        for tensor in self.source.tensors:
            row = self.row(tensor)
            if _shares_budget(row.spec):
                pools.setdefault(row.rule, []).append(tensor)
        for pool in pools.values():
            self._share_budget(pool, self.row(pool[0]).spec, progress)

    def _share_budget(self, pool: list[Tensor], spec: Unstructured, progress: Progress) -> None:
        count = int(pool_budget(spec, [tensor.size for tensor in pool]))
        if not count:
            return
        widest = functools.reduce(jnp.promote_types, [self._dtypes[tensor] for tensor in pool])
        self._dtypes |= dict.fromkeys(pool, np.dtype(widest))
        width = 8 * np.dtype(widest).itemsize
        in_order = sorted(pool, key=_in_order)  # as JAX sorts a dict
        passes = width // 16 + (in_order != pool)
        with progress("counting", passes * sum(tensor.nbytes for tensor in pool)) as bar:

            def pieces(tensor: Tensor) -> Iterator[Array]:
                yield from key_pieces(self._ranked(tensor, self.source.read(tensor)))
                bar.update(tensor.nbytes)

            cut = find_cut(pool, pieces, count, held=spec.min_nonzero, width=width)
            if in_order == pool:  # then each gives what is left while it is written
                self._cuts |= dict.fromkeys(pool, cut)
            else:
                self._counts |= {tensor: cut.take(tensor, pieces(tensor)) for tensor in in_order}

    def _score_dtypes(self) -> dict[Tensor, np.dtype[Any]]:
        """What the metric scores each tensor in that is pruned."""
        tensors = [tensor for tensor in self.source.tensors if self.row(tensor).spec is not None]
        some = {t.dtype: jax.ShapeDtypeStruct((2, 2), jnp.dtype(t.dtype)) for t in tensors}
        scores = jax.eval_shape(functools.partial(importance, metric=self.metric), some)
        return {tensor: np.dtype(scores[tensor.dtype].dtype) for tensor in tensors}
