"""Reads, cuts and prunes models of other packages: `python -m benchmarks.packages PACKAGE`.

PACKAGE is keras, haiku, penzai, equinox or transformers; `pip install jaxprune[packages]` installs
them, but for transformers, whose Flax classes end with version 4: `jaxprune[packages-flax]`, in an
environment of its own. Weights are random, and no leaf is zero; sizes are real.

The first table: leaves, and how many of them products and convolutions read; how long reading
takes from descriptions; kernels whose axes the package's documentation states, and how many agree;
how far statistics are from those of what the package's own layers were given; groups that can be
cut, those named as inexact and those refused; how far the model without 25 % of the units of every
group is from the masked one, relative to its largest result; the same without 25 % of the residual
blocks. The second: pruning with data, in every order and pattern, and whether budgets are exact,
everything is finite, and parameters come back as they came.
"""

import argparse
import importlib
import time
from typing import Any

import jax

import jaxprune as jp
from benchmarks.packages import checks
from benchmarks.packages.model import PackageModel, filled

_PACKAGES = ("keras", "haiku", "penzai", "equinox", "transformers")
_HEADER = (
    "model", "leaves", "read", "trace", "dependencies", "axes", "squares",
    "groups", "inexact", "refused", "small", "blocks", "shallow",
)  # fmt: skip


def main() -> None:
    """Measures the models of a package, and prints two tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packages", description=__doc__)
    parser.add_argument("package", choices=_PACKAGES)
    parser.add_argument("--only", metavar="TEXT", default="", help="models with this in their name")
    parser.add_argument("--ways", metavar="TEXT", default="", help='such as "Wanda, sequential"')
    parser.add_argument("--skip-data", action="store_true", help="only the first table")
    parser.add_argument("--skip-cuts", action="store_true", help="only the second table")
    parser.add_argument("--groups", action="store_true", help="print the groups and blocks too")
    options = parser.parse_args()
    models = importlib.import_module(f"benchmarks.packages.{options.package}_models").models()
    models = {k: make for k, make in models.items() if options.only.lower() in k.lower()}
    if not models:
        parser.error(f"no model is called {options.only!r}")
    rows, ways = [_HEADER], [("model", "way", "leaves", "seconds", "result")]
    for name, make in models.items():
        model = make()
        found = checks.reading(model)
        params = filled(model.params, found.uses, model.quiet)
        if options.groups:
            print(f"\n{name}\n\n{found.uses}\n\n{found.deps}\n\n{found.deps.blocks}\n")
        if not options.skip_cuts:
            rows.append((name, *_cuts(model, found, params)))
            print(*rows[-1], sep="  ", flush=True)
        if not options.skip_data:
            for each in checks.pruning(model, params, found.uses, lambda way: options.ways in way):
                result = "; ".join(each.problems) or "exact, finite, as it came"
                ways.append((name, each.name, str(each.leaves), f"{each.seconds:.1f}", result))
                print(*ways[-1], sep="  ", flush=True)
        jax.clear_caches()
    for table in (rows, ways):
        if len(table) > 1:
            print("\n" + _table(table))


def _cuts(model: PackageModel, found: checks.Reading, params: Any) -> tuple[str, ...]:
    """The cells of the first table."""
    uses, deps = found.uses, found.deps
    wrong = checks.wrong_axes(uses, model.layout)
    for line in wrong:
        print(f"  axes: {line}")
    squares = "-"
    if model.squares is not None:
        stats = jp.calibrate(model.f, params, [model.inputs])
        seen = model.squares(params, *model.inputs)
        squares = f"{checks.worst_squares(stats, seen):.0e} ({len(seen)})"
    groups = [group for group in deps.groups if not group.refused]
    inexact = [group for group in groups if group.inexact]
    blocks = [block for block in deps.blocks if not block.refused]
    return (
        str(len(uses.leaves)),
        str(sum(uses.is_product(leaf.path) for leaf in uses.leaves)),
        f"{found.trace_seconds:.1f} s",
        f"{found.dependencies_seconds:.1f} s",
        f"{len(model.layout) - len(wrong)}/{len(model.layout)}",
        squares,
        str(len(groups) - len(inexact)),
        str(len(inexact)),
        str(len(deps.groups) - len(groups)),
        _width(model, deps, params) if len(inexact) < len(groups) else "-",
        str(sum(block.units for block in blocks)),
        _depth(model, deps, params) if blocks else "-",
    )


def _width(model: PackageModel, deps: jp.Dependencies, params: Any) -> str:
    cut = deps.choose(params, 0.25)
    return f"{checks.cut_difference(model, params, deps, cut):.0e}"


def _depth(model: PackageModel, deps: jp.Dependencies, params: Any) -> str:
    changes = deps.changes(params, [model.inputs])
    total = sum(map(len, changes.values()))
    if total < 2:
        cut = jp.Cut(dict.fromkeys(changes, ()))
    else:
        cut = deps.choose_blocks(changes, max(1, total // 4))
    return f"{checks.cut_difference(model, params, deps, cut):.0e}"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"\nin {time.perf_counter() - start:.0f} s")
