"""Reads packed files, and writes what they held."""

from pathlib import Path
from typing import Any, Self

import numpy as np

from jaxprune._progress import Progress, quiet
from jaxprune._text import shown
from jaxprune.io._bitmask import (
    KEY,
    Item,
    Packed,
    as_bits,
    grid,
    parts_of,
    pieces,
    stored,
    width_of,
)
from jaxprune.io._checkpoint import (
    Array,
    CheckpointError,
    Tensor,
    is_possible,
    numpy_dtype,
    raw_bytes,
)
from jaxprune.io._json import parse_json
from jaxprune.io._outputs import converting
from jaxprune.io._safetensors import open_safetensors


def unpack_checkpoint(
    path: Path | str, target: Path | str, *, progress: Progress = quiet
) -> Packed:
    """Writes what was packed as it was, one tensor at a time.

    A safetensors file that was packed comes back byte for byte.

    Args:
        path: A packed file.
        target: The file or folder to write; its extension says in which format.
        progress: Makes a progress bar of a label and a number of bytes.

    Returns:
        What became larger.

    Raises:
        CheckpointError: the file is not packed, or broken.
        OSError: a file cannot be read or written.
    """
    with PackedFile(Path(path)) as source:
        nbytes = sum(tensor.nbytes for tensor in source.tensors)
        with (
            converting(target, source, header=source.header, progress=progress) as put,
            progress("unpacking", nbytes) as bar,
        ):
            for tensor in source.tensors:
                put(tensor, source.read(tensor))
                bar.update(tensor.nbytes)
        packed = sum(len(item.parts) > 1 for item in source.items.values())
        return Packed(packed, nbytes, sum(item.nbytes for item in source.items.values()))


class PackedFile:
    """A packed file, read as the checkpoint that was packed."""

    def __init__(self, path: Path) -> None:
        self._file = open_safetensors(path)
        self.path = path
        self.files = [path]
        self.others: list[str] = []
        try:
            if KEY not in self._file.metadata:
                raise CheckpointError(
                    f"{path} was not written by jaxprune pack: its metadata lack {KEY!r}."
                )
            self.metadata = {k: v for k, v in self._file.metadata.items() if k != KEY}
            try:
                description = parse_json(self._file.metadata[KEY].encode())
                self.items = {item.tensor: item for item in map(_described, description["tensors"])}
                self.header = description["header"].encode() if "header" in description else None
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise self._broken(f"its description {shown(str(error))}") from None
            self._check(len(description["tensors"]))
        except BaseException:
            self._file.__exit__()
            raise
        self.tensors = list(self.items)

    def _broken(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is no whole packed file: {what}. Pack it again.")

    def _check(self, count: int) -> None:
        """Whether the file holds exactly what the description needs."""
        by_name = {tensor.name: tensor for tensor in self._file.tensors}
        needed = [part.name for item in self.items.values() for part in item.parts]
        if count != len(self.items) or sorted(needed) != sorted(by_name):
            raise self._broken("its tensors are not those that it describes")
        for tensor, item in self.items.items():
            parts = item.parts
            if len(parts) > 1:
                width = width_of(tensor)
                parts = parts_of(tensor, by_name[parts[1].name].nbytes // width if width else -1)
            if any(part != by_name[part.name] for part in parts):
                raise self._broken(f"{shown(tensor.name)} is not as it is described")
            self.items[tensor] = Item(tensor, parts)

    def read(self, tensor: Tensor) -> Array:
        """The values of `tensor`."""
        item = self.items[tensor]
        dtype = numpy_dtype(tensor.dtype)
        if len(item.parts) == 1:
            raw = np.frombuffer(raw_bytes(self._file.read(item.parts[0])), np.uint8)
        else:
            raw = self._unpacked(item)
        return raw if dtype is None else raw.view(dtype).reshape(tensor.shape)

    def _unpacked(self, item: Item) -> Array:
        rows, columns = grid(item.tensor.shape)
        _, compressed, bitmask, _ = (self._file.read(part) for part in item.parts)
        values = as_bits(compressed, item.tensor)
        out = np.zeros((rows * columns, *values.shape[1:]), values.dtype)
        done = 0
        for row, some, start, stop in pieces(rows, columns):
            bits = bitmask[row : row + some, start // 8 : -(-stop // 8)]
            kept = np.unpackbits(bits, axis=1, count=stop - start, bitorder="little")
            kept = kept.view(bool).reshape(-1)
            count = int(np.count_nonzero(kept))
            if count > len(values) - done:
                raise self._broken(f"{shown(item.tensor.name)} has fewer values than its bits say")
            piece = out[row * columns + start : (row + some - 1) * columns + stop]
            piece[kept] = values[done : done + count]
            done += count
        if done < len(values):
            raise self._broken(f"{shown(item.tensor.name)} has more values than its bits say")
        return np.frombuffer(out.data, np.uint8) if out.size else np.empty(0, np.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)


def _described(entry: dict[str, Any]) -> Item:
    keys, shape, nbytes, name = (entry[part] for part in ("keys", "shape", "nbytes", "dtype"))
    sides = [*shape, nbytes]
    if not keys or not all(isinstance(key, str | int) for key in keys) or not isinstance(name, str):
        raise ValueError(f"has the keys {shown(keys)} and the dtype {shown(name)}")
    if not all(type(side) is int for side in sides) or not is_possible(sides):
        raise ValueError(f"has the shape {shown(shape)}")
    tensor = Tensor(tuple(keys), tuple(shape), name, nbytes)
    width = width_of(tensor)
    if width and tensor.size * width != nbytes:
        raise ValueError(f"has {shown(tensor.name)} of {shown(shape)} in {nbytes} bytes")
    if entry["packed"] is True:
        return Item(tensor, parts_of(tensor, 0))
    return Item(tensor, (stored(tensor.name, tensor.shape, tensor),))
