"""A progress bar for people at a terminal."""

import sys
from contextlib import AbstractContextManager

from jaxprune.io._progress import Bar, quiet


def progress(what: str, total: int) -> AbstractContextManager[Bar]:
    """A bar with rate and time left on a terminal that has tqdm; elsewhere nothing.

    Args:
        what: What is being done.
        total: To how many bytes.

    Returns:
        The bar.
    """
    if not sys.stderr.isatty():
        return quiet(what, total)
    try:
        from tqdm import tqdm  # noqa: PLC0415  # of the extra `cli`
    except ImportError:
        return quiet(what, total)
    return tqdm(desc=what, total=total, unit="B", unit_scale=True, leave=False)
