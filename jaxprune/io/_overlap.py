"""Reads the next tensor and writes the last one while work on another goes on.

Reading and writing wait for the disk, and hashing, copying and NumPy's passes run outside of
Python's lock. So a reader, the caller and a writer keep a disk and two cores busy. Each has one
tensor at a time.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from jaxprune.io._checkpoint import Array, Tensor

# Below, handing a tensor to a thread costs more than it gains. Above, two more in memory are too
# many.
_LEAST, _MOST = 1 << 20, 1 << 28


def _pays(tensor: Tensor) -> bool:
    return _LEAST <= tensor.nbytes <= _MOST


@contextmanager
def reading_ahead(
    read: Callable[[Tensor], Array], tensors: Sequence[Tensor]
) -> Iterator[Callable[[Tensor], Array]]:
    """Yields `read` for tensors in this order, each of which is read while the last is in use."""
    following = dict(itertools.pairwise(tensors))
    with ThreadPoolExecutor(1) as thread:
        begun: dict[Tensor, Future[Array]] = {}

        def read_one(tensor: Tensor) -> Array:
            future = begun.pop(tensor, None)
            array = read(tensor) if future is None else future.result()
            after = following.get(tensor)
            if after is not None and _pays(after):
                begun[after] = thread.submit(read, after)
            return array

        yield read_one


@contextmanager
def writing_behind() -> Iterator[Callable[[Tensor, Callable[[], None]], None]]:
    """Yields `do(tensor, write)`, which calls `write` at once or while the caller goes on.

    Writes are done in the order in which they are given. What one raises is raised by the next
    `do`, or at the end.
    """
    with ThreadPoolExecutor(1) as thread:
        last: list[Future[None]] = []

        def finish() -> None:
            if last:
                last.pop().result()

        def do(tensor: Tensor, write: Callable[[], None]) -> None:
            finish()
            if _pays(tensor):
                last.append(thread.submit(write))
            else:
                write()

        yield do
        finish()
