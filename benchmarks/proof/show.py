"""Shows what was saved: tables in Markdown, and a picture.

python -m benchmarks.proof.show mlp.json conv.json text.json --picture docs/results.svg
"""

import argparse
import json
import pathlib

import numpy as np

_TITLES = {"mlp": "MLP on digits", "conv": "ConvNet on digits", "text": "Transformer on text"}
# Okabe and Ito's colours, which everyone can tell apart, and a shape besides.
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
_ROWS = {
    "from dense to sparse": (
        "one-shot",
        "fine-tuned",
        "lottery, early",
        "SR-STE",
        "gradual",
        "gradual, global",
    ),
    "sparse from the start,\nor every now and then": ("static", "SET", "RigL", "AC/DC", "gradual"),
}
_INK = "#7f7f7f"  # can be read on white and on black


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=pathlib.Path, nargs="+")
    parser.add_argument(
        "--picture", type=pathlib.Path, help="of each model's first file; needs matplotlib"
    )
    options = parser.parse_args()
    results = [json.loads(path.read_text()) for path in options.files]
    print("\n\n".join(map(_table, results)))
    if options.picture:
        first = {result["model"]: result for result in reversed(results)}  # of each model
        drawn = [first[model] for model in _TITLES if model in first]
        _picture(drawn).savefig(options.picture, transparent=True, metadata={"Date": None})


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
        lines.append([name, *(_cell(cell, digits) for cell in cells)])
    head = f"{result['model']}, {result['steps']} steps of {result['optimizer']}"
    return f"{head}: {result['unit']}\n\n" + "\n".join(f"| {' | '.join(c)} |" for c in lines)


def _cell(found, digits):
    """The mean over seeds, and half the distance between the best and the worst."""
    if found is None:
        return ""
    return f"{np.mean(found):.{digits}f} ± {np.ptp(found) / 2:.{digits}f}"


def _picture(results):
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "jaxprune", "font.size": 9, "text.color": _INK}
        | {f"{name}.color": _INK for name in ("xtick", "ytick")}
        | {"axes.labelcolor": _INK, "axes.edgecolor": _INK, "axes.titlecolor": _INK}
        | {"axes.spines.top": False, "axes.spines.right": False}
    )
    size = (3.1 * len(results) + 1.6, 5.6)
    figure, grid = plt.subplots(
        2, len(results), figsize=size, sharex="col", sharey="col", squeeze=False, layout="tight"
    )
    for column, result in zip(grid.T, results, strict=True):
        column[0].set_title(_TITLES[result["model"]])
        column[1].set_xlabel("sparsity")
        for axes, names in zip(column, _ROWS.values(), strict=True):
            _panel(axes, result, names)
    for axes, title in zip(grid[:, -1], _ROWS, strict=True):
        handles, labels = axes.get_legend_handles_labels()
        place = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
        axes.legend(handles, labels, title=title, frameon=False, **place)
    return figure


def _panel(axes, result, names):
    """A line for each method over the sparsities, which lie by the logarithm of what is kept."""
    found = {(row["method"], row["sparsity"]): row["found"] for row in result["rows"]}
    sparsities = sorted({sparsity for _, sparsity in found if sparsity})
    places = [-np.log(1 - sparsity) for sparsity in sparsities]
    dense = np.mean(found["dense", 0.0])
    axes.axhline(dense, color=_INK, lw=1, ls="--", label="dense")
    for name in names:
        each = np.array([found[name, sparsity] for sparsity in sparsities])
        color, marker = _STYLES[name]
        axes.plot(places, each.mean(1), color=color, marker=marker, ms=4.5, lw=1.6, label=name)
        axes.fill_between(places, each.min(1), each.max(1), color=color, alpha=0.2, lw=0)
    axes.set_xticks(places, [f"{100 * sparsity:.0f} %" for sparsity in sparsities])
    axes.grid(axis="y", color=_INK, alpha=0.25, lw=0.6)
    axes.set_ylabel(result["unit"])
    # One-shot falls so deep that all else would be a line: it leaves the picture.
    rest = [np.mean(v) for (name, _), v in found.items() if name in _STYLES and name != "one-shot"]
    room = 0.08 * (max(rest) - min(rest))
    axes.set_ylim(min(*rest, dense) - room, max(*rest, dense) + room)
    axes.yaxis.set_inverted(not result["higher_is_better"])  # better is up in every panel


if __name__ == "__main__":
    main()
