"""Pruning a checkpoint tensor by tensor: what `prune` makes of all of it at once, to the bit."""

import dataclasses
import functools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._assign import Assignment, assign
from jaxprune._kernels.host import count_nonzero, survivors, survivors_along, zeroed
from jaxprune._kernels.ranked import Ranked
from jaxprune._metrics import L1, Metric, importance, pointwise
from jaxprune._plan import Plan, plan_of
from jaxprune._progress import Progress, quiet
from jaxprune._report import LeafReport
from jaxprune._specs.n_of_m import NM
from jaxprune._specs.protocol import Work, select
from jaxprune._specs.unstructured import Unstructured, pool_budget
from jaxprune._tree import Leaf, is_prunable
from jaxprune._where import Where, is_weight
from jaxprune.io._batches import Loaded, Reader, alike, batches
from jaxprune.io._checkpoint import Array, Checkpoint, Tensor, paths_of, wide_types
from jaxprune.io._outputs import rewriting
from jaxprune.io._overlap import reading_ahead, writing_behind
from jaxprune.io._report import batch_report
from jaxprune.io._shares import Pool, shares_of


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
    return plan_of(_decided(source, spec, where))


def _decided(source: Checkpoint, spec: Any, where: Where) -> Assignment:
    """Which tensor is pruned by what, as in a tree {path: tensor}, whose paths are sorted."""
    tensors = {path: tensor for tensor, path in paths_of(source.tensors).items()}
    return assign([Leaf(path, tensors[path]) for path in sorted(tensors)], spec, where)


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
    A few tensors are in memory at a time: one batch is pruned, the next read, the last written.

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
    with wide_types(source.tensors):
        work = _Work(source, metric, _decided(source, spec, where))
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
    masked = [_mask_of(t) for t in source.tensors if mask_target is not None and t in work.specs]
    reader = Reader(source)
    with ExitStack() as stack:
        put, put_mask = stack.enter_context(
            rewriting(target, source, mask_target=mask_target, masks=masked, progress=progress)
        )
        work.share_budgets(progress)  # now that the outputs are known to be possible
        bar = stack.enter_context(progress("pruning", sum(t.nbytes for t in source.tensors)))
        read = stack.enter_context(reading_ahead(reader.read, batches(source.tensors)))
        write = stack.enter_context(writing_behind())
        for batch, loaded in read:
            kept = work.prune(loaded, tally)
            if with_report:
                leaves = [work.leaf(tensor) for tensor in batch.tensors]
                reasons = [work.reasons[tensor] for tensor in batch.tensors]
                reports += batch_report(leaves, loaded.arrays, kept, reasons)

            def put_both(loaded: Loaded = loaded, kept: list[Array | None] = kept) -> None:
                put.all(loaded.tensors, loaded.arrays)
                if mask_target is not None:
                    for tensor, mask in zip(loaded.tensors, kept, strict=True):
                        if mask is not None:
                            put_mask(_mask_of(tensor), mask)
                reader.done(loaded)

            write(batch, put_both)
            bar.update(batch.nbytes)
    return Pruned(**vars(tally), rows=tuple(reports))


def _shares_budget(spec: Any) -> bool:
    return isinstance(spec, Unstructured) and spec.per == "global"


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

    def add(self, tensors: int, weights: Array, kept: Array | None) -> None:
        """Counts tensors of floats that lie in one array, and their masks in another."""
        self.parameters += weights.size
        self.zeros += weights.size - count_nonzero(weights)
        if kept is not None:
            self.tensors += tensors
            self.total += kept.size
            self.removed += kept.size - int(np.count_nonzero(kept))


