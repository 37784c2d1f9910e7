"""What each command does."""

import argparse
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from jaxprune import PruningError
from jaxprune._report import LeafReport, SparsityReport
from jaxprune._where import Where
from jaxprune.cli._progress import progress
from jaxprune.cli._specs import (
    check_metric,
    metric_of,
    skipped_of,
    spec_of,
    told_layout,
    where_of,
)
from jaxprune.cli._words import in_options
from jaxprune.io import (
    Checkpoint,
    Comparison,
    Packed,
    Pruned,
    compare_checkpoints,
    histogram,
    open_checkpoint,
    pack_checkpoint,
    plan_checkpoint,
    prune_checkpoint,
    report_checkpoint,
    report_rows,
    unpack_checkpoint,
)
from jaxprune.io._atomic import forget_written, replacing
from jaxprune.io._checkpoint import is_dotted
from jaxprune.io._outputs import mode_of, naming, refuse_input
from jaxprune.io._report import in_order_of_paths
from jaxprune.io._sidecars import copy_sidecars, find_sidecars


def run(options: argparse.Namespace) -> str:
    """Does what was typed, and says what is to be printed."""
    forget_written()
    return _COMMANDS[options.command](options)


def prune(options: argparse.Namespace) -> str:
    """`jaxprune prune`."""
    check_metric(options)
    with open_checkpoint(options.input) as source:
        spec, where = spec_of(options, source), where_of(options, source)
        layout = told_layout(options, source)
        if options.dry_run:
            plan = in_options(str(plan_checkpoint(source, spec, where=where)))
            return f"{plan}\n{layout}" if layout else plan
        if options.output is None:
            raise PruningError("prune needs -o OUT, or --dry-run to write nothing.")
        _refuse_one_place(Path(options.output), options.mask_out)
        sidecars = find_sidecars(source) if options.with_sidecars else []
        done = prune_checkpoint(
            source,
            options.output,
            spec,
            metric=metric_of(options),
            where=where,
            mask_target=options.mask_out,
            with_report=options.report,
            progress=progress,
        )
        beside = copy_sidecars(sidecars, Path(options.output))
    summary = _summary(options, source, done, *beside)
    if options.report:
        table = in_options(str(in_order_of_paths(done.rows)))
        return f"{table}\n{summary}"
    return summary


def report(options: argparse.Namespace) -> str:
    """`jaxprune report`."""
    with open_checkpoint(options.input) as source:
        where, skip = where_of(options, source), skipped_of(options, source)
        if options.html:
            refuse_input(options.html, source)
            return _write_report(options.html, source, where, skip)
        file_report = report_checkpoint(source, where=where, skip=skip, progress=progress)
    if options.json:
        return json.dumps(file_report.to_dict(), indent=2, allow_nan=False)
    if options.csv:
        return _as_csv(file_report.rows)
    return in_options(str(file_report)) + _saving(options.input, file_report)


def compare(options: argparse.Namespace) -> str:
    """`jaxprune compare`."""
    with open_checkpoint(options.a) as a, open_checkpoint(options.b) as b:
        if options.html:
            refuse_input(options.html, a)
            refuse_input(options.html, b)
        comparison = compare_checkpoints(a, b, progress=progress)
        if options.html:
            return _write_comparison(options.html, a, b, comparison)
    return (
        json.dumps(comparison.to_dict(), indent=2, allow_nan=False)
        if options.json
        else str(comparison)
    )


def pack(options: argparse.Namespace) -> str:
    """`jaxprune pack`."""
    with open_checkpoint(options.input) as source:
        done = pack_checkpoint(source, options.output, progress=progress)
        return _packing(
            f"{done.tensors:,} of {len(source.tensors):,} tensors packed", done, options
        )


def unpack(options: argparse.Namespace) -> str:
    """`jaxprune unpack`."""
    done = unpack_checkpoint(options.input, options.output, progress=progress)
    return _packing(f"{done.tensors:,} tensors unpacked", done, options)


def _packing(what: str, done: Packed, options: argparse.Namespace) -> str:
    share = f" ({done.packed / done.dense:.1%})" if done.dense else ""
    return (
        f"{what}: {done.dense:,} bytes of values are {done.packed:,} packed{share}\n"
        f"written   {options.output}"
    )


