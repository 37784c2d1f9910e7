"""Which format a path means, and how each is opened, copied and made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxprune.io._checkpoint import Checkpoint, CheckpointError, Tensor, Writer
from jaxprune.io._msgpack import open_msgpack
from jaxprune.io._msgpack_layout import lay_out_msgpack
from jaxprune.io._npz import NpzCopy, NpzFile, NpzWriter
from jaxprune.io._orbax import OrbaxCopy, OrbaxFolder, OrbaxWriter, is_orbax
from jaxprune.io._safetensors import lay_out_safetensors, open_safetensors
from jaxprune.io._sharded import INDEX, ShardedCopy, ShardedFile, indices_in
from jaxprune.io._spans import PlacedWriter, SpanWriter


@dataclass(frozen=True, slots=True)
class Format:
    """What can be done with a format. `copy` takes a source of the same, `make` only a list."""

    name: str
    open: Callable[[Path], Checkpoint]
    copy: Callable[[Path, Any], Writer]
    make: Callable[[Path, Sequence[Tensor], Mapping[str, str]], Writer]
    is_folder: bool = False


def _make_sharded(path: Path, tensors: object, metadata: object) -> Writer:
    del tensors, metadata
    raise CheckpointError(
        f"{path}: shards are written of shards only. Name one file, such as model.safetensors."
    )


SAFETENSORS = Format(
    "safetensors",
    open_safetensors,
    SpanWriter,
    lambda path, *what: PlacedWriter(path, lay_out_safetensors(path, *what)),
)
_MSGPACK = Format(
    "msgpack",
    open_msgpack,
    SpanWriter,
    lambda path, *what: PlacedWriter(path, lay_out_msgpack(path, *what)),
)
_NPZ = Format("npz", NpzFile, NpzCopy, NpzWriter)
_SHARDED = Format("sharded safetensors", ShardedFile, ShardedCopy, _make_sharded, is_folder=True)
_ORBAX = Format("Orbax", OrbaxFolder, OrbaxCopy, OrbaxWriter, is_folder=True)
_SUFFIXES = {".safetensors": SAFETENSORS, ".npz": _NPZ, ".msgpack": _MSGPACK}


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Opens a checkpoint and lists its tensors; values are read one tensor at a time.

    Args:
        path: A .safetensors, .npz or .msgpack file, a .safetensors.index.json, a folder that holds
            one, or a folder that Orbax wrote.

    Returns:
        The checkpoint, for a `with` statement.

    Raises:
        CheckpointError: the file is broken, or of no format that is known.
        OSError: it cannot be read.
    """
    path = Path(path)
    path.stat()
    return format_of_source(path).open(path)


def format_of_source(path: Path) -> Format:
    """The format of a checkpoint that is there."""
    if path.is_dir():
        return _SHARDED if indices_in(path) and not is_orbax(path) else _ORBAX
    return format_of_name(path)


def format_of_name(path: Path) -> Format:
    """The format of a file, by its extension.

    Raises:
        CheckpointError: the extension means none.
    """
    if path.name.endswith(INDEX):
        return _SHARDED
    if path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    raise CheckpointError(
        f"{path} has an extension that means no format: expected {', '.join(_SUFFIXES)}, {INDEX}, "
        "or a folder, which has none."
    )


def format_of_target(target: Path, source: Checkpoint, *, is_folder: bool) -> Format:
    """The format in which `target` is written, which may name no extension.

    Args:
        target: The output.
        source: What is read.
        is_folder: Whether it was said that the output is a folder.

    Raises:
        CheckpointError: the extension means no format, or names an index in place of its folder.
    """
    if target.name.endswith(INDEX):
        raise CheckpointError(f"{target}: shards and their index are written to a folder: name it.")
    source_format = format_of_source(source.path)
    # Names of folders may have dots, such as that of a version.
    has_extension = target.suffix in _SUFFIXES if source_format.is_folder else target.suffix
    if has_extension and not is_folder and not target.is_dir():
        return format_of_name(target)
    return source_format if source_format.is_folder else _ORBAX
