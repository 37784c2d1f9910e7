"""Tensors that are read, worked on and written together.

A file may have many thousands of small tensors, and a call of the system or of NumPy for each takes
far longer than its bytes do. So neighbours are read at once, and those among them that are alike,
in shape and dtype and in what is done to them, are worked on as one array with an axis more.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxprune.io._checkpoint import Array, Checkpoint, Tensor, shaped
from jaxprune.io._sharded import ShardedFile
from jaxprune.io._spans import SpanFile

_TOGETHER = 1 << 21  # bytes; a tensor of more is a batch of its own


class Batch(NamedTuple):
    """Neighbours in a checkpoint.

    Attributes:
        tensors: The tensors, in the checkpoint's order.
        nbytes: What they take together.
    """

    tensors: list[Tensor]
    nbytes: int


class Loaded(NamedTuple):
    """A batch that was read.

    Attributes:
        tensors: The tensors.
        arrays: Their values.
        block: The memory in which these lie, to be used again; empty if they have their own.
    """

    tensors: list[Tensor]
    arrays: list[Array]
    block: Array


def batches(tensors: Sequence[Tensor]) -> list[Batch]:
    """Tensors in batches of at most 2 MiB, or of one tensor.

    Args:
        tensors: The tensors of a checkpoint, in its order.

    Returns:
        The batches.
    """
    groups: list[Batch] = []
    some: list[Tensor] = []
    total = 0
    for tensor in tensors:
        if some and total + tensor.nbytes > _TOGETHER:
            groups.append(Batch(some, total))
            some, total = [], 0
        some.append(tensor)
        total += tensor.nbytes
    return [*groups, Batch(some, total)] if some else groups


def alike(keys: Sequence[Hashable]) -> Iterator[list[int]]:
    """The places of equal keys, key by key."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return iter(groups.values())


class Memory:
    """Blocks of memory that are used again.

    The first use of a page costs the system far more than reading a page of a file into it does.
    """

    def __init__(self) -> None:
        self._free: list[Array] = []

    def take(self, nbytes: int) -> Array:
        """A block of at least so many bytes; a new one in place of one that is too small."""
        sizes = [len(block) for block in self._free]
        # Meanwhile another thread may give blocks, which come last.
        block = self._free.pop(sizes.index(max(sizes))) if sizes else _NOTHING
        return block if len(block) >= nbytes else np.empty(nbytes, np.uint8)

    def give(self, block: Array) -> None:
        """Takes back a block that nothing reads any more."""
        if len(block):
            self._free.append(block)


_NOTHING: Array = np.empty(0, np.uint8)


class Reader:
    """Reads batches of a checkpoint into memory that is used again."""

    def __init__(self, source: Checkpoint) -> None:
        self._source = source
        self._memory = Memory()

    def read(self, batch: Batch) -> Loaded:
        """The values of a batch; they last until it is done with."""
        if not isinstance(self._source, SpanFile | ShardedFile):
            arrays = [self._source.read(tensor) for tensor in batch.tensors]
            return Loaded(batch.tensors, arrays, _NOTHING)
        block = self._memory.take(batch.nbytes)
        self._source.read_all(batch.tensors, block)
        arrays, at = [], 0
        for tensor in batch.tensors:
            arrays.append(shaped(block[at : at + tensor.nbytes], tensor))
            at += tensor.nbytes
        return Loaded(batch.tensors, arrays, block)

    def done(self, loaded: Loaded) -> None:
        """Has the memory of a batch used again."""
        self._memory.give(loaded.block)
