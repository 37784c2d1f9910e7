"""A progress bar for people at a terminal; and where long work notices signals."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jaxprune.cli._signals import signals
from jaxprune.io._progress import Bar, Progress, quiet


class _Checked:
    """A bar that raises for a signal between two tensors."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def update(self, n: float, /) -> None:
        """So many bytes more are done."""
        signals.check()
        self._bar.update(n)


@contextmanager
def progress(what: str, total: int) -> Iterator[Bar]:
    """A bar with rate and time left on a terminal that has tqdm; elsewhere nothing is shown.

    Args:
        what: What is being done.
        total: To how many bytes.

    Yields:
        The bar, whose updates raise `Stopped` if a signal has come.
    """
    signals.check()
    with _shown()(what, total) as bar:
        yield _Checked(bar)
    signals.check()


def _shown() -> Progress:
    if not sys.stderr.isatty():
        return quiet
    try:
        from tqdm import tqdm  # noqa: PLC0415  # of the extra `cli`
    except ImportError:
        return quiet
    return lambda what, total: tqdm(desc=what, total=total, unit="B", unit_scale=True, leave=False)
