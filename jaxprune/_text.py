"""How values, tables and numbers are written, in messages and on paper."""

from collections.abc import Sequence
from typing import Any


def shown(value: Any) -> str:
    """`value` for an error message: its repr, cut where it would drown the words around it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lays out `rows` below `header`, columns separated by two spaces.

    Args:
        header: One name a column.
        rows: The cells; a row of no cells is a rule across the table.
        left: How many columns, from the first on, are set flush left; the last is too, numbers go
            right.

    Returns:
        The lines, without trailing spaces.
    """
    filled = [row for row in rows if row]
    widths = [max(map(len, column)) for column in zip(header, *filled, strict=True)]
    last = len(widths) - 1

    def line(cells: Sequence[str]) -> str:
        if not cells:
            return "-" * (sum(widths) + 2 * last)
        set_cells = [
            cell.ljust(width) if i < left or i == last else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(set_cells).rstrip()

    return "\n".join(map(line, [header, (), *rows]))


def integer(value: int) -> str:
    """`value` with its thousands set apart."""
    return f"{value:,}"
