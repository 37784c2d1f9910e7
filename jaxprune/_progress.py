"""How long work shows its progress: to whom, is the caller's choice."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeAlias


class Bar(Protocol):
    """What shows progress: tqdm's bar, or nothing."""

    def update(self, n: float, /) -> object:
        """So many units more are done."""
        ...


Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Bar]]


class _Quiet:
    def update(self, n: float, /) -> None:
        """Shows nothing."""


def quiet(what: str, total: int | None) -> AbstractContextManager[Bar]:
    """The progress that nobody sees.

    Args:
        what: What is being done.
        total: To how many units; None if nobody knows.

    Returns:
        The bar.
    """
    del what, total
    return nullcontext(_Quiet())


def on_terminal(what: str, total: int | None, unit: str) -> AbstractContextManager[Bar]:
    """A bar with rate and time left on a terminal that has tqdm; elsewhere nothing is shown.

    Args:
        what: What is being done.
        total: To how many units; None if nobody knows.
        unit: Of what.

    Returns:
        The bar.
    """
    if not sys.stderr.isatty():
        return quiet(what, total)
    try:
        from tqdm import tqdm  # noqa: PLC0415  # of the extra `cli`
    except ImportError:
        return quiet(what, total)
    bar: AbstractContextManager[Bar] = tqdm(
        desc=what, total=total, unit=unit, unit_scale=True, leave=False
    )
    return bar
