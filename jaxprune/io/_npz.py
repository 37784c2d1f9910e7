"""NumPy's npz: a zip of npy files, stored or deflated."""

import copy
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from jaxprune._text import shown
from jaxprune.io._checkpoint import (
    Array,
    CheckpointError,
    Tensor,
    is_possible,
    raw_bytes,
)
from jaxprune.io._limits import refuse_crowded, refuse_inflated
from jaxprune.io._regular import open_regular
from jaxprune.io._spans import read_into

_PIECE = 1 << 20
_BROKEN = (
    OSError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    UnicodeError,
)


_ADDRESS = re.compile(" at 0x[0-9a-f]+")  # of an object, in Python's messages


class _Member(NamedTuple):
    """How a tensor lies in its npy file."""

    info: zipfile.ZipInfo
    header: int  # how many bytes come before the values
    dtype: np.dtype[Any]
    is_fortran: bool


class NpzFile:
    """An npz file whose arrays are read one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = [path]
        self.metadata: dict[str, str] = {}
        self.others: list[str] = []
        self.members: dict[Tensor, _Member] = {}
        file = open_regular(path)
        try:
            try:
                self.zip = zipfile.ZipFile(file)
            except _BROKEN as error:
                raise _broken(path, error) from None
            self._list(file.seek(0, 2))
        except BaseException:
            file.close()
            raise
        self._file = file
        self.tensors = list(self.members)

    def _list(self, size: int) -> None:
        infos = self.zip.infolist()
        if len({info.filename for info in infos}) < len(infos):
            raise _broken(self.path, "it names a member twice")
        refuse_crowded(self.path, len(infos))
        refuse_inflated(self.path, size, sum(info.file_size for info in infos))
        for info in infos:
            is_array = info.filename.endswith(".npy")
            member = _described(self.path, self.zip, info) if is_array else None
            if member is None:
                self.others.append(info.filename)
            else:
                self.members[member[0]] = member[1]

    def read(self, tensor: Tensor) -> Array:
        """The values of `tensor`, in native byte order and C order."""
        member = self.members[tensor]
        raw = np.empty(tensor.nbytes, np.uint8)
        with _reading(self.path), self.zip.open(member.info) as file:
            file.read(member.header)
            filled = read_into(file, raw.data)  # type: ignore[arg-type]
        if filled != tensor.nbytes:
            raise _broken(self.path, f"{tensor.name!r} is cut")
        values: Array = raw.view(member.dtype)
        if member.is_fortran:
            values = values.reshape(tensor.shape[::-1]).T
        else:
            values = values.reshape(tensor.shape)
        return np.ascontiguousarray(values.astype(_native(member.dtype), copy=False)).reshape(
            tensor.shape
        )

    def pieces(self, info: zipfile.ZipInfo, size: int = _PIECE) -> Iterator[bytes]:
        """The bytes of a member, so many at a time."""
        with _reading(self.path), self.zip.open(info) as file:
            while piece := file.read(size):
                yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.zip.close()
        self._file.close()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise _broken(path, error) from None


def _broken(path: Path, what: object) -> CheckpointError:
    return CheckpointError(f"{path} is no whole npz file: {what}. Copy or write it again.")


def _described(
    path: Path, zipped: zipfile.ZipFile, info: zipfile.ZipInfo
) -> tuple[Tensor, _Member] | None:
    """What an npy member holds; None if it is no plain array."""
    try:
        with zipped.open(info) as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
            else:
                return None
            header = file.tell()
    except MemoryError:
        raise
    except Exception as error:  # NumPy evaluates a header as Python, which may raise anything
        what = shown(_ADDRESS.sub("", str(error)))
        raise _broken(path, f"{info.filename!r} has a broken header ({what})") from None
    if dtype.hasobject or not dtype.itemsize:
        return None
    name = info.filename.removesuffix(".npy")
    plain = dtype.kind in "biufc"
    label = _native(dtype).name if plain else str(dtype)
    tensor = Tensor((name,), tuple(shape), label, 0)
    nbytes = tensor.size * dtype.itemsize
    whole = all(type(side) is int for side in shape)  # Python takes True for 1
    if not whole or not is_possible(shape) or header + nbytes != info.file_size:
        raise _broken(
            path,
            f"{name!r} of {label} and shape {shape} cannot take {info.file_size - header} bytes",
        )
    return Tensor((name,), tuple(shape), label, nbytes), _Member(info, header, dtype, is_fortran)


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")


class NpzCopy:
    """Copies an npz file member by member, with other values in its arrays."""

    def __init__(self, path: Path, source: NpzFile) -> None:
        self._source = source
        self._zip = zipfile.ZipFile(path, "w", allowZip64=True)
        self._zip.comment = source.zip.comment
        self._left = iter(source.zip.infolist())

    def put(self, tensor: Tensor, array: Array) -> None:
        """Writes the tensor, and before it the members between it and the last one."""
        member = self._source.members[tensor]
        self._copy_until(member.info)
        laid = array.astype(member.dtype, copy=False)
        header = next(self._source.pieces(member.info, member.header))
        with self._opened(member.info) as new:
            new.write(header)
            new.write(raw_bytes(laid.T if member.is_fortran else laid))

    def _copy_until(self, stop: zipfile.ZipInfo | None) -> None:
        for info in self._left:
            if info is stop:
                return
            with self._opened(info) as new:
                for piece in self._source.pieces(info):
                    new.write(piece)

    def _opened(self, info: zipfile.ZipInfo) -> Any:
        new = copy.copy(info)
        if new.extra[:2] == b"\x01\x00":  # sizes beyond 4 GiB: written anew where needed
            new.extra = b""
        return self._zip.open(new, "w", force_zip64=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        with self._zip:
            if kind is None:
                self._copy_until(None)


class NpzWriter:
    """Writes a new npz file, uncompressed as `np.savez` does."""

    def __init__(self, path: Path, tensors: Sequence[Tensor], metadata: object) -> None:
        del metadata  # the format has none
        for tensor in tensors:
            if not _is_plain(tensor.dtype):
                raise CheckpointError(
                    f"{tensor.name!r} has dtype {tensor.dtype}, which npz cannot hold: write "
                    ".safetensors or .msgpack."
                )
            if "\0" in tensor.name:
                raise CheckpointError(
                    f"{tensor.name!r} has a NUL in its name, where a zip would cut it: write "
                    ".safetensors or .msgpack."
                )
        self._zip = zipfile.ZipFile(path, "w", allowZip64=True)

    def put(self, tensor: Tensor, array: Array) -> None:
        """Writes the next tensor."""
        info = zipfile.ZipInfo(f"{tensor.name}.npy")  # its date is fixed: same tensors, same file
        info.external_attr = 0o600 << 16
        with self._zip.open(info, "w", force_zip64=True) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()


def _is_plain(name: str) -> bool:
    """Whether NumPy alone knows the dtype."""
    try:
        return np.dtype(name).kind in "biufcUSM"
    except TypeError:
        return False
