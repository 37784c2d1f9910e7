"""Shows what `with_data` saved: tables in Markdown, and a picture.

python -m benchmarks.proof.show_with_data text-with-data.json conv-with-data.json \\
    --picture docs/pictures/with-data.svg
"""

import numpy as np

from benchmarks.proof.show import INK, TITLES, cell, label, panels, show

# The colours of `show`, with a marker for each method besides.
_STYLES = {
    "magnitude": ("#999999", "x", "-"),
    "magnitude, per output": ("#999999", "+", ":"),
    "Wanda, at once": ("#E69F00", "^", ":"),
    "Wanda": ("#E69F00", "^", "-"),
    "magnitude, refitted": ("#56B4E9", "v", "-"),
    "SparseGPT, at once": ("#0072B2", "o", ":"),
    "SparseGPT": ("#0072B2", "o", "-"),
}
_PLACES = {"50 %": 0.0, "60 %": 1.0, "70 %": 2.0, "4:8": 3.2, "2:4": 4.2}
_PANELS = {"found": "pruned once", "tuned": "then fine-tuned"}


def _tables(results):
    return [_table(result, which) for result in results for which in _PANELS]


def _table(result, which):
    """A row for each method and a column for each sparsity."""
    found = {(row["method"], row["column"]): row[which] for row in result["rows"]}
    names = list(dict.fromkeys(row["method"] for row in result["rows"]))
    columns = [column for column in _PLACES if any(column == c for _, c in found)]
    digits = 1 if result["higher_is_better"] else 3
    lines = [["method", *columns], ["---"] * (len(columns) + 1)]
    for name in names:
        cells = [found.get((name, c), found.get((name, "dense"))) for c in columns]
        lines.append([name, *(cell(each, digits) for each in cells)])
    head = f"{result['model']}, {result['steps']} steps, {_PANELS[which]}: {result['unit']}"
    return f"{head}\n\n" + "\n".join(f"| {' | '.join(c)} |" for c in lines)


def _picture(results):
    """A row for each model: what pruning leaves, and what fine-tuning makes of it."""
    figure, grid = panels(len(results), 2, height=2.4 * len(results) + 0.9, sharex=True)
    for row, result in zip(grid, results, strict=True):
        for axes, which in zip(row, _PANELS, strict=True):
            _lines(axes, result, which)
            axes.set_title(f"{TITLES[result['model']]}: {_PANELS[which]}")
            axes.yaxis.set_inverted(not result["higher_is_better"])  # better is up in every panel
        row[0].set_ylabel(label(result))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _lines(axes, result, which):
    """A line over the sparsities and a mark at each pattern, with the spread of the seeds."""
    found = {(row["method"], row["column"]): row[which] for row in result["rows"]}
    dense = np.mean(found["dense", "dense"])
    axes.axhline(dense, color=INK, lw=1, ls="--", label="dense")
    for shift, (name, (color, marker, line)) in enumerate(_STYLES.items()):
        for i, columns in enumerate((("50 %", "60 %", "70 %"), ("4:8",), ("2:4",))):
            each = [found[name, column] for column in columns if (name, column) in found]
            if not each:
                continue
            # Side by side, so that methods that are equal can still be told apart.
            x = np.array([_PLACES[column] for column in columns]) + 0.06 * (shift - 3)
            mean, low, high = (f(each, axis=1) for f in (np.mean, np.min, np.max))
            axes.errorbar(
                x,
                mean,
                [mean - low, high - mean],
                color=color,
                marker=marker,
                ls=line,
                ms=4.5,
                lw=1.3,
                label=None if i else name,
            )
    axes.set_xticks(list(_PLACES.values()), list(_PLACES))
    axes.grid(axis="y", color=INK, alpha=0.25, lw=0.6)


if __name__ == "__main__":
    show(__doc__, _tables, _picture)
