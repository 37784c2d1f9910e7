"""Reads the next batch and writes the last one while work on another goes on.

Reading and writing wait for the disk, and hashing, copying and NumPy's passes run outside of
Python's lock. So a reader, the caller and a writer keep a disk and two cores busy. Each has one
batch at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from jaxprune.io._batches import Batch

# Below, handing a batch to a thread costs more than it gains. Above, two more in memory are too
# many.
_LEAST, _MOST = 1 << 20, 1 << 28

_T = TypeVar("_T")


def _pays(batch: Batch) -> bool:
    return _LEAST <= batch.nbytes <= _MOST


@contextmanager
def reading_ahead(
    read: Callable[[Batch], _T], batches: Sequence[Batch]
) -> Iterator[Iterator[tuple[Batch, _T]]]:
    """Yields batches and what was read of each: while one is in use, the next is read."""
    with ThreadPoolExecutor(1) as thread:

        def each() -> Iterator[tuple[Batch, _T]]:
            begun: Future[_T] | None = None
            for i, batch in enumerate(batches):
                content = read(batch) if begun is None else begun.result()
                ahead = i + 1 < len(batches) and _pays(batches[i + 1])
                begun = thread.submit(read, batches[i + 1]) if ahead else None
                yield batch, content

        yield each()


@contextmanager
def writing_behind() -> Iterator[Callable[[Batch, Callable[[], None]], None]]:
    """Yields `do(batch, write)`, which calls `write` at once or while the caller goes on.

    Writes are done in the order in which they are given. What one raises is raised by the next
    `do`, or at the end.
    """
    with ThreadPoolExecutor(1) as thread:
        last: list[Future[None]] = []

        def finish() -> None:
            if last:
                last.pop().result()

        def do(batch: Batch, write: Callable[[], None]) -> None:
            finish()
            if _pays(batch):
                last.append(thread.submit(write))
            else:
                write()

        yield do
        finish()
