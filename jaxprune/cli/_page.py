"""A report as one page of HTML that asks nothing of the network."""

import html
import importlib.resources
import math
import string
from collections.abc import Sequence
from typing import NamedTuple

from jaxprune._text import integer


class LeafView(NamedTuple):
    """What the page shows of one leaf.

    Attributes:
        path: Its path, or the name of its tensor; any text.
        shape: Its shape.
        dtype: Its dtype.
        total: How many weights it holds.
        zeros: How many of them are zero.
        pattern: The pattern that its zeros form, as `find_pattern` names it.
        histogram: How often values occur, in bars of one width from the lowest to the highest, and
            these two; None if it is not known.
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
    template = importlib.resources.files("jaxprune.cli").joinpath("_page.html")
    totals = [
        _total("Weights in scope", [leaf for leaf in leaves if leaf.where]),
        _total("All parameters", leaves),
    ]
    return string.Template(template.read_text("utf-8")).substitute(
        title=_escaped(title), totals="\n".join(totals), rows="\n".join(map(_row, leaves))
    )


def _total(name: str, leaves: Sequence[LeafView]) -> str:
    zeros, total = sum(leaf.zeros for leaf in leaves), sum(leaf.total for leaf in leaves)
    return (
        f"<div><dt>{name}</dt><dd><b>{_percent(zeros, total)}</b>zero: {integer(zeros)} of "
        f"{integer(total)} weights, in {integer(len(leaves))} leaves</dd></div>"
    )


def _row(leaf: LeafView) -> str:
    part = leaf.zeros / leaf.total if leaf.total else 0.0
    cells = [
        f'<th scope="row">{_escaped(leaf.path or "(array)").replace("/", "/<wbr>")}</th>',
        f"<td>{'×'.join(map(str, leaf.shape)) or '()'}</td>",
        f"<td>{_escaped(leaf.dtype)}</td>",
        _number(leaf.total, "weights"),
        _number(leaf.zeros, "zeros"),
        f'<td class="wide" data-value="{part}"><div class="bar"><i style="--part:{part:.2%}"></i>'
        f"<span>{_percent(leaf.zeros, leaf.total)}</span></div></td>",
        f"<td>{_escaped(leaf.pattern)}{'' if leaf.where else ', out of scope'}</td>",
        f"<td>{_drawing(leaf.histogram)}</td>",
    ]
    opening = "<tr>" if leaf.where else '<tr class="out">'
    return f"{opening}{''.join(cells)}</tr>"


def _number(value: int, unit: str) -> str:
    return f'<td class="n" data-value="{value}" data-unit="{unit}">{integer(value)}</td>'


def _percent(zeros: int, total: int) -> str:
    return f"{zeros / total:.2%}" if total else "–"


def _drawing(histogram: tuple[tuple[int, ...], float, float] | None) -> str:
    """A histogram as one outline in a box of as many units across as it has bars, and 20 high."""
    if histogram is None or not any(histogram[0]):
        return ""
    counts, low, high = histogram
    most = max(counts)
    # From the floor up: each bar is a height to go to, and one step across.
    steps = "".join(f"V{20 - round(20 * math.sqrt(count / most), 1):g}h1" for count in counts)
    ends = f"<small><span>{low:.3g}</span><span>{high:.3g}</span></small>"
    return (
        f'<svg viewBox="0 0 {len(counts)} 20" preserveAspectRatio="none" role="img" '
        f'aria-label="Histogram from {low:.3g} to {high:.3g}"><path d="M0 20{steps}V20"/></svg>'
        f"{ends}"
    )


def _escaped(text: str) -> str:
    """`text` as HTML; what no document may hold becomes a replacement character."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    printable = "".join(
        "\N{REPLACEMENT CHARACTER}" if char < " " or "\x7f" <= char <= "\x9f" else char
        for char in whole
    )
    return html.escape(printable)
