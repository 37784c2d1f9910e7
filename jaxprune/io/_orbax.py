"""Orbax folders: arrays in a tensorstore database, and JSON that says what tree they make.

Only tensorstore is needed to read one, and to write one anew from another: what is no array is
copied as it is. A folder made of another format is written by Orbax itself.
"""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np

from jaxprune._text import shown
from jaxprune.io._checkpoint import (
    Array,
    CheckpointError,
    Tensor,
    known_dtype,
    raw_bytes,
    tree_of,
)
from jaxprune.io._extras import needed
from jaxprune.io._json import read_json
from jaxprune.io._limits import refuse_crowded, refuse_inflated
from jaxprune.io._regular import check_folder

_METADATA = "_METADATA"
_MANIFEST = "manifest.ocdbt"


_AT_ONCE = 256  # arrays that are opened together


class OrbaxFolder:
    """A folder that Orbax wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = [path]
        self.metadata: dict[str, str] = {}
        self.others: list[str] = []
        self.names: dict[Tensor, str] = {}
        metadata = _tree_metadata(path)
        stored = check_folder(path)
        self.store = _Store(path, metadata)
        arrays: list[tuple[tuple[str | int, ...], str]] = []
        for entry in metadata["tree_metadata"].values():
            keys = tuple(_key(each) for each in entry["key_metadata"])
            kind = entry["value_metadata"]
            if kind.get("skip_deserialize") or kind.get("value_type") in ("None", "string"):
                self.others.append("/".join(map(str, keys)))
            else:
                arrays.append((keys, ".".join(map(str, keys))))
        refuse_crowded(path, len(arrays))
        for at in range(0, len(arrays), _AT_ONCE):
            some = arrays[at : at + _AT_ONCE]
            for (keys, name), tensor in zip(some, self.store.described(some), strict=True):
                if tensor in self.names:
                    raise CheckpointError(
                        f"{path / _METADATA} names {'/'.join(map(str, keys))!r} twice."
                    )
                self.names[tensor] = name
        self.tensors = list(self.names)
        refuse_inflated(path, stored, sum(tensor.nbytes for tensor in self.tensors))

    def read(self, tensor: Tensor) -> Array:
        """The values of `tensor`."""
        name = self.names[tensor]
        with self.store.reading(name):
            array = self.store.open(name).result()
            values = np.empty(tensor.shape, array.dtype.numpy_dtype)
            values[...] = array.read().result()
        return values

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def is_orbax(path: Path) -> bool:
    """Whether a folder is one that Orbax wrote."""
    return (path / _METADATA).exists()


def _tree_metadata(path: Path) -> dict[str, Any]:
    if not is_orbax(path):
        inner = [child.name for child in sorted(path.iterdir()) if is_orbax(child)]
        remedy = f"name {path / inner[0]}" if inner else "name a folder that Orbax wrote"
        raise CheckpointError(f"{path} has no {_METADATA}, so it is no Orbax checkpoint: {remedy}.")
    try:
        metadata: Any = read_json(path / _METADATA)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path / _METADATA} {error}: save it again.") from None
    try:
        for entry in metadata["tree_metadata"].values():
            entry["value_metadata"].get("value_type")
            for each in entry["key_metadata"]:
                _key(each)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path / _METADATA} is not what Orbax writes ({shown(str(error))}): save it again."
        ) from None
    return metadata


def _key(entry: dict[str, Any]) -> str | int:
    # Lists are ordered by number, dicts by text.
    return int(entry["key"]) if entry["key_type"] == 1 else str(entry["key"])


class _Store:
    """The database of a folder: one of its own (OCDBT), or plain files."""

    def __init__(self, path: Path, metadata: dict[str, Any], like: "_Store | None" = None) -> None:
        self._ts = needed("tensorstore", "Orbax folders")
        self.path = path
        self.metadata = metadata
        self.is_ocdbt: bool = like.is_ocdbt if like else (path / _MANIFEST).exists()
        self._driver = "zarr3" if metadata.get("use_zarr3") else "zarr"

    def _spec(self, name: str = "") -> dict[str, Any]:
        # The database takes no path with .. in it.
        base = {"driver": "file", "path": f"{self.path.resolve()}/"}
        if self.is_ocdbt:
            return {"driver": "ocdbt", "base": base, "path": name}
        return base | {"path": f"{base['path']}{name}"}

    def open(self, name: str) -> Any:
        """A future of the array of this name, unread."""
        # Orbax says in its metadata whether it left out what equals the fill value. Unless it did,
        # a chunk that is missing is lost, and must not be read as zeros.
        whole = self.metadata.get("store_array_data_equal_to_fill_value", False)
        spec = {
            "driver": self._driver,
            "kvstore": self._spec(f"{name}/"),
            "fill_missing_data_reads": not whole,
            "store_data_equal_to_fill_value": True,
        }
        return self._ts.open(spec, open=True)

    def described(self, arrays: Sequence[tuple[tuple[str | int, ...], str]]) -> list[Tensor]:
        """What the arrays of these keys and names are."""
        opened = []
        for _, name in arrays:
            with self.reading(name):
                opened.append(self.open(name))
        tensors = []
        for (keys, name), future in zip(arrays, opened, strict=True):
            with self.reading(name):
                array = future.result()
                dtype = np.dtype(array.dtype.numpy_dtype)
                shape, nbytes = tuple(array.shape), array.size * dtype.itemsize
            if dtype.hasobject:
                raise CheckpointError(f"{self.path}: the array {name!r} holds no numbers.")
            tensors.append(Tensor(keys, shape, dtype.name, nbytes))
        return tensors

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Has whatever goes wrong with an array name it."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # tensorstore says of no call what it raises
            raise CheckpointError(
                f"{self.path} should hold the array {name!r}, and does not "
                f"({_first_line(error)}): save it again."
            ) from None

    def keys(self) -> Any:
        """The database itself."""
        return self._ts.KvStore.open(self._spec()).result()


def _first_line(error: BaseException) -> str:
    line = next(iter(str(error).splitlines()), type(error).__name__)
    # Of a long one the end is kept too, for there stands what the system said.
    return line if len(line) <= 300 else f"{line[:100]} ... {line[-195:]}"


class OrbaxCopy:
    """Copies an Orbax folder, with other values in its arrays."""

    def __init__(self, folder: Path, source: OrbaxFolder) -> None:
        self._source = source
        self._store = _Store(folder, source.store.metadata, like=source.store)
        self._writing: Any = None
        is_ocdbt = source.store.is_ocdbt
        try:
            shutil.copytree(
                source.path,
                folder,
                dirs_exist_ok=True,
                ignore=_database if is_ocdbt else None,
            )
        except shutil.Error as error:  # a list of what failed, and why
            path, _, why = error.args[0][0]
            raise CheckpointError(f"{path} could not be copied: {why}") from None
        if is_ocdbt:
            with source.store.reading("all of them"):
                self._copy_descriptions()

    def _copy_descriptions(self) -> None:
        old, new = self._source.store.keys(), self._store.keys()
        for key in old.list().result():
            if key.rpartition(b"/")[2].startswith((b".z", b"zarr.json")):
                self._writing = new.write(key, old.read(key).result().value)
                self._writing.result()

    def put(self, tensor: Tensor, array: Array) -> None:
        """Writes the tensor."""
        name = self._source.names[tensor]
        with self._store.reading(name):
            opened = self._store.open(name).result()
        try:
            self._writing = opened.write(array)
            self._writing.result()
        except Exception as error:  # so tensorstore reports a full disk
            raise CheckpointError(
                f"{tensor.name!r} could not be written: {_first_line(error)}"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # An interrupt does not stop tensorstore's threads: until they are done, the folder cannot
        # be removed for good.
        if self._writing is not None:
            with suppress(Exception):
                self._writing.result()


def _database(folder: str, names: list[str]) -> set[str]:
    del folder
    return {name for name in names if name in (_MANIFEST, "d") or name.startswith("ocdbt.")}


class OrbaxWriter:
    """Gathers tensors in files of their own, and has Orbax save them."""

    def __init__(self, folder: Path, tensors: Sequence[Tensor], metadata: object) -> None:
        del metadata  # Orbax would not give it back as text
        self._folder = folder
        for tensor in tensors:
            if not tensor.size:
                raise CheckpointError(
                    f"{tensor.name!r} has the shape {tensor.shape}, and Orbax saves no array that "
                    "holds nothing: write .safetensors or .msgpack."
                )
        self._checkpoints = needed("orbax.checkpoint", "Orbax folders")
        self._tree = tree_of(tensors)
        self._dtypes = {t: known_dtype(t, folder, "an Orbax folder") for t in tensors}
        self._gathered = TemporaryDirectory(dir=folder)
        self._files = {t: Path(self._gathered.name, str(i)) for i, t in enumerate(tensors)}

    def put(self, tensor: Tensor, array: Array) -> None:
        """Writes the tensor to a file of its own."""
        self._files[tensor].write_bytes(raw_bytes(array))  # NumPy does not say why it could not

    def _mapped(self, node: Any) -> Any:
        if not isinstance(node, Tensor):
            return {key: self._mapped(child) for key, child in node.items()}
        raw = np.memmap(self._files[node], np.uint8, "r")
        return np.asarray(raw).view(self._dtypes[node]).reshape(node.shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        with self._gathered:
            if kind is None:
                saved = self._folder / "saved"
                # In a thread of its own: an interrupt reaches this one, which waits until Orbax has
                # stopped writing, so that the folder can be removed for good.
                with ThreadPoolExecutor(1) as thread:
                    thread.submit(self._save, saved).result()
                for child in saved.iterdir():
                    child.rename(self._folder / child.name)
                saved.rmdir()

    def _save(self, folder: Path) -> None:
        orbax = self._checkpoints
        try:
            with orbax.Checkpointer(orbax.StandardCheckpointHandler()) as checkpointer:
                checkpointer.save(folder.resolve(), self._mapped(self._tree))
        except Exception as failure:  # of whatever kind: Orbax promises none
            raise CheckpointError(
                f"Orbax could not save this: {_first_line(failure)}. Write .safetensors or "
                ".msgpack."
            ) from None