class _Work:
    """What is pruned and how; and how many weights each tensor loses to a shared budget.

    Attributes:
        source: The checkpoint.
        specs: By the tensors that are pruned what prunes them.
        reasons: Why each tensor is left dense; "" if it is pruned.
    """

    def __init__(self, source: Checkpoint, metric: Metric, assignment: Assignment) -> None:
        self.source = source
        self._metric, self._score = metric, pointwise(metric)
        leaves, number = assignment.leaves, assignment.entry_of()
        self._paths = {leaf.value: leaf.path for leaf in leaves}
        self.reasons = {
            leaf.value: why for leaf, why in zip(leaves, assignment.reasons, strict=True)
        }
        self.specs = {leaves[i].value: spec for i, spec in assignment.specs.items()}
        self._rules = {leaves[i].value: rule for i, rule in number.items()}
        self._shares: dict[Tensor, int] = {}
        self._dtypes = self._score_dtypes()

    def leaf(self, tensor: Tensor) -> Leaf:
        """A tensor and its path."""
        return Leaf(self._paths[tensor], tensor)

    def prune(self, loaded: Loaded, tally: _Tally) -> list[Array | None]:
        """Writes zeros over what goes, and returns the masks; None where all is left dense."""
        masks: list[Array | None] = [None] * len(loaded.tensors)
        specs = [self.specs.get(tensor) for tensor in loaded.tensors]
        kinds = [
            (id(spec), tensor.dtype, tensor.shape)
            for spec, tensor in zip(specs, loaded.tensors, strict=True)
        ]
        for places in alike(kinds):
            tensor, spec = loaded.tensors[places[0]], specs[places[0]]
            if not is_prunable(tensor):
                continue
            joined = self._joined(spec) if len(places) > 1 else None
            if joined is None:
                for i in places:
                    tensor, array = loaded.tensors[i], loaded.arrays[i]
                    if spec is not None:
                        masks[i] = self._zeroed([tensor], array, spec)
                    tally.add(1, array, masks[i])
                continue
            together = np.stack([loaded.arrays[i] for i in places])
            kept = self._zeroed([loaded.tensors[i] for i in places], together, joined)
            tally.add(len(places), together, kept)
            for i, array, mask in zip(places, together, kept, strict=True):
                loaded.arrays[i][...] = array
                masks[i] = mask
        return masks

    def _joined(self, spec: Any) -> Any:
        """The spec that prunes many alike tensors, stacked, as `spec` does each, or None."""
        if self._score is None:
            return None
        if _shares_budget(spec):
            return spec
        if isinstance(spec, Unstructured) and spec.per == "leaf":
            return dataclasses.replace(spec, per=0)
        if isinstance(spec, NM) and isinstance(spec.axis, int):
            return dataclasses.replace(spec, axis=spec.axis + (spec.axis >= 0))
        return None

    def _zeroed(self, tensors: Sequence[Tensor], array: Array, spec: Any) -> Array:
        """Writes zeros over what goes of a tensor, or of several stacked; returns what is kept."""
        leaf = self._ranked(tensors[0], array)
        if _shares_budget(spec):
            shares = [self._shares.get(tensor, 0) for tensor in tensors]
            several = array.ndim > len(tensors[0].shape)
            kept = (
                survivors_along(leaf, np.array(shares), 0) if several else survivors(leaf, *shares)
            )
        else:
            (mask,) = select(spec, [Work(spec, leaf, 0)])
            kept = np.asarray(mask)
        zeroed(array, kept, out=array)
        return kept

    def _ranked(self, tensor: Tensor, array: Array) -> Ranked:
        """How the values of a tensor rank, in the dtype in which they are compared."""
        dtype = self._dtypes[tensor]
        if self._score is not None:
            return Ranked(array, self._score, dtype)
        path = self._paths[tensor]
        return Ranked(np.asarray(importance({path: array}, self._metric)[path]), dtype=dtype)

    def share_budgets(self, progress: Progress) -> None:
        """Finds out what each tensor gives to a budget that it shares with others."""
        pools: dict[int, list[Tensor]] = {}
        for tensor in self.source.tensors:
            if _shares_budget(self.specs.get(tensor)):
                pools.setdefault(self._rules[tensor], []).append(tensor)
        for pool in pools.values():
            self._share_budget(pool, self.specs[pool[0]], progress)

    def _share_budget(self, pool: list[Tensor], spec: Unstructured, progress: Progress) -> None:
        count = int(pool_budget(spec, [tensor.size for tensor in pool]))
        if not count:
            return
        widest = np.dtype(
            functools.reduce(jnp.promote_types, [self._dtypes[tensor] for tensor in pool])
        )
        self._dtypes |= dict.fromkeys(pool, widest)
        stacks = self._score is not None
        budget = Pool(self.source, pool, count, spec.min_nonzero, widest, self._ranked, stacks)
        self._shares |= shares_of(budget, progress)

    def _score_dtypes(self) -> dict[Tensor, np.dtype[Any]]:
        """What the metric scores each tensor in that is pruned."""
        names = {tensor.dtype for tensor in self.specs}
        some = {name: jax.ShapeDtypeStruct((2, 2), jnp.dtype(name)) for name in names}
        scores = jax.eval_shape(functools.partial(importance, metric=self._metric), some)
        dtypes = {name: np.dtype(scores[name].dtype) for name in names}
        return {tensor: dtypes[tensor.dtype] for tensor in self.specs}
