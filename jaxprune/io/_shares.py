"""How many weights each tensor of a file gives to a budget that it shares with others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxprune._kernels.host import all_keys, key_pieces
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.shares import find_shares
from jaxprune._progress import Bar, Progress
from jaxprune.io._batches import Batch, Reader, alike, batches
from jaxprune.io._checkpoint import Array, Checkpoint, Tensor

# Stacked tensors are read once more than others, whose counts by digit are kept in memory.
_MANY = 8


@dataclass(frozen=True, slots=True)
class Pool:
    """Tensors that share a budget.

    Attributes:
        source: The checkpoint.
        tensors: The tensors, in its order.
        count: How many weights go: at least 1.
        held: How many each tensor keeps at the least.
        dtype: In which all scores are compared.
        ranked: How the values of a tensor rank.
        stacks: Whether tensors of one shape may be ranked as one array with an axis more.
    """

    source: Checkpoint
    tensors: Sequence[Tensor]
    count: int
    held: int
    dtype: np.dtype
    ranked: Callable[[Tensor, Array], Ranked]
    stacks: bool


def shares_of(pool: Pool, progress: Progress) -> dict[Tensor, int]:
    """Finds how many weights each tensor of a pool gives.

    Args:
        pool: The tensors and their budget.
        progress: Makes a progress bar of a label and a number of bytes.

    Returns:
        How many of each go.
    """
    alone, stacked = _divided(pool)
    passes = 8 * pool.dtype.itemsize // 16
    nbytes = sum(tensor.nbytes for tensor in pool.tensors)
    again = sum(batch.nbytes for batch in stacked)
    with progress("counting", passes * nbytes + again) as bar:
        reading = _Reading(pool, Reader(pool.source), bar)
        return find_shares(
            alone,
            reading.pieces,
            pool.count,
            held=pool.held,
            width=8 * pool.dtype.itemsize,
            order=sorted(pool.tensors, key=_in_order),  # as JAX sorts a dict
            stacks=lambda: map(reading.stack, stacked),
        )


def _divided(pool: Pool) -> tuple[list[Tensor], list[Batch]]:
    """The tensors that are read one by one, and batches of those that are alike."""
    if not pool.stacks:
        return list(pool.tensors), []
    alone: list[Tensor] = []
    stacked: list[Batch] = []
    for batch in batches(pool.tensors):
        for places in alike([(tensor.dtype, tensor.shape) for tensor in batch.tensors]):
            some = [batch.tensors[i] for i in places]
            if len(some) < _MANY:
                alone += some
            else:
                stacked.append(Batch(some, sum(tensor.nbytes for tensor in some)))
    return alone, stacked


class _Reading:
    """Makes the keys of tensors, and moves the bar."""

    def __init__(self, pool: Pool, reader: Reader, bar: Bar) -> None:
        self._pool, self._reader, self._bar = pool, reader, bar

    def pieces(self, tensor: Tensor) -> Iterator[Array]:
        """The keys of one tensor, piece by piece."""
        loaded = self._reader.read(Batch([tensor], tensor.nbytes))
        yield from key_pieces(self._pool.ranked(tensor, loaded.arrays[0]))
        self._reader.done(loaded)
        self._bar.update(tensor.nbytes)

    def stack(self, batch: Batch) -> tuple[list[Tensor], Array]:
        """Alike tensors, and their keys: one row a tensor."""
        loaded = self._reader.read(batch)
        leaf = self._pool.ranked(batch.tensors[0], np.stack(loaded.arrays))
        order = all_keys(leaf).reshape(len(batch.tensors), -1)
        self._reader.done(loaded)
        self._bar.update(batch.nbytes)
        return batch.tensors, order


def _in_order(tensor: Tensor) -> tuple[tuple[bool, str | int], ...]:
    # msgpack may have numbers and names side by side, which Python does not compare.
    return tuple((isinstance(key, str), key) for key in tensor.keys)
