"""Files in which tensors lie as plain bytes: read by place, and rewritten place by place.

Pruning changes values and no sizes. So a safetensors or msgpack file that was pruned is the old
file with other bytes in the places of some tensors, and what is not replaced is copied as it is:
the header, the metadata, the order, and whatever this package does not understand.
"""

import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self, TypeAlias

import numpy as np

from jaxprune.io._checkpoint import Array, CheckpointError, Tensor, raw_bytes, shaped

Span: TypeAlias = tuple[int, int]  # the first byte, and the one after the last

_CHUNK = 1 << 20
_SYNC_EVERY = 1 << 28
_PIECE = 1 << 20  # stays in the cache


class SpanFile:
    """A checkpoint whose tensors are spans of one file."""

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        spans: Mapping[Tensor, Sequence[Span]],
        *,
        metadata: Mapping[str, str] | None = None,
        others: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.files = [path]
        self.tensors = list(spans)
        self.metadata = metadata or {}
        self.others = others
        self.spans = spans
        self.file = file
        self._lock = threading.Lock()

    def read(self, tensor: Tensor) -> Array:
        """The values of `tensor`."""
        raw = np.empty(tensor.nbytes, np.uint8)
        filled = 0
        for start, stop in self.spans[tensor]:
            filled += self.read_at(start, raw.data[filled : filled + stop - start])
        if filled != tensor.nbytes:
            raise CheckpointError(
                f"{self.path}: {tensor.name!r} should hold {tensor.nbytes} bytes, and {filled} "
                "could be read: the file was cut while it was open."
            )
        return shaped(raw, tensor)

    def read_at(self, start: int, into: memoryview) -> int:
        """Fills `into` from a place of the file, and says how far there was something to read.

        The file keeps no position meanwhile, so that several threads may read.
        """
        filled = 0
        try:
            while filled < len(into):
                # One call reads at most 2 GiB on Linux.
                count = self._read_some(start + filled, into[filled : filled + (1 << 30)])
                if not count:
                    break
                filled += count
        except OSError as error:
            error.filename = str(self.path)  # or the output would be blamed
            raise
        return filled

    def _read_some(self, start: int, into: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.file.fileno(), [into], start)
        with self._lock:
            self.file.seek(start)
            return read_into(self.file, into)

    def checksum(self, tensor: Tensor) -> int:
        """The CRC-32 of the bytes of `tensor`, of which only a piece is in memory."""
        total, piece = 0, memoryview(bytearray(min(_PIECE, tensor.nbytes)))
        for start, stop in self.spans[tensor]:
            for at in range(start, stop, _PIECE):
                count = self.read_at(at, piece[: stop - at])
                total = zlib.crc32(piece[:count], total)
        return total

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


class SpanWriter:
    """Copies a `SpanFile`, with other bytes in the places of its tensors."""

    def __init__(self, path: Path, source: SpanFile) -> None:
        self._file = path.open("wb")
        self._source = source
        self._done = 0
        self._unsynced = 0

    def put(self, tensor: Tensor, array: Array) -> None:
        """Writes the tensor, and before it what stands between it and the last one."""
        values = raw_bytes(array)
        for start, stop in self._source.spans[tensor]:
            self._copy_until(start)
            self._file.write(values[: stop - start])
            values = values[stop - start :]
            self._done = stop
        self._unsynced += tensor.nbytes
        if self._unsynced >= _SYNC_EVERY:
            # While the next tensors are worked on, rather than all of it at the end.
            self._file.flush()
            getattr(os, "fdatasync", os.fsync)(self._file.fileno())
            self._unsynced = 0

    def _copy_until(self, stop: int | None) -> None:
        while stop is None or self._done < stop:
            left = _CHUNK if stop is None else min(_CHUNK, stop - self._done)
            chunk = memoryview(bytearray(left))
            count = self._source.read_at(self._done, chunk)
            if not count:
                break
            self._file.write(chunk[:count])
            self._done += count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        with self._file:
            if kind is None:
                self._copy_until(None)


class PlacedWriter:
    """Fills the places of tensors in a file that is laid out already."""

    def __init__(self, path: Path, spans: Mapping[Tensor, Sequence[Span]]) -> None:
        self._file = path.open("r+b")
        self._spans = spans

    def put(self, tensor: Tensor, array: Array) -> None:
        """Writes the tensor."""
        values = raw_bytes(array)
        for start, stop in self._spans[tensor]:
            self._file.seek(start)
            self._file.write(values[: stop - start])
            values = values[stop - start :]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def read_into(file: BinaryIO, into: memoryview) -> int:
    """Fills `into`, and says how far there was something to read."""
    filled = 0
    while filled < len(into):
        # One call reads at most 2 GiB on Linux.
        count = file.readinto(into[filled : filled + (1 << 30)])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return filled
