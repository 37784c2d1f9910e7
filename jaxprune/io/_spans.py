"""Files in which tensors lie as plain bytes: read by place, and rewritten place by place.

Pruning changes values and no sizes. So a safetensors or msgpack file that was pruned is the old
file with other bytes in the places of some tensors, and what is not replaced is copied as it is:
the header, the metadata, the order, and whatever this package does not understand.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self, TypeAlias

import numpy as np

from jaxprune.io._checkpoint import Array, CheckpointError, Tensor, raw_bytes, shaped

Span: TypeAlias = tuple[int, int]  # the first byte, and the one after the last

_CHUNK = 1 << 24


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

    def read(self, tensor: Tensor) -> Array:
        """The values of `tensor`."""
        raw = np.empty(tensor.nbytes, np.uint8)
        filled = 0
        for start, stop in self.spans[tensor]:
            self.file.seek(start)
            filled += read_into(self.file, raw.data[filled : filled + stop - start])
        if filled != tensor.nbytes:
            raise CheckpointError(
                f"{self.path}: {tensor.name!r} should hold {tensor.nbytes} bytes, and {filled} "
                "could be read: the file was cut while it was open."
            )
        return shaped(raw, tensor)

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

    def put(self, tensor: Tensor, array: Array) -> None:
        """Writes the tensor, and before it what stands between it and the last one."""
        values = raw_bytes(array)
        for start, stop in self._source.spans[tensor]:
            self._copy_until(start)
            self._file.write(values[: stop - start])
            values = values[stop - start :]
            self._done = stop

    def _copy_until(self, stop: int | None) -> None:
        self._source.file.seek(self._done)
        while stop is None or self._done < stop:
            left = _CHUNK if stop is None else min(_CHUNK, stop - self._done)
            chunk = self._source.file.read(left)
            if not chunk:
                break
            self._file.write(chunk)
            self._done += len(chunk)

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
