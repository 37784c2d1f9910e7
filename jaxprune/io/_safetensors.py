"""safetensors: eight bytes of length, a JSON header, and the tensors end to end.

The header is read here and not by the safetensors package, so that listing reads nothing else, so
that a header which lies is refused with a sentence that says where, and so that a pruned file can
keep it byte for byte.
"""

import functools
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprune._text import shown
from jaxprune.io._checkpoint import (
    CheckpointError,
    Tensor,
    is_possible,
    numpy_dtype,
)
from jaxprune.io._json import LONGEST, parse_json
from jaxprune.io._limits import refuse_crowded
from jaxprune.io._regular import open_regular
from jaxprune.io._spans import Span, SpanFile

_METADATA = "__metadata__"
MOST_MARKS = 4_000_000  # brackets, commas and colons of a header: a tensor has twelve

# The format's dtypes, by the names NumPy and ml_dtypes give them.
_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_CODES = {name: code for code, name in _NAMES.items()}
# The bits of a value. Several of the last three share a byte: they are passed through.
_WIDTHS = {
    code: 8 * known.itemsize for code, name in _NAMES.items() if (known := numpy_dtype(name))
}
_WIDTHS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_FIELDS = {"dtype", "shape", "data_offsets"}


def open_safetensors(path: Path) -> SpanFile:
    """Reads the header of a safetensors file.

    Raises:
        CheckpointError: the header is broken, or does not fit the file.
    """
    file = open_regular(path, buffering=0)
    try:
        end = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if end < 8 or length > min(LONGEST, end - 8):
            raise _broken(
                path,
                f"its header claims {length} bytes in a file of {end} (at most {LONGEST})",
            )
        raw = file.read(length)
        refuse_crowded(path, raw.count(b'"data_offsets"'))  # before they are parsed
        header = _parsed(path, raw)
        metadata = _metadata(path, header.pop(_METADATA, {}))
        refuse_crowded(path, len(header))
        spans = _spans(path, header, 8 + length, end)
    except BaseException:
        file.close()
        raise
    return SpanFile(path, file, spans, metadata=metadata)


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is no whole safetensors file: {what}. Copy or download it again."
    )


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = parse_json(raw, MOST_MARKS)
    except ValueError as error:
        raise _broken(path, f"its header {error}") from None
    if not isinstance(header, dict) or raw[:1] != b"{":
        raise _broken(path, "its header is not a JSON object")
    return header


def _metadata(path: Path, metadata: Any) -> dict[str, str]:
    if isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()):
        return metadata
    raise _broken(path, f"{_METADATA} should map text to text, got {shown(metadata)}")


def _spans(
    path: Path, header: Mapping[str, Any], start: int, end: int
) -> dict[Tensor, Sequence[Span]]:
    spans = [_described(path, name, entry) for name, entry in header.items()]
    spans.sort(key=lambda item: item[1])
    at = 0
    for tensor, (first, last) in spans:
        if first != at:
            what = "overlaps what is before it" if first < at else "leaves a hole before it"
            raise _broken(path, f"{shown(tensor.name)} starts at byte {first}, not {at}: it {what}")
        at = last
    if start + at != end:
        raise _broken(path, f"its tensors take {at} bytes, and the file has {end - start} for them")
    return {tensor: [(start + first, start + last)] for tensor, (first, last) in spans}


def _described(path: Path, name: str, entry: Any) -> tuple[Tensor, Span]:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    code, shape, place = (fields.get(field, []) for field in ("dtype", "shape", "data_offsets"))
    if fields.keys() != _FIELDS:
        raise _broken(
            path,
            f"{shown(name)} should have dtype, shape and data_offsets, got {shown(entry)}",
        )
    if not isinstance(code, str) or code not in _WIDTHS:
        raise _broken(path, f"{shown(name)} has the unknown dtype {shown(code)}")
    if not _are_integers(shape) or (sides := _possible(tuple(shape))) is None:
        raise _broken(path, f"{shown(name)} has the impossible shape {shown(shape)}")
    if not _are_integers(place) or len(place) != 2 or not 0 <= place[0] <= place[1] < 2**63:
        raise _broken(path, f"{shown(name)} has the impossible offsets {shown(place)}")
    first, last = place
    shape, size = sides
    if size * _WIDTHS[code] != 8 * (last - first):
        raise _broken(
            path,
            f"{shown(name)} of {code} and shape {shown(list(shape))} cannot take {last - first} "
            "bytes",
        )
    return Tensor((name,), shape, _NAMES.get(code, code), last - first), (first, last)


@functools.lru_cache(1 << 10)  # of many tensors, many have one shape
def _possible(shape: tuple[int, ...]) -> tuple[tuple[int, ...], int] | None:
    """A shape and how many values it has; None if none can have it."""
    # What a 64-bit reader could not hold is absurd, and Python would print all its digits.
    if not all(0 <= side < 2**63 for side in shape) or not is_possible(shape):
        return None
    return shape, math.prod(shape)


def _are_integers(value: Any) -> bool:
    return isinstance(value, list) and {int}.issuperset(map(type, value))


def can_hold(dtype: str) -> bool:
    """Whether the format has a dtype of this name."""
    return dtype in _CODES


def header_of(path: Path) -> bytes:
    """The header of a safetensors file that was opened before, as it stands there."""
    with open_regular(path) as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def lay_out_header(path: Path, raw: bytes) -> dict[Tensor, Sequence[Span]]:
    """Writes a safetensors file with a header of old, and says where the values go.

    Raises:
        CheckpointError: the header is broken.
    """
    header = _parsed(path, raw)
    _metadata(path, header.pop(_METADATA, {}))
    start = 8 + len(raw)
    end = start + sum(_described(path, *item)[0].nbytes for item in header.items())
    spans = _spans(path, header, start, end)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    os.truncate(path, end)
    return spans


def lay_out_safetensors(
    path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str]
) -> dict[Tensor, list[Span]]:
    """Writes the header of a safetensors file, and says where the values go.

    Raises:
        CheckpointError: the format lacks a dtype.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    ends = list(itertools.accumulate((tensor.nbytes for tensor in tensors), initial=0))
    places = list(itertools.pairwise(ends))
    for tensor, place in zip(tensors, places, strict=True):
        if tensor.dtype not in _CODES or tensor.name == _METADATA:
            raise CheckpointError(
                f"{tensor.name!r} of dtype {tensor.dtype} has no place in a safetensors file: "
                "write the format that was read."
            )
        header[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": place,
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at multiples of eight
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + ends[-1])
    start = 8 + len(text)
    return {
        tensor: [(start + first, start + last)]
        for tensor, (first, last) in zip(tensors, places, strict=True)
    }
