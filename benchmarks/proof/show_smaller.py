"""Shows what `smaller` saved: tables in Markdown, and a picture.

python -m benchmarks.proof.show_smaller conv-smaller.json text-smaller.json \\
    --picture docs/pictures/smaller.svg
"""

import numpy as np

from benchmarks.proof.show import INK, TITLES, cell, label, panels, show

# The colours of `show`, with a marker for each method besides.
_STYLES = {
    "one-shot": ("#999999", "x", ":"),
    "fine-tuned": ("#56B4E9", "^", "-"),
    "trained into the cut": ("#0072B2", "o", "-"),
    "small from the start": ("#D55E00", "s", "--"),
}


def _tables(results):
    return [_table(result) for result in results]


def _table(result):
    """A row for each method and a column for each size."""
    rows = {(row["method"], row["left"]): row for row in result["rows"]}
    sizes = {row["left"]: row for row in reversed(result["rows"]) if row["left"] < 1}
    columns = sorted(sizes, reverse=True)
    digits = 1 if result["higher_is_better"] else 3
    lines = [["method", "100 %", *(f"{100 * left:.0f} %" for left in columns)]]
    lines += [["---"] * len(lines[0])]
    for share in ("multiply_adds", "weights"):
        words = share.replace("_", "-")
        shares = [f"{100 * sizes[left][share]:.1f} %" for left in columns]
        lines.append([f"{words}, exactly", "100 %", *shares])
    for name in dict.fromkeys(name for name, _ in rows):
        cells = [rows.get((name, left), {}).get("found") for left in (1.0, *columns)]
        lines.append([name, *(cell(each, digits) for each in cells)])
    head = f"{result['model']}, {result['steps']} updates: {result['unit']}"
    changed = [
        abs(a - b)
        for row in result["rows"]
        for a, b in zip(row["found"], row.get("masked", []), strict=False)
    ]
    foot = f"By the cut, what was trained into it changes by {max(changed, default=0):.4f} at most."
    return f"{head}\n\n" + "\n".join(f"| {' | '.join(c)} |" for c in lines) + f"\n\n{foot}"


def _picture(results):
    """A panel for each model: what is right, or lost, against the multiply-adds that are left."""
    figure, (row,) = panels(1, len(results), height=3.1)
    for axes, result in zip(row, results, strict=True):
        _lines(axes, result)
        axes.set(title=TITLES[result["model"]], xlabel="multiply-adds left", ylabel=label(result))
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _lines(axes, result):
    """A line for each method, with the spread of the seeds; one-shot leaves the panel."""
    dense = next(row["found"] for row in result["rows"] if row["method"] == "dense")
    axes.axhline(np.mean(dense), color=INK, lw=1, ls="--", label="dense")
    shown = list(dense)
    for i, (name, (color, marker, line)) in enumerate(_STYLES.items()):
        rows = [row for row in result["rows"] if row["method"] == name]
        rows.sort(key=lambda row: -row["left"])
        # All have the same multiply-adds: side by side, methods that are equal can be told apart.
        places = [1.0, *(row["multiply_adds"] + 0.012 * (1.5 - i) for row in rows)]
        found = [dense, *(row["found"] for row in rows)]
        mean, low, high = (np.array([f(each) for each in found]) for f in (np.mean, min, max))
        spread = [mean - low, high - mean]
        style = {"color": color, "marker": marker, "ls": line, "ms": 4.5, "lw": 1.4}
        axes.errorbar(places, mean, spread, label=name, **style)
        if name != "one-shot":
            shown += [value for each in found for value in each]
    room = 0.08 * np.ptp(shown)
    axes.set_ylim(min(shown) - room, max(shown) + room)
    axes.yaxis.set_inverted(not result["higher_is_better"])  # better is up in every panel
    axes.xaxis.set_inverted(True)
    axes.set_xticks([1.0, 0.75, 0.5, 0.25], ["100 %", "75 %", "50 %", "25 %"])
    axes.grid(axis="y", color=INK, alpha=0.25, lw=0.6)


if __name__ == "__main__":
    show(__doc__, _tables, _picture)
