"""Flax's msgpack: a tree of maps, with each array in an extension object.

Only the small parts are read: the walk goes from header to header and leaps over the arrays. An
array is the extension 1, and a NumPy scalar the extension 3, of the object `(shape, dtype name,
bytes)`; an array above 1 GiB is a map of such chunks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from jaxprune._text import shown
from jaxprune.io._checkpoint import (
    CheckpointError,
    Tensor,
    is_possible,
    numpy_dtype,
)
from jaxprune.io._limits import refuse_crowded
from jaxprune.io._regular import open_regular
from jaxprune.io._spans import Span, SpanFile

CHUNKED = "__msgpack_chunked_array__"
_DEEPEST = 100
# Objects that are read: a tree has a few for each array (its keys, shape and dtype), and step
# counters, texts and lists of numbers besides.
_MOST_OBJECTS = 300_000
_OF_AN_ARRAY = 12


@dataclass(frozen=True, slots=True)
class _ArrayAt:
    """An array: what it is, and where its bytes lie."""

    shape: tuple[int, ...]
    dtype: str
    span: Span


def open_msgpack(path: Path) -> SpanFile:
    """Finds the arrays of a Flax msgpack file.

    Raises:
        CheckpointError: the file is cut, or no such tree.
    """
    file = open_regular(path)
    try:
        end = file.seek(0, 2)
        file.seek(0)
        tree = _Walk(path, file, end).object(0)
        if file.tell() != end:
            raise _broken(path, f"{end - file.tell()} bytes follow its end")
        spans: dict[Tensor, Sequence[Span]] = {}
        others: list[str] = []
        for keys, leaf in _flattened(path, tree):
            if isinstance(leaf, list):
                shape, dtype = leaf[0], leaf[1].dtype
                places = [chunk.span for chunk in leaf[1:]]
                nbytes = sum(stop - start for start, stop in places)
                spans[_tensor(path, keys, shape, dtype, nbytes)] = places
            else:
                others.append("/".join(map(str, keys)))
    except BaseException:
        file.close()
        raise
    return SpanFile(path, file, spans, others=others)


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is no whole Flax msgpack file: {what}. Write it again with "
        "flax.serialization.to_bytes."
    )


def _tensor(path: Path, keys: tuple[Any, ...], shape: Any, dtype: str, nbytes: int) -> Tensor:
    tensor = Tensor(keys, tuple(shape), dtype, nbytes)
    if not is_possible(tensor.shape):
        raise _broken(path, f"{tensor.name!r} has the impossible shape {shown(shape)}")
    known = numpy_dtype(dtype)
    if known is None:
        raise _broken(path, f"{tensor.name!r} has the unknown dtype {shown(dtype)}")
    if tensor.size * known.itemsize != nbytes:
        raise _broken(
            path, f"{tensor.name!r} of {dtype} and shape {shown(shape)} cannot take {nbytes} bytes"
        )
    return tensor


def _flattened(path: Path, node: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """The leaves of a tree that was walked: a list of shape and chunks for an array."""
    if isinstance(node, _ArrayAt):
        yield keys, [node.shape, node]
    elif isinstance(node, dict) and CHUNKED in node:
        shape, chunks = node.get("shape"), node.get("chunks")
        if not (
            _in_turn(shape, int)
            and _in_turn(chunks, _ArrayAt)
            and isinstance(chunks, dict)
            and chunks
        ):
            raise _broken(path, f"the chunks of {'/'.join(map(str, keys))!r} are out of order")
        yield keys, [tuple(shape.values()), *chunks.values()]
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from _flattened(path, child, (*keys, key))
    else:
        yield keys, node


def _in_turn(node: Any, kind: type) -> TypeGuard[dict[str, Any]]:
    """Whether `node` maps "0", "1", ... to things of a kind, as Flax writes a tuple."""
    if not isinstance(node, dict) or list(node) != [str(i) for i in range(len(node))]:
        return False
    return all(type(each) is kind for each in node.values())


# What follows the first byte of an object: how many bytes of length (or value), and what it is.
_HEADS = {
    **{0xC0 + i: (0, "other") for i in range(4)},
    **{0xC4 + i: (1 << i, "bytes") for i in range(3)},
    **{0xC7 + i: (1 << i, "extension") for i in range(3)},
    **{0xCA + i: (4 << i, "float") for i in range(2)},
    **{0xCC + i: (1 << i, "unsigned") for i in range(4)},
    **{0xD0 + i: (1 << i, "signed") for i in range(4)},
    **{0xD9 + i: (1 << i, "text") for i in range(3)},
    **{0xDC + i: (2 << i, "array") for i in range(2)},
    **{0xDE + i: (2 << i, "map") for i in range(2)},
}
_NOTHING = object()  # a value that is no integer, no text and no array


class _Walk:
    """Reads objects from a file one after the other; arrays by their place alone."""

    def __init__(self, path: Path, file: BinaryIO, end: int) -> None:
        self.path, self.file, self.end = path, file, end
        self.left, self.arrays = _MOST_OBJECTS, 0

    def object(self, depth: int) -> Any:
        """The next object."""
        self.left -= 1
        if self.left < 0:
            raise _broken(self.path, f"it has more than {_MOST_OBJECTS} objects that are no arrays")
        if depth > _DEEPEST:
            raise _broken(self.path, f"it is nested deeper than {_DEEPEST}")
        kind, value = self.head()
        if kind == "integer":
            return value
        if kind == "text":
            return self.text(value)
        if kind == "array":
            return dict(enumerate(self.object(depth + 1) for _ in range(self.checked(value))))
        if kind == "map":
            return self.mapping(self.checked(value), depth)
        if kind == "extension":
            return self.extension(value)
        self.skip(value)
        return _NOTHING

    def head(self) -> tuple[str, int]:
        """The kind of the next object, and its value or its length."""
        first = self.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return "integer", first if first < 0x80 else first - 0x100
        if first < 0xC0:
            low = first & (0x1F if first >= 0xA0 else 0x0F)
            return ("text" if first >= 0xA0 else "array" if first >= 0x90 else "map"), low
        if 0xD4 <= first <= 0xD8:
            return "extension", 1 << (first - 0xD4)
        width, kind = _HEADS.get(first) or self.fail(f"byte {first:#x} begins no object")
        if kind in ("other", "float"):
            return "other", width
        value = int.from_bytes(self.take(width), "big", signed=kind == "signed")
        return ("integer" if kind in ("signed", "unsigned") else kind), value

    def mapping(self, count: int, depth: int) -> dict[str | int, Any]:
        """The `count` entries of a map."""
        entries: dict[str | int, Any] = {}
        for _ in range(count):
            key = self.object(depth + 1)
            if not isinstance(key, str | int):
                self.fail("a key is neither a text nor an integer")
            if key in entries:
                self.fail(f"the key {shown(key)} stands there twice")
            entries[key] = self.object(depth + 1)
        return entries

    def extension(self, length: int) -> Any:
        """An array; the object `(shape, dtype name, bytes)`."""
        code = self.take(1)[0]
        stop = self.file.tell() + length
        if code not in (1, 3):
            self.skip(length)
            return _NOTHING
        if self.head() == ("array", 3):
            shape, dtype = self.object(0), self.object(0)
            kind, size = self.head()
            start = self.file.tell()
            sides = list(shape.values()) if isinstance(shape, dict) else [-1]
            whole = all(type(side) is int for side in sides) and is_possible(sides)
            ends = kind == "bytes" and start + size == stop <= self.end
            if whole and ends and isinstance(dtype, str):
                self.file.seek(stop)
                self.left += _OF_AN_ARRAY
                self.arrays += 1
                refuse_crowded(self.path, self.arrays)
                return _ArrayAt(tuple(sides), dtype, (start, stop))
        return self.fail("an array is not made of shape, dtype and bytes")

    def text(self, length: int) -> str:
        """Text of so many bytes."""
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            return self.fail("a text is not UTF-8")

    def take(self, length: int) -> bytes:
        """The next bytes."""
        self.checked(length)
        return self.file.read(length)

    def skip(self, length: int) -> None:
        """Leaps over bytes."""
        self.file.seek(self.checked(length), 1)

    def checked(self, length: int) -> int:
        """A length, if the file goes on for so long: each entry takes a byte or more."""
        if length > self.end - self.file.tell():
            self.fail(f"it ends within an object of {length} bytes or entries")
        return length

    def fail(self, what: str) -> Any:
        """Refuses the file."""
        raise _broken(self.path, f"{what}, near byte {self.file.tell()}")
