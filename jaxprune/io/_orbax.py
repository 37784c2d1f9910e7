"""Orbax folders: arrays in a tensorstore database, and JSON that says what tree they make.

Only tensorstore is needed to read one, and to write one anew from another: what is no array is
copied as it is. A folder made of another format is written by Orbax itself.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np

from jaxprune._text import shown
from jaxprune.io._checkpoint import Array, CheckpointError, Tensor, known_dtype, tree_of
from jaxprune.io._extras import needed

_METADATA = "_METADATA"
_MANIFEST = "manifest.ocdbt"


class OrbaxFolder:
    """A folder that Orbax wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = [path]
        self.metadata: dict[str, str] = {}
        self.others: list[str] = []
        self.arrays: dict[Tensor, str] = {}
        self.store = _Store(path, _tree_metadata(path))
        for entry in self.store.entries:
            keys = tuple(_key(each) for each in entry["key_metadata"])
            kind = entry["value_metadata"]
            if kind.get("skip_deserialize") or kind.get("value_type") in ("None", "string"):
                self.others.append("/".join(map(str, keys)))
                continue
            name = ".".join(map(str, keys))
            array = self.store.array(name)
            dtype = array.dtype.numpy_dtype
            nbytes = array.size * dtype.itemsize
            self.arrays[Tensor(keys, tuple(array.shape), dtype.name, nbytes)] = name
        self.tensors = list(self.arrays)

    def read(self, tensor: Tensor) -> Array:
        """The values of `tensor`."""
        values = np.empty(tensor.shape, self.store.array(self.arrays[tensor]).dtype.numpy_dtype)
        values[...] = self.store.array(self.arrays[tensor]).read().result()
        return values

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def is_orbax(path: Path) -> bool:
    """Whether a folder is one that Orbax wrote."""
    return (path / _METADATA).is_file()


def _tree_metadata(path: Path) -> dict[str, Any]:
    if not is_orbax(path):
        inner = [child.name for child in sorted(path.iterdir()) if is_orbax(child)]
        remedy = f"name {path / inner[0]}" if inner else "name a folder that Orbax wrote"
        raise CheckpointError(f"{path} has no {_METADATA}, so it is no Orbax checkpoint: {remedy}.")
    try:
        found: Any = json.loads((path / _METADATA).read_bytes())
        for entry in found["tree_metadata"].values():
            entry["value_metadata"].get("value_type")
            for each in entry["key_metadata"]:
                _key(each)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path / _METADATA} is not what Orbax writes ({shown(error)}): save it again."
        ) from None
    return found


def _key(entry: dict[str, Any]) -> str | int:
    # Lists are ordered by number, dicts by text.
    return int(entry["key"]) if entry["key_type"] == 1 else str(entry["key"])


class _Store:
    """The database of a folder: one of its own (OCDBT), or plain files."""

    def __init__(self, path: Path, metadata: dict[str, Any], like: "_Store | None" = None) -> None:
        self._ts = needed("tensorstore", "Orbax folders")
        self.path = path
        self.metadata = metadata
        self.entries = list(metadata["tree_metadata"].values())
        self.is_ocdbt: bool = like.is_ocdbt if like else (path / _MANIFEST).exists()
        self._driver = "zarr3" if metadata.get("use_zarr3") else "zarr"

    def _spec(self, name: str = "") -> dict[str, Any]:
        # The database takes no path with .. in it.
        base = {"driver": "file", "path": f"{self.path.resolve()}/"}
        if self.is_ocdbt:
            return {"driver": "ocdbt", "base": base, "path": name}
        return base | {"path": f"{base['path']}{name}"}

    def array(self, name: str) -> Any:
        """The array of this name, unread."""
        spec = {
            "driver": self._driver,
            "kvstore": self._spec(f"{name}/"),
            "store_data_equal_to_fill_value": True,
        }
        try:
            return self._ts.open(spec, open=True).result()
        except (ValueError, OSError, NotImplementedError) as error:
            raise CheckpointError(
                f"{self.path} should hold the array {name!r}, and does not "
                f"({shown(str(error).splitlines()[0])}): save it again."
            ) from None

    def keys(self) -> Any:
        """The database itself."""
        return self._ts.KvStore.open(self._spec()).result()


class OrbaxCopy:
    """Copies an Orbax folder, with other values in its arrays."""

    def __init__(self, folder: Path, source: OrbaxFolder) -> None:
        self._source = source
        self._store = _Store(folder, source.store.metadata, like=source.store)
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
            old, new = source.store.keys(), self._store.keys()
            for key in old.list().result():
                if key.rpartition(b"/")[2].startswith((b".z", b"zarr.json")):
                    new.write(key, old.read(key).result().value).result()

    def put(self, tensor: Tensor, array: Array) -> None:
        """Writes the tensor."""
        try:
            self._store.array(self._source.arrays[tensor]).write(array).result()
        except ValueError as error:  # so tensorstore reports a full disk
            raise CheckpointError(
                f"{tensor.name!r} could not be written: {str(error).splitlines()[0]}"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


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
        array.tofile(self._files[tensor])

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
                try:
                    with self._checkpoints.StandardCheckpointer() as checkpointer:
                        checkpointer.save(saved.resolve(), self._mapped(self._tree))
                except Exception as failure:  # of whatever kind: Orbax promises none
                    told = next(iter(str(failure).splitlines()), type(failure).__name__)
                    raise CheckpointError(
                        f"Orbax could not save this: {told}. Write .safetensors or .msgpack."
                    ) from None
                for child in saved.iterdir():
                    child.rename(self._folder / child.name)
                saved.rmdir()