def _saving(path: Path, report: SparsityReport) -> str:
    """What packing would save, if it is worth a line."""
    dense = packed = 0
    for row in report.rows:
        if row.count is not None:
            values = row.count.bytes_dense * row.count.nonzero // max(1, row.count.total)
            dense += row.count.bytes_dense
            packed += min(row.count.bytes_dense, values + row.count.total // 8)
    if packed > 0.99 * dense:
        return ""
    return (
        f"\njaxprune pack {path} would make its floats about {1 - packed / dense:.0%} smaller: "
        f"{packed:,} of {dense:,} bytes"
    )


def _refuse_one_place(output: Path, masks: Path | None) -> None:
    if masks is None:
        return
    both_exist = output.exists() and masks.exists()
    if output.resolve() == masks.resolve() or (both_exist and output.samefile(masks)):
        raise PruningError(f"{output} and {masks} are one file: name another file for the masks.")


def _summary(
    options: argparse.Namespace,
    source: Checkpoint,
    done: Pruned,
    copied: list[str],
    there: list[str],
) -> str:
    spec = spec_of(options, source)
    asked = spec["*"] if isinstance(spec, dict) else spec
    share, zero = done.removed / done.total, done.zeros / done.parameters
    layout = told_layout(options, source)
    lines = [
        f"asked     {asked!r} by {options.metric}",
        *([layout] if layout else []),
        f"achieved  {done.removed:,} of {done.total:,} weights removed ({share:.2%}), in "
        f"{done.tensors:,} of {len(source.tensors):,} tensors; {zero:.2%} of all "
        f"{done.parameters:,} parameters are zero",
        f"written   {options.output}",
    ]
    if not done.removed:
        lines.append("note      this removes nothing: the output holds what the input does")
    if options.mask_out:
        lines.append(f"masks     {options.mask_out}")
    if copied:
        lines.append(f"copied    {', '.join(copied)}")
    if there:
        lines.append(f"kept      {', '.join(there)}: there already, and not written over")
    return "\n".join(lines)


def _write_report(target: Path, source: Checkpoint, where: Where, skip: list[str]) -> str:
    from jaxprune.cli._page import (  # noqa: PLC0415  # no other command needs it
        LeafView,
        in_natural_order,
        page,
    )

    leaves = []
    for row, values in report_rows(source, where=where, skip=skip, progress=progress):
        if row.count is None or values is None:  # it holds no floats
            continue
        zeros = row.count.total - row.count.nonzero
        name = _as_in_file(row.path, source)
        what = name, row.shape, row.dtype, row.count.total, zeros, row.pattern
        leaves.append(LeafView(*what, histogram(values), row.in_scope))
    leaves.sort(key=lambda leaf: in_natural_order(leaf.path))
    return _write_page(target, page(source.path.name, leaves), mode_of(source))


def _write_comparison(target: Path, a: Checkpoint, b: Checkpoint, comparison: Comparison) -> str:
    from jaxprune.cli._page import comparison_page, in_natural_order  # noqa: PLC0415  # as above

    rows = [(_as_in_file(path, a), row) for path, row in comparison.rows.items()]
    rows.sort(key=lambda row: in_natural_order(row[0]))
    title = f"A: {a.path.name}, B: {b.path.name}"
    return _write_page(
        target, comparison_page(title, rows, comparison.remarks), mode_of(a) & mode_of(b)
    )


def _as_in_file(path: str, source: Checkpoint) -> str:
    return path.replace("/", ".") if is_dotted(source.tensors) else path


def _write_page(target: Path, text: str, mode: int) -> str:
    with naming(target), replacing(target, mode) as temporary:
        temporary.write_text(text, "utf-8")
    return f"written   {target}"


def _as_csv(rows: tuple[LeafReport, ...]) -> str:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(
        ["path", "shape", "dtype", "total", "nonzero", "sparsity", "pattern", "in_scope", "reason"]
    )
    for row in rows:
        count = row.count
        numbers = [count.total, count.nonzero, count.sparsity] if count else ["", "", ""]
        shape = "x".join(map(str, row.shape))
        out.writerow([row.path, shape, row.dtype, *numbers, row.pattern, row.in_scope, row.reason])
    return text.getvalue().rstrip("\n")


_COMMANDS: dict[str, Callable[[argparse.Namespace], str]] = {
    "prune": prune,
    "report": report,
    "compare": compare,
    "pack": pack,
    "unpack": unpack,
}
