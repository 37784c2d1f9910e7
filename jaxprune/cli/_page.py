"""Reports and comparisons as pages of HTML that ask nothing of the network."""

import html
import importlib.resources
import itertools
import math
import re
import string
from collections.abc import Sequence
from typing import NamedTuple

from jaxprune._text import integer
from jaxprune.io import Overlap


class LeafView(NamedTuple):
    """What the page shows of one leaf.

    Attributes:
        path: Its path, or the name of its tensor; any text.
        shape: Its shape.
        dtype: Its dtype.
        total: How many weights it holds.
        zeros: How many of them are zero.
        pattern: The pattern that its zeros form, as `find_pattern` names it.
        histogram: How often values that are not zero occur, in bars of one width from the lowest to
            the highest, and these two; None if it is not known.
        where: Whether it is in scope of pruning.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    total: int
    zeros: int
    pattern: str
    histogram: tuple[tuple[int, ...], float, float] | None
    where: bool


def page(title: str, leaves: Sequence[LeafView]) -> str:
    """Renders leaves as a page to be looked at: sorted and searched, on a phone as well.

    Args:
        title: What the page is about.
        leaves: One row each, in this order until a reader sorts them.

    Returns:
        A whole document, its styles and its script included; save it as UTF-8.

    Examples:
        >>> leaf = LeafView("kernel", (4, 8), "float32", 32, 16, "2:4 along axis -1", None, True)
        >>> "16 of 32 weights" in page("A model", [leaf])
        True
    """
    totals = [
        _total("Weights in scope", [leaf for leaf in leaves if leaf.where]),
        _total("All parameters", leaves),
    ]
    rows = []
    for block, members in itertools.groupby(leaves, lambda leaf: block_of(leaf.path)):
        some = list(members)
        inside = bool(block) and len(some) > 1
        if inside:
            zeros, total = sum(leaf.zeros for leaf in some), sum(leaf.total for leaf in some)
            rows.append(_block(block, f"{len(some)} leaves, {_percent(zeros, total)} zero", 8))
        rows += [_row(leaf, inside) for leaf in some]
    bars = [(leaf.path, leaf.zeros, leaf.total) for leaf in leaves if leaf.where and leaf.total]
    return _document(
        title, totals=totals, chart=_chart(bars), head=_LEAF_HEAD, rows=rows, note=_LEAF_NOTE
    )


def comparison_page(title: str, rows: Sequence[tuple[str, Overlap]], remarks: Sequence[str]) -> str:
    """Renders a comparison of two checkpoints, side by side.

    Args:
        title: What is compared.
        rows: The tensors that both have, by path.
        remarks: What else differs, a line each.

    Returns:
        A whole document; save it as UTF-8.

    Examples:
        >>> "IoU" in comparison_page("a and b", [("kernel", Overlap(4, 1, 1, 0))], [])
        True
    """
    every = sum((row for _, row in rows), Overlap())
    totals = [
        _box("Zero in A", _percent(every.total - every.both - every.only_a, every.total)),
        _box("Zero in B", _percent(every.total - every.both - every.only_b, every.total)),
        _box("IoU of what is not zero", f"{every.iou:.4f}"),
        _box("Drift of weights in both", f"{every.drift:.4g}"),
    ]
    lines = []
    for block, members in itertools.groupby(rows, lambda row: block_of(row[0])):
        some = list(members)
        inside = bool(block) and len(some) > 1
        if inside:
            overlap = sum((row for _, row in some), Overlap())
            lines.append(_block(block, f"{len(some)} tensors, IoU {overlap.iou:.4f}", 9))
        lines += [_overlap(path, row, inside) for path, row in some]
    remarked = "".join(f"<li>{_escaped(remark)}</li>" for remark in remarks)
    return _document(
        title,
        totals=totals,
        chart=f"<ul>{remarked}</ul>" if remarks else "",
        head=_PAIR_HEAD,
        rows=lines,
        note=_PAIR_NOTE,
    )


def in_natural_order(path: str) -> list[tuple[int, int, str]]:
    """A key that sorts 2 before 10.

    Examples:
        >>> sorted(["layer.10", "layer.2"], key=in_natural_order)
        ['layer.2', 'layer.10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", path)
    # Numbers before texts; of the longest only so many digits, for Python counts slowly in them.
    return [(0, int(p[:4000]), p) if p[0] in "0123456789" else (1, 0, p) for p in parts]


def block_of(path: str) -> str:
    """The block of a model that a leaf belongs to: its path up to the first part with a number.

    Examples:
        >>> block_of("model.layers.11.mlp.up_proj.weight"), block_of("lm_head.weight")
        ('model.layers.11', '')
    """
    prefix = re.match(r"(?:[^./0-9]+[./])*[^./]*[0-9]+(?=[./])", path)
    return prefix[0] if prefix else ""


def _document(
    title: str,
    *,
    totals: Sequence[str],
    chart: str,
    head: str,
    rows: Sequence[str],
    note: str,
) -> str:
    template = importlib.resources.files("jaxprune.cli").joinpath("_page.html")
    return string.Template(template.read_text("utf-8")).substitute(
        title=_escaped(title),
        totals="\n".join(totals),
        chart=chart,
        head=head,
        rows="\n".join(rows),
        note=note,
    )


_LEAF_HEAD = (
    '<th scope="col">Leaf</th><th scope="col">Shape</th><th scope="col">Type</th>'
    '<th scope="col" class="n">Weights</th><th scope="col" class="n">Zeros</th>'
    '<th scope="col" class="wide">Sparsity</th><th scope="col">Pattern</th>'
    '<th scope="col" class="drawing">Values</th>'
)
_LEAF_NOTE = (
    "Values: the bar on the left is the share of zeros. Beside it, how often other values occur, "
    "from the lowest to the highest; a height is the square root of its count. Leaves in grey are "
    "out of scope."
)
_PAIR_HEAD = (
    '<th scope="col">Tensor</th><th scope="col" class="n">Weights</th>'
    '<th scope="col" class="wide">Zero in A</th><th scope="col" class="wide">Zero in B</th>'
    '<th scope="col" class="n">Only A</th><th scope="col" class="n">Only B</th>'
    '<th scope="col" class="n">IoU</th><th scope="col" class="n">Drift</th>'
    '<th scope="col" class="n">Furthest</th>'
)
_PAIR_NOTE = (
    "Only A, only B: weights that are not zero there alone. IoU: intersection over union of what "
    "is not zero. Drift: |B - A| / |A| of the weights that are zero in neither; furthest: the "
    "largest difference among them."
)


def _total(name: str, leaves: Sequence[LeafView]) -> str:
    zeros, total = sum(leaf.zeros for leaf in leaves), sum(leaf.total for leaf in leaves)
    return _box(
        name,
        _percent(zeros, total),
        f"zero: {integer(zeros)} of {integer(total)} weights, in {integer(len(leaves))} leaves",
    )


def _box(name: str, value: str, more: str = "") -> str:
    return f"<div><dt>{name}</dt><dd><b>{value}</b>{more}</dd></div>"


def _block(name: str, summary: str, columns: int) -> str:
    """The row above the rows of a block."""
    return (
        f'<tr class="block"><th scope="rowgroup" colspan="{columns}">{_named(name)}'
        f"<small>{summary}</small></th></tr>"
    )


_MOST_BARS = 240


def _chart(leaves: Sequence[tuple[str, int, int]]) -> str:
    """Sparsity by layer: a bar each, and beyond some hundreds a bar for so many neighbours."""
    if len(leaves) < 2:
        return ""
    step = -(-len(leaves) // _MOST_BARS)
    bars = []
    for i, at in enumerate(range(0, len(leaves), step)):
        some = leaves[at : at + step]
        zeros, total = (sum(column) for column in list(zip(*some, strict=True))[1:])
        name = some[0][0] if len(some) == 1 else f"{some[0][0]} to {some[-1][0]}"
        high = 100 * zeros / total
        bars.append(
            f'<rect x="{i + 0.1:g}" y="{100 - high:.4g}" width="0.8" height="{high:.4g}">'
            f"<title>{_escaped(name or '(array)')}: {_percent(zeros, total)}</title></rect>"
        )
    return (
        "<figure><figcaption>Sparsity by layer, from 0 to 100 %, in the order of names</figcaption>"
        f'<svg class="chart" viewBox="0 0 {len(bars)} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="Sparsity of {integer(len(leaves))} leaves in scope, from 0 to 100 percent">'
        f"{''.join(bars)}</svg></figure>"
    )


def _overlap(path: str, row: Overlap, inside: bool) -> str:
    cells = [
        f'<th scope="row">{_named(path)}</th>',
        _number(row.total, "weights"),
        _bar(row.total - row.both - row.only_a, row.total, "zero in A"),
        _bar(row.total - row.both - row.only_b, row.total, "zero in B"),
        _number(row.only_a, "only in A"),
        _number(row.only_b, "only in B"),
        _measure(row.iou, f"{row.iou:.4f}", "IoU"),
        _measure(row.drift, f"{row.drift:.4g}", "drift"),
        _measure(row.furthest, f"{row.furthest:.4g}", "furthest"),
    ]
    return f"{_opening(inside)}{''.join(cells)}</tr>"


def _opening(inside: bool, kind: str = "") -> str:
    """The tag of a row, and whether it belongs to the block above."""
    return f"<tr{kind}{' data-block' if inside else ''}>"


def _measure(value: float, text: str, unit: str) -> str:
    return f'<td class="n" data-value="{value!r}" data-unit="{unit}">{text}</td>'


def _bar(zeros: int, total: int, label: str = "") -> str:
    part = zeros / total if total else 0.0
    mark = f' data-label="{label}"' if label else ""
    return (
        f'<td class="wide" data-value="{part}"><div class="bar"{mark}>'
        f'<i style="--part:{part:.2%}"></i><span>{_percent(zeros, total)}</span></div></td>'
    )


def _named(path: str) -> str:
    """A path that may be broken between its parts."""
    return re.sub(r"([./])", r"\1<wbr>", _escaped(path or "(array)"))


def _row(leaf: LeafView, inside: bool) -> str:
    cells = [
        f'<th scope="row">{_named(leaf.path)}</th>',
        f"<td>{'×'.join(map(str, leaf.shape)) or '()'}</td>",
        f"<td>{_escaped(leaf.dtype)}</td>",
        _number(leaf.total, "weights"),
        _number(leaf.zeros, "zeros"),
        _bar(leaf.zeros, leaf.total),
        f"<td>{_escaped(leaf.pattern)}{'' if leaf.where else ', out of scope'}</td>",
        f'<td class="drawing">{_drawing(leaf)}</td>',
    ]
    kind = "" if leaf.where else ' class="out"'
    return f"{_opening(inside, kind)}{''.join(cells)}</tr>"


def _number(value: int, unit: str) -> str:
    return f'<td class="n" data-value="{value}" data-unit="{unit}">{integer(value)}</td>'


def _percent(zeros: int, total: int) -> str:
    return f"{zeros / total:.2%}" if total else "–"


_BAR = 6  # as wide as so many bars of the histogram, and a gap


def _drawing(leaf: LeafView) -> str:
    """The share of zeros as a bar, and beside it a histogram of the other values, as one outline.

    The box is as many units across as the two have bars, and 20 high. Zeros apart: as a bar of the
    histogram, those of a pruned leaf would leave nothing of the others to be seen.
    """
    if leaf.histogram is None or not any(leaf.histogram[0]):
        return ""
    counts, low, high = leaf.histogram
    most = max(counts)
    part = leaf.zeros / leaf.total if leaf.total else 0.0
    # From the floor up: each bar is a height to go to, and one step across.
    steps = "".join(f"V{20 - round(20 * math.sqrt(count / most), 1):g}h1" for count in counts)
    ends = f"<small><span>{low:.3g}</span><span>{high:.3g}</span></small>"
    return (
        f'<svg viewBox="0 0 {len(counts) + _BAR} 20" preserveAspectRatio="none" role="img" '
        f'aria-label="{part:.0%} zeros; the others from {low:.3g} to {high:.3g}">'
        f'<rect y="{20 - 20 * part:.4g}" width="{_BAR - 2}" height="{20 * part:.4g}"/>'
        f'<path d="M{_BAR} 20{steps}V20"/></svg>{ends}'
    )


def _escaped(text: str) -> str:
    """`text` as HTML; what no document may hold becomes a replacement character."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    printable = "".join(
        "\N{REPLACEMENT CHARACTER}" if char < " " or "\x7f" <= char <= "\x9f" else char
        for char in whole
    )
    return html.escape(printable)
