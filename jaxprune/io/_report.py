"""A checkpoint's report, tensor by tensor."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune._errors import NoMatch, raise_problems
from jaxprune._kernels import host
from jaxprune._kernels.patterns import find_patterns
from jaxprune._progress import Progress, quiet
from jaxprune._report import LeafReport, SparsityReport, counted_leaf, gathered, leaf_report
from jaxprune._tree import Leaf, is_prunable
from jaxprune._where import Pattern, Where, covers, dense_reasons, is_weight, no_match
from jaxprune.io._batches import Reader, alike, batches
from jaxprune.io._checkpoint import Array, Checkpoint, Tensor, paths_of, wide_types, widened
from jaxprune.io._overlap import reading_ahead


class Row(NamedTuple):
    """A report's row, and the values it tells of: None if the tensor holds no floats."""

    report: LeafReport
    values: Array | None


def report_rows(
    source: Checkpoint,
    *,
    where: Where = is_weight,
    skip: Sequence[Pattern] = (),
    progress: Progress = quiet,
) -> Iterator[Row]:
    """The rows of a checkpoint's report in its own order, some tensors in memory at a time.

    Args:
        source: An open checkpoint.
        where: Which tensors are in scope.
        skip: Patterns of those among them that are not.
        progress: Makes a progress bar of a label and a number of bytes.

    Yields:
        The rows. Their values lie in memory that is used again for later rows: copy what is to
        stay.

    Raises:
        NoMatch: no tensor is in scope, or a pattern covers none.
    """
    paths = paths_of(source.tensors)
    reasons = _reasons(source, paths, where, skip)
    reader = Reader(source)
    with (
        wide_types(source.tensors),
        progress("reading", sum(tensor.nbytes for tensor in source.tensors)) as bar,
        reading_ahead(reader.read, batches(source.tensors)) as read,
    ):
        for batch, loaded in read:
            leaves = [Leaf(paths[tensor], tensor) for tensor in batch.tensors]
            nothing = [None] * len(leaves)
            rows = batch_report(leaves, loaded.arrays, nothing, [reasons[t] for t in batch.tensors])
            for row, tensor, values in zip(rows, batch.tensors, loaded.arrays, strict=True):
                yield Row(row, values if is_prunable(tensor) else None)
            reader.done(loaded)
            bar.update(batch.nbytes)


def _reasons(
    source: Checkpoint, paths: Mapping[Tensor, str], where: Where, skip: Sequence[Pattern]
) -> dict[Tensor, str]:
    """Why each tensor is out of scope; "" if it is in."""
    tensors = sorted(paths, key=paths.__getitem__)
    names = [paths[tensor] for tensor in tensors]
    reasons = dense_reasons(list(map(Leaf, names, tensors)), where)
    skipped = {pattern: [covers(pattern, name) for name in names] for pattern in skip}
    raise_problems(no_match(p, names) for p, covered in skipped.items() if not any(covered))
    for pattern, covered in skipped.items():
        why = f"skipped by {pattern!r}"
        reasons = [old or (why if hit else "") for old, hit in zip(reasons, covered, strict=True)]
    if all(reasons):
        raise NoMatch(f"{source.path} has no tensor in scope: choose some with --where '*'.")
    return dict(zip(tensors, reasons, strict=True))


def batch_report(
    leaves: Sequence[Leaf],
    arrays: Sequence[Array],
    kept: Sequence[Array | None],
    reasons: Sequence[str],
) -> list[LeafReport]:
    """The rows of some tensors; those that are alike are counted together.

    Args:
        leaves: The paths, and the tensors.
        arrays: Their values; looked at only if they are floats.
        kept: Their masks, or None.
        reasons: Why each is out of scope; "" if it is in.

    Returns:
        The rows.
    """
    rows: dict[int, LeafReport] = {}
    for places in alike([(leaf.value.dtype, leaf.value.shape) for leaf in leaves]):
        first = leaves[places[0]].value
        if len(places) == 1 or not is_prunable(first) or not first.size:
            for i in places:
                value = arrays[i] if is_prunable(leaves[i].value) else leaves[i].value
                rows[i] = leaf_report(Leaf(leaves[i].path, value), kept[i], reasons[i])
            continue
        alive = host.nonzero(np.stack([arrays[i] for i in places]))
        counts = np.count_nonzero(alive.reshape(len(places), -1), 1).tolist()
        patterns = find_patterns(alive, counts)
        for place, i in enumerate(places):
            here = kept[i]
            stray = 0 if here is None else int(np.count_nonzero(alive[place] & ~here))
            rows[i] = counted_leaf(leaves[i], counts[place], patterns[place], reasons[i], stray)
    return [rows[i] for i in range(len(leaves))]


def report_checkpoint(
    source: Checkpoint,
    *,
    where: Where = is_weight,
    skip: Sequence[Pattern] = (),
    progress: Progress = quiet,
) -> SparsityReport:
    """What `jaxprune.report` says of the tree {path: tensor}, some tensors in memory at a time.

    Args:
        source: An open checkpoint.
        where: Which tensors are in scope.
        skip: Patterns of those among them that are not.
        progress: Makes a progress bar of a label and a number of bytes.

    Returns:
        The report.
    """
    rows = report_rows(source, where=where, skip=skip, progress=progress)
    return in_order_of_paths(row.report for row in rows)


def in_order_of_paths(rows: Iterable[LeafReport]) -> SparsityReport:
    """The report that these rows make, sorted as a tree of their paths is."""
    return gathered(sorted(rows, key=lambda row: row.path))


_BINS = 64


def histogram(values: Array) -> tuple[tuple[int, ...], float, float] | None:
    """How often values that are not zero lie in each of some bins; None if none such is finite.

    Args:
        values: Floats of any shape.

    Returns:
        The counts, and the lowest and the highest finite value.
    """
    flat: np.ndarray[Any, Any] = values.reshape(-1)
    step = 1 << 20
    parts = [flat[at : at + step] for at in range(0, flat.size, step)]
    wide = map(widened, parts)
    ends = [
        (float(finite.min()), float(finite.max()))
        for finite in (part[np.isfinite(part) & (part != 0)] for part in wide)
        if finite.size
    ]
    if not ends:
        return None
    lowest, highest = min(low for low, _ in ends), max(high for _, high in ends)
    counts = np.zeros(_BINS, np.int64)
    # Halves, for the distance between the ends may be more than a float can hold.
    scale = max(highest / 2 - lowest / 2, 5e-324)
    for part in parts:
        wide_part = widened(part)
        shown = np.isfinite(wide_part) & (wide_part != 0)
        places = (wide_part[shown] / 2 - lowest / 2) / scale * _BINS
        counts += np.bincount(places.astype(np.int64).clip(0, _BINS - 1), minlength=_BINS)
    return tuple(counts.tolist()), lowest, highest
