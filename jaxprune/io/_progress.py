"""How long work shows its progress: to whom, is the caller's choice."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeAlias


class Bar(Protocol):
    """What shows progress: tqdm's bar, or nothing."""

    def update(self, n: float, /) -> object:
        """So many bytes more are done."""
        ...


Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Bar]]


class _Quiet:
    def update(self, n: float, /) -> None:
        """Shows nothing."""


def quiet(what: str, total: int) -> AbstractContextManager[Bar]:
    """The progress that nobody sees.

    Args:
        what: What is being done.
        total: To how many bytes.

    Returns:
        The bar.
    """
    del what, total
    return nullcontext(_Quiet())
