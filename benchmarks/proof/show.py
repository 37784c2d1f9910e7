"""Shows what was saved: tables in Markdown, and a picture.

python -m benchmarks.proof.show mlp.json conv.json text.json --picture docs/results.svg \\
    --summary docs/pictures/accuracy.svg
"""

import argparse
import json
import pathlib

import numpy as np

TITLES = {"mlp": "MLP, digits", "conv": "ConvNet, digits", "text": "Transformer, text"}
_LABELS = {"% right": "% correct", "nats a character": "loss, nats a character"}  # of the axes
# Okabe and Ito's colours, which colour-blind readers can tell apart, and a marker besides.
_STYLES = {
    "one-shot": ("#999999", "x"),
    "fine-tuned": ("#56B4E9", "^"),
    "gradual": ("#0072B2", "o"),
    "gradual, global": ("#009E73", "v"),
    "SR-STE": ("#CC79A7", "D"),
    "lottery, early": ("#E69F00", "s"),
    "static": ("#999999", "x"),
    "SET": ("#56B4E9", "^"),
    "RigL": ("#D55E00", "s"),
    "AC/DC": ("#009E73", "D"),
}
_COLUMNS = {
    "from dense to sparse": (
        "one-shot",
        "fine-tuned",
        "lottery, early",
        "SR-STE",
        "gradual",
        "gradual, global",
    ),
    "sparse during training": ("static", "SET", "RigL", "AC/DC", "gradual"),
}
_SUMMARY = ("one-shot", "RigL", "gradual, global")
INK = "#7f7f7f"  # readable on white and on black
_WIDTH = 7.2  # inches; at the width of a page 9 points are then 12 pixels


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=pathlib.Path, nargs="+")
    parser.add_argument("--picture", type=pathlib.Path, help="every method; needs matplotlib")
    parser.add_argument("--summary", type=pathlib.Path, help="three methods on the digits")
    options = parser.parse_args()
    results = [json.loads(path.read_text()) for path in options.files]
    print("\n\n".join(map(_table, results)))
    first = {result["model"]: result for result in reversed(results)}  # of each model
    drawn = [first[model] for model in TITLES if model in first]
    for path, picture in ((options.picture, _picture), (options.summary, _summary)):
        if path:
            _save(picture(drawn), path)


def show(description, tables, picture):
    """The program of a study: prints its tables, and draws them where that is asked for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("files", type=pathlib.Path, nargs="+")
    parser.add_argument("--picture", type=pathlib.Path, help="needs matplotlib")
    options = parser.parse_args()
    results = [json.loads(path.read_text()) for path in options.files]
    print("\n\n".join(tables(results)))
    if options.picture:
        _save(picture(results), options.picture)


def _save(figure, path):
    figure.savefig(path, transparent=True, metadata={"Date": None})


def _table(result):
    """A row for each method and a column for each sparsity."""
    found = {(row["method"], row["sparsity"]): row["found"] for row in result["rows"]}
    names = list(dict.fromkeys(row["method"] for row in result["rows"]))
    columns = sorted({sparsity for _, sparsity in found if sparsity})
    digits = 1 if result["higher_is_better"] else 3
    lines = [["method", *(f"{100 * sparsity:.0f} %" for sparsity in columns)]]
    lines += [["---"] * len(lines[0])]
    for name in names:
        cells = [found.get((name, s), found.get((name, 0.0))) for s in columns]
        lines.append([name, *(cell(each, digits) for each in cells)])
    head = f"{result['model']}, {result['steps']} steps of {result['optimizer']}"
    return f"{head}: {result['unit']}\n\n" + "\n".join(f"| {' | '.join(c)} |" for c in lines)


def cell(found, digits):
    """The mean over seeds, and half the distance between the best and the worst."""
    if found is None:
        return ""
    return f"{np.mean(found):.{digits}f} ± {np.ptp(found) / 2:.{digits}f}"


def panels(*shape, height, **options):
    """A figure and its axes, in a style that is readable on a light and on a dark page."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "jaxprune", "font.size": 9, "text.color": INK}
        | {f"{name}.color": INK for name in ("xtick", "ytick")}
        | {"axes.labelcolor": INK, "axes.edgecolor": INK, "axes.titlecolor": INK}
        | {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10}
    )
    size = (_WIDTH, height)
    return plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained", **options)


def _picture(results):
    """Every method: a row for each model, a column for each family of methods."""
    figure, grid = panels(len(results), 2, height=2.1 * len(results) + 1.2, sharey="row")
    for row, result in zip(grid, results, strict=True):
        for axes, names in zip(row, _COLUMNS.values(), strict=True):
            _lines(axes, result, names)
            axes.set_title(TITLES[result["model"]])
        row[0].set_ylabel(label(result))
        # One-shot pruning falls too far to be drawn to scale with the rest: it leaves the panel.
        found = [
            np.mean(each["found"])
            for each in result["rows"]
            if each["method"] in ("dense", *_STYLES) and each["method"] != "one-shot"
        ]
        room = 0.08 * np.ptp(found)
        row[0].set_ylim(min(found) - room, max(found) + room)
        row[0].yaxis.set_inverted(not result["higher_is_better"])  # better is up in every panel
    for axes, title in zip(grid[0], _COLUMNS, strict=True):
        handles, labels = axes.get_legend_handles_labels()
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.12), "ncols": 3}
        spacing = {"columnspacing": 1.0, "handlelength": 1.8, "handletextpad": 0.5}
        axes.legend(handles, labels, title=title, frameon=False, **place, **spacing)
    for axes in grid[-1]:
        axes.set_xlabel("sparsity")
    return figure


def _summary(results):
    """Accuracy against sparsity for three methods, of the models that classify."""
    results = [result for result in results if result["higher_is_better"]]
    figure, (row,) = panels(1, len(results), height=2.7, sharey=True)
    for axes, result in zip(row, results, strict=True):
        _lines(axes, result, _SUMMARY)
        axes.set(title=TITLES[result["model"]], xlabel="sparsity", ylim=(0, 100))
    row[0].set_ylabel(label(results[0]))
    row[0].legend(frameon=False, loc="lower left")
    return figure


def label(result):
    return _LABELS.get(result["unit"], result["unit"])


def _lines(axes, result, names):
    """A line and a band for each method; sparsities are spaced by the logarithm of what is kept."""
    found = {(row["method"], row["sparsity"]): row["found"] for row in result["rows"]}
    sparsities = sorted({sparsity for _, sparsity in found if sparsity})
    places = [-np.log(1 - sparsity) for sparsity in sparsities]
    axes.axhline(np.mean(found["dense", 0.0]), color=INK, lw=1, ls="--", label="dense")
    for name in names:
        each = np.array([found[name, sparsity] for sparsity in sparsities])
        color, marker = _STYLES[name]
        axes.plot(places, each.mean(1), color=color, marker=marker, ms=4.5, lw=1.6, label=name)
        axes.fill_between(places, each.min(1), each.max(1), color=color, alpha=0.2, lw=0)
    axes.set_xticks(places, [f"{100 * sparsity:.0f} %" for sparsity in sparsities])
    axes.grid(axis="y", color=INK, alpha=0.25, lw=0.6)


if __name__ == "__main__":
    main()
