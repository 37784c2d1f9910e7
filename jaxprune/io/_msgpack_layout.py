"""Flax's msgpack as it is written: everything but the values, whose places are left empty."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from jaxprune.io._checkpoint import Tensor, known_dtype, tree_of
from jaxprune.io._msgpack import CHUNKED
from jaxprune.io._spans import Span

_CHUNK = 2**30  # Flax's; what the format allows an object is 4 GiB


def lay_out_msgpack(
    path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str]
) -> dict[Tensor, list[Span]]:
    """Writes all of a Flax msgpack file but the values, and says where they go."""
    del metadata  # the format has none
    spans: dict[Tensor, list[Span]] = {}
    for tensor in tensors:
        known_dtype(tensor, path, "msgpack")
    with path.open("r+b") as file:
        _lay(file, tree_of(tensors), spans)
        file.truncate()
    return spans


def _lay(file: BinaryIO, node: Any, spans: dict[Tensor, list[Span]]) -> None:
    if isinstance(node, Tensor) and node.nbytes > _CHUNK:
        spans[node] = _lay_chunks(file, node)
    elif isinstance(node, Tensor):
        spans[node] = [_lay_array(file, node.shape, node.dtype, node.nbytes)]
    else:
        file.write(_map(len(node)))
        for key, child in node.items():
            file.write(_text(str(key)))
            _lay(file, child, spans)


def _lay_chunks(file: BinaryIO, tensor: Tensor) -> list[Span]:
    itemsize = tensor.nbytes // tensor.size
    step = _CHUNK // itemsize * itemsize
    sizes = [min(step, tensor.nbytes - at) for at in range(0, tensor.nbytes, step)]
    file.write(_map(3) + _text(CHUNKED) + b"\xc3" + _text("shape") + _map(len(tensor.shape)))
    for i, side in enumerate(tensor.shape):
        file.write(_text(str(i)) + _integer(side))
    file.write(_text("chunks") + _map(len(sizes)))
    spans = []
    for i, size in enumerate(sizes):
        file.write(_text(str(i)))
        spans.append(_lay_array(file, (size // itemsize,), tensor.dtype, size))
    return spans


def _lay_array(file: BinaryIO, shape: Sequence[int], dtype: str, nbytes: int) -> Span:
    head = b"\x93\xdc" + struct.pack(">H", len(shape)) + b"".join(map(_integer, shape))
    head += _text(dtype) + b"\xc6" + struct.pack(">I", nbytes)
    file.write(b"\xc9" + struct.pack(">IB", len(head) + nbytes, 1) + head)
    start = file.tell()
    file.seek(nbytes, 1)
    return start, start + nbytes


def _map(length: int) -> bytes:
    return b"\xdf" + struct.pack(">I", length)


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"\xdb" + struct.pack(">I", len(raw)) + raw


def _integer(value: int) -> bytes:
    return b"\xcf" + struct.pack(">Q", value)
