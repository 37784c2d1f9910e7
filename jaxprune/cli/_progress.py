"""A progress bar for people at a terminal; and where long work notices signals."""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxprune._progress import Bar, on_terminal
from jaxprune.cli._signals import signals


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
    with on_terminal(what, total, "B") as bar:
        yield _Checked(bar)
    signals.check()
