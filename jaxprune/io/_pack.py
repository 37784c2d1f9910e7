"""Writes packed files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune._progress import Progress, quiet
from jaxprune.io import _bitmask
from jaxprune.io._bitmask import (
    KEY,
    Item,
    Packed,
    as_bits,
    grid,
    kept_of,
    parts_of,
    pieces,
    stored,
)
from jaxprune.io._checkpoint import (
    Array,
    Checkpoint,
    CheckpointError,
    Tensor,
    numpy_dtype,
    raw_bytes,
)
from jaxprune.io._outputs import making, mode_of, refuse_input
from jaxprune.io._safetensors import header_of


def pack_checkpoint(
    source: Checkpoint, target: Path | str, *, progress: Progress = quiet
) -> Packed:
    """Writes a checkpoint without its zeros. It is read twice, one tensor at a time.

    Args:
        source: An open checkpoint of any format, all of it arrays.
        target: The safetensors file to write.
        progress: Makes a progress bar of a label and a number of bytes.

    Returns:
        What became smaller.

    Raises:
        CheckpointError: the source is packed already, holds more than arrays, or the target is no
            safetensors file.
        OSError: a file cannot be read or written.
    """
    target = Path(target)
    if target.suffix != ".safetensors":
        raise CheckpointError(f"{target}: a packed file is a .safetensors file.")
    if KEY in source.metadata:
        raise CheckpointError(f"{source.path} is packed already: unpack it first.")
    if source.others:
        raise CheckpointError(
            f"{source.path} also holds {', '.join(map(repr, source.others[:3]))}, no plain arrays, "
            "and a packed file could not keep them."
        )
    refuse_input(target, source)
    items = _items(source, progress)
    metadata = dict(source.metadata) | {KEY: _description(source, items)}
    parts = [part for item in items for part in item.parts]
    nbytes = sum(tensor.nbytes for tensor in source.tensors)
    with (
        making(target, parts, metadata, mode=mode_of(source), progress=progress) as put,
        progress("packing", nbytes) as bar,
    ):
        for item in items:
            values = as_bits(source.read(item.tensor), item.tensor)
            if len(item.parts) == 1:
                put(item.parts[0], _typed(values, item.parts[0]))
            else:
                for part, array in zip(item.parts, _packed(item, values), strict=True):
                    put(part, _typed(array, part))
            bar.update(item.tensor.nbytes)
    packed = sum(len(item.parts) > 1 for item in items)
    return Packed(packed, nbytes, sum(item.nbytes for item in items))


def _items(source: Checkpoint, progress: Progress) -> list[Item]:
    """What each tensor becomes; the values are read to count those that are not zero."""
    items = []
    with progress("counting", sum(tensor.nbytes for tensor in source.tensors)) as bar:
        for tensor in source.tensors:
            count = _nonzero(as_bits(source.read(tensor), tensor))
            packed = Item(tensor, parts_of(tensor, count))
            dense = Item(tensor, (stored(tensor.name, tensor.shape, tensor),))
            items.append(packed if packed.nbytes < dense.nbytes else dense)
            bar.update(tensor.nbytes)
    names = [part.name for item in items for part in item.parts]
    if len(set(names)) < len(names):  # a tensor is called as the part of another would be
        return [
            Item(item.tensor, (stored(item.tensor.name, item.tensor.shape, item.tensor),))
            for item in items
        ]
    return items


def _nonzero(values: Array) -> int:
    step = _bitmask.PIECE
    some = (values[at : at + step] for at in range(0, len(values), step))
    return sum(int(np.count_nonzero(kept_of(piece))) for piece in some)


def _packed(item: Item, values: Array) -> tuple[Array, Array, Array, Array]:
    rows, columns = grid(item.tensor.shape)
    bitmask = np.empty((rows, -(-columns // 8)), np.uint8)
    compressed = np.empty(item.parts[1].nbytes // values.itemsize, values.dtype).reshape(
        (-1, *values.shape[1:])
    )
    counts = np.zeros(rows, np.int64)
    done = 0
    for row, some, start, stop in pieces(rows, columns):
        piece = values[row * columns + start : (row + some - 1) * columns + stop]
        kept = kept_of(piece).reshape(some, stop - start)
        bitmask[row : row + some, start // 8 : -(-stop // 8)] = np.packbits(
            kept, axis=1, bitorder="little"
        )
        survivors = piece[kept.reshape(-1)]
        compressed[done : done + len(survivors)] = survivors
        counts[row : row + some] += np.count_nonzero(kept, axis=1)
        done += len(survivors)
    return np.array(item.tensor.shape, np.int64), compressed, bitmask, counts.cumsum() - counts


def _typed(values: Array, part: Tensor) -> Array:
    dtype = numpy_dtype(part.dtype)
    assert dtype is not None
    return np.frombuffer(raw_bytes(values), np.uint8).view(dtype).reshape(part.shape)


def _description(source: Checkpoint, items: Sequence[Item]) -> str:
    tensors = [
        {
            "keys": item.tensor.keys,
            "shape": item.tensor.shape,
            "dtype": item.tensor.dtype,
            "nbytes": item.tensor.nbytes,
            "packed": len(item.parts) > 1,
        }
        for item in items
    ]
    description: dict[str, Any] = {"version": 1, "tensors": tensors}
    if source.path.suffix == ".safetensors" and source.path.is_file():
        description["header"] = header_of(source.path).decode()
    return json.dumps(description, ensure_ascii=False, separators=(",", ":"))
