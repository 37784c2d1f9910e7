"""Prints what jaxprune costs beside its rivals: `python -m benchmarks [--only TEXT] [--rounds N]`.

A ratio is jaxprune's time over the rival's, the median over rounds in which both ran: 0.5 is half
the rival's time. A rival that is not installed is left out. A bound that is missed is marked.
"""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

import jax

from benchmarks.race import Line, Row, is_installed
from benchmarks.rows import all_rows

_HEADER = ("work", "jaxprune", "rival", "takes", "ratio", "quartiles", "must", "aim")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the rows that were asked for, and prints one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", default="", help="rows whose name contains this")
    parser.add_argument("--rounds", metavar="N", type=int, default=15, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is 1 or more, got {options.rounds}")
    rows = [row for row in all_rows() if options.only.lower() in row.name.lower()]
    if not rows:
        names = "\n  ".join(row.name for row in all_rows())
        parser.error(f"no row is called {options.only!r}; the rows are\n  {names}")
    busy = os.getloadavg()[0]
    lines = _measured(rows, options.rounds)
    print(_machine(options.rounds, busy))
    print(_table([cells for row in rows for cells in _cells(row, lines[row.name])]))
    print(_verdict([line for row in rows for line in lines[row.name]]))


def _measured(rows: Sequence[Row], rounds: int) -> dict[str, list[Line]]:
    lines = {}
    for i, row in enumerate(sorted(rows, key=lambda row: not row.fresh)):
        print(f"{i + 1}/{len(rows)} {row.name}", file=sys.stderr, flush=True)
        lines[row.name] = row.measure(rounds)
    return lines


def _machine(rounds: int, busy: float) -> str:
    """What it was measured on. A load by others makes ratios noisy, of two threads most of all."""
    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else platform.machine()
    has_torch = is_installed("torch")
    torch = f"torch {version('torch')}" if has_torch else "torch not installed: left out"
    return "\n".join(
        [
            f"{jax.device_count()} {device.platform} device ({kind}), {os.cpu_count()} CPUs "
            f"with a load of {busy:.1f} at the start, "
            f"Python {platform.python_version()}, JAX {jax.__version__}, "
            f"NumPy {version('numpy')}, {torch}",
            f"medians of {rounds} rounds (fewer with slow rivals); 4,194,304 float32 normals "
            "unless said; the bounds are for a CPU",
            "",
        ]
    )


def _cells(row: Row, lines: Sequence[Line]) -> list[list[str]]:
    """The row's lines of the table, its name and its own time written where they change."""
    cells, shown = [], ("", "")
    for line in lines:
        name = row.name if not shown[0] else ""
        ours = line.ours if line.ours != shown[1] else ""
        shown = (row.name, line.ours)
        spread = "–".join(map(_ratio, line.quartiles)) if line.quartiles else ""
        bounds = [_bound(line.ratio, bound) for bound in (line.must, line.aim)]
        cells.append([name, ours, line.rival, line.theirs, _ratio(line.ratio), spread, *bounds])
    return cells


def _ratio(value: float) -> str:
    """A ratio for a person: small ones as fractions, for 1/62 reads as "62 times faster"."""
    return f"1/{1 / value:.0f}" if 0 < value < 0.15 else f"{value:.3g}"


def _bound(ratio: float, bound: float | None) -> str:
    if bound is None:
        return ""
    return f"<= {_ratio(bound)} {'yes' if ratio <= bound else 'MISSED'}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in [_HEADER, rule, *rows]
    )


def _verdict(lines: Sequence[Line]) -> str:
    words = []
    for name in ("must", "aim"):
        judged = [line for line in lines if getattr(line, name) is not None]
        met = sum(line.ratio <= getattr(line, name) for line in judged)
        words.append(f"{met} of {len(judged)} {name}s met")
    return "\n" + ", ".join(words)


if __name__ == "__main__":
    main()
