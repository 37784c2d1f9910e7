"""Shows how far long work is: with tqdm on a terminal that has it, elsewhere not at all."""

import sys
from contextlib import AbstractContextManager

from jaxprune.io._progress import Bar, quiet


def shown(what: str, total: int | None, unit: str) -> AbstractContextManager[Bar]:
    """A bar on a terminal.

    Args:
        what: What is being done.
        total: To how many units; None if nobody knows.
        unit: Of what.
    """
    if not sys.stderr.isatty():
        return quiet(what, total or 0)
    try:
        from tqdm import tqdm  # noqa: PLC0415  # of the extra `cli`
    except ImportError:
        return quiet(what, total or 0)
    bar: AbstractContextManager[Bar] = tqdm(
        desc=what, total=total, unit=unit, unit_scale=True, leave=False
    )
    return bar
