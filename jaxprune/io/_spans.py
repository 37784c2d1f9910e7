"""Files in which tensors lie as plain bytes: read by place, and rewritten place by place.

Pruning changes values and no sizes. So a safetensors or msgpack file that was pruned is the old
file with other bytes in the places of some tensors, and what is not replaced is copied as it is:
the header, the metadata, the order, and whatever this package does not understand.
"""

import errno
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
_CHECK_EVERY = 1 << 27
# What the system is given at once, as by cp. It keeps larger pieces in larger pages, which it has
# to look for: a GiB in pieces of 1 MiB took 4.2 CPU-s to write, and in these 0.5.
_WRITE = 1 << 16
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
        self.read_all([tensor], raw)
        return shaped(raw, tensor)

    def read_all(self, tensors: Sequence[Tensor], into: Array) -> None:
        """Fills memory with the bytes of tensors, end to end; neighbours are read at once."""
        runs: list[tuple[int, int, Tensor]] = []
        for tensor in tensors:
            for start, stop in self.spans[tensor]:
                if runs and runs[-1][1] == start:
                    runs[-1] = runs[-1][0], stop, runs[-1][2]
                else:
                    runs.append((start, stop, tensor))
        at = 0
        for start, stop, tensor in runs:
            filled = self.read_at(start, into.data[at : at + stop - start])
            if filled < stop - start:
                raise CheckpointError(
                    f"{self.path}: {tensor.name!r} and what follows it should take {stop - start} "
                    f"bytes, and {filled} could be read: the file was cut while it was open."
                )
            at += filled

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
    """Copies a `SpanFile`, with other bytes in the places of its tensors, and checks the copy.

    What was written is synced and read back on the way, so that this goes on beside the work on
    what follows.
    """

    def __init__(self, path: Path, source: SpanFile) -> None:
        self._path = path
        self._file = path.open("w+b", buffering=0)
        self._source = source
        self._done = self._checked = 0
        self._sum = 0  # of what lies between these

    def put(self, tensor: Tensor, array: Array) -> None:
        """Writes the tensor, and before it what stands between it and the last one."""
        self.put_all([tensor], [array])

    def put_all(self, tensors: Sequence[Tensor], arrays: Sequence[Array]) -> None:
        """Writes tensors, and before each what stands between it and the last one."""
        pieces: list[memoryview | bytes] = []
        place = self._done
        for tensor, array in zip(tensors, arrays, strict=True):
            values = raw_bytes(array)
            for start, stop in self._source.spans[tensor]:
                if start != place:
                    self._write(pieces)
                    pieces = []
                    self._copy_until(start)
                pieces.append(values[: stop - start])
                values = values[stop - start :]
                place = stop
        self._write(pieces)

    def _write(self, pieces: Sequence[memoryview | bytes]) -> None:
        whole = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        self._sum = zlib.crc32(whole, self._sum)
        self._done += len(whole)
        while whole:
            whole = whole[self._file.write(whole[:_WRITE]) :]
        if self._done - self._checked >= _CHECK_EVERY:
            self._check()

    def _check(self) -> None:
        """Waits for the disk, and compares what can be read with what was to be written."""
        getattr(os, "fdatasync", os.fsync)(self._file.fileno())
        self._file.seek(self._checked)
        piece, checksum = memoryview(bytearray(_PIECE)), 0
        while count := self._file.readinto(piece):
            checksum = zlib.crc32(piece[:count], checksum)
            self._checked += count
        if (self._checked, checksum) != (self._done, self._sum):
            raise OSError(
                errno.EIO, "what was written reads back otherwise; check the disk", str(self._path)
            )
        self._sum = 0

    def _copy_until(self, stop: int | None) -> None:
        while stop is None or self._done < stop:
            left = _CHUNK if stop is None else min(_CHUNK, stop - self._done)
            chunk = memoryview(bytearray(left))
            count = self._source.read_at(self._done, chunk)
            if not count:
                break
            self._write([chunk[:count]])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        with self._file:
            if kind is None:
                self._copy_until(None)
                self._check()


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
