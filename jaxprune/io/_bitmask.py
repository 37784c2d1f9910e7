"""Packed files: one bit for each weight, and the values that are not zero.

A packed file is a safetensors file. In it, a tensor `x.weight` that packing makes smaller stands as
the four tensors of the sparse-bitmask format of compressed-tensors, which others can read:

- `x.shape`: its shape, as int64;
- `x.compressed`: its values that are not zero, in row-major order;
- `x.bitmask`: uint8 `[rows, ceil(columns / 8)]`: one bit a weight, set where a value is kept, the
  lowest bit of a byte first;
- `x.row_offsets`: int64 `[rows]`: where the values of each row begin.

A tensor of another rank than 2 is one row. A value is left out if all of its bits are zero, so that
-0.0 comes back as -0.0. The metadata hold what is needed to write the old file again.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxprune.io._checkpoint import Array, Tensor, numpy_dtype, raw_bytes
from jaxprune.io._safetensors import can_hold

KEY = "jaxprune.packed"
PIECE = 1 << 20  # weights that are looked at together
_PARTS = ("shape", "compressed", "bitmask", "row_offsets")


@dataclass(frozen=True, slots=True)
class Packed:
    """What packing or unpacking did.

    Attributes:
        tensors: How many tensors are packed.
        dense: The bytes that all tensors take unpacked.
        packed: The bytes that they take packed.
    """

    tensors: int
    dense: int
    packed: int


class Item(NamedTuple):
    """A tensor, and what stands for it in a packed file: four tensors, or one."""

    tensor: Tensor
    parts: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """What those take."""
        return sum(part.nbytes for part in self.parts)


def parts_of(tensor: Tensor, count: int) -> tuple[Tensor, ...]:
    """The tensors that stand for one of which `count` values are kept."""
    rows, columns = grid(tensor.shape)
    prefix = tensor.name.removesuffix(".weight")
    shape, compressed, bitmask, offsets = (f"{prefix}.{part}" for part in _PARTS)
    wide = -(-columns // 8)
    return (
        Tensor((shape,), (len(tensor.shape),), "int64", 8 * len(tensor.shape)),
        stored(compressed, (count,), tensor),
        Tensor((bitmask,), (rows, wide), "uint8", rows * wide),
        Tensor((offsets,), (rows,), "int64", 8 * rows),
    )


def grid(shape: Sequence[int]) -> tuple[int, int]:
    """The rows and the columns of a tensor's bits."""
    return (shape[0], shape[1]) if len(shape) == 2 else (1, math.prod(shape))


def stored(name: str, shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor of a packed file; of plain bytes where safetensors lacks the dtype."""
    width = width_of(like)
    nbytes = math.prod(shape) * width if width else like.nbytes
    if can_hold(like.dtype):
        return Tensor((name,), tuple(shape), like.dtype, nbytes)
    return Tensor((name,), (nbytes,), "uint8", nbytes)


def width_of(tensor: Tensor) -> int:
    """The bytes of one value; 0 where several values share a byte."""
    dtype = numpy_dtype(tensor.dtype)
    return dtype.itemsize if dtype is not None else 0


def as_bits(array: Array, tensor: Tensor) -> Array:
    """The values as rows of bytes, or as integers where there are such; flat."""
    raw = np.frombuffer(raw_bytes(array), np.uint8)
    width = width_of(tensor)
    if width in (1, 2, 4, 8):
        return raw.view(f"uint{8 * width}")
    return raw.reshape(-1, width) if width else raw


def kept_of(piece: Array) -> Array:
    """Marks the values of which some bit is set."""
    rows = piece if piece.ndim == 2 else piece[:, None]
    return np.asarray(rows.any(axis=1))


def pieces(rows: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """Pieces of a grid in row-major order: the first row, how many, and columns from and to."""
    if columns > PIECE:
        for row in range(rows):
            for start in range(0, columns, PIECE):  # a multiple of 8
                yield row, 1, start, min(start + PIECE, columns)
    elif columns:
        step = max(1, PIECE // columns)
        for row in range(0, rows, step):
            yield row, min(step, rows - row), 0, columns
