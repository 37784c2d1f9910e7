"""A checkpoint's report, tensor by tensor."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune._errors import NoMatch, raise_problems
from jaxprune._report import LeafReport, SparsityReport, gathered, leaf_report
from jaxprune._tree import Leaf, is_prunable
from jaxprune._where import Pattern, Where, covers, dense_reasons, is_weight, no_match
from jaxprune.io._checkpoint import Array, Checkpoint, Tensor, paths_of, wide_types, widened
from jaxprune.io._progress import Progress, quiet


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
    """The rows of a checkpoint's report, one tensor at a time, in the order of their paths.

    Args:
        source: An open checkpoint.
        where: Which tensors are in scope.
        skip: Patterns of those among them that are not.
        progress: Makes a progress bar of a label and a number of bytes.

    Yields:
        The rows.

    Raises:
        NoMatch: no tensor is in scope, or a pattern covers none.
    """
    paths = paths_of(source.tensors)
    tensors = sorted(paths, key=paths.__getitem__)
    reasons = dense_reasons([Leaf(paths[tensor], tensor) for tensor in tensors], where)
    names = [paths[tensor] for tensor in tensors]
    skipped = {pattern: [covers(pattern, name) for name in names] for pattern in skip}
    raise_problems(no_match(p, names) for p, covered in skipped.items() if not any(covered))
    for pattern, covered in skipped.items():
        why = f"skipped by {pattern!r}"
        reasons = [old or (why if hit else "") for old, hit in zip(reasons, covered, strict=True)]
    if all(reasons):
        raise NoMatch(f"{source.path} has no tensor in scope: choose some with --where '*'.")
    with wide_types(tensors), progress("reading", sum(t.nbytes for t in tensors)) as bar:
        for tensor, reason in zip(tensors, reasons, strict=True):
            values = source.read(tensor) if is_prunable(tensor) else None
            yield Row(tensor_report(paths[tensor], tensor, values, None, reason), values)
            bar.update(tensor.nbytes)


def tensor_report(
    path: str, tensor: Tensor, values: Array | None, kept: Array | None, reason: str
) -> LeafReport:
    """The row of one tensor.

    Args:
        path: Its path.
        tensor: What it is.
        values: Its values; looked at only if they are floats.
        kept: Its mask, or None.
        reason: Why it is out of scope; "" if it is in.

    Returns:
        The row.
    """
    return leaf_report(Leaf(path, values if is_prunable(tensor) else tensor), kept, reason)


def report_checkpoint(
    source: Checkpoint,
    *,
    where: Where = is_weight,
    skip: Sequence[Pattern] = (),
    progress: Progress = quiet,
) -> SparsityReport:
    """What `jaxprune.report` says of the tree {path: tensor}, one tensor in memory at a time.

    Args:
        source: An open checkpoint.
        where: Which tensors are in scope.
        skip: Patterns of those among them that are not.
        progress: Makes a progress bar of a label and a number of bytes.

    Returns:
        The report.
    """
    rows = report_rows(source, where=where, skip=skip, progress=progress)
    return gathered([row.report for row in rows])


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
