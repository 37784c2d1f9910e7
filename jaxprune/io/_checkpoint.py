"""What a checkpoint is to the rest: a list of tensors, read one at a time, and a writer of them."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

import jax
import ml_dtypes
import numpy as np

from jaxprune._errors import PruningError

Array: TypeAlias = np.ndarray[Any, Any]


class CheckpointError(PruningError):
    """A file that cannot be read or written as asked."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a checkpoint, its values unread. `plan` takes it for an array.

    Attributes:
        keys: Where it stands: one name in a flat format, the keys on the way to it in a tree.
        shape: Its shape.
        dtype: The name NumPy or ml_dtypes knows its dtype by, or else what the file calls it.
        nbytes: What it takes.
    """

    keys: tuple[str | int, ...]
    shape: tuple[int, ...]
    dtype: str
    nbytes: int

    def __hash__(self) -> int:
        return hash(self.keys)  # no two tensors of a checkpoint have the same

    @property
    def name(self) -> str:
        """Its keys joined by slashes."""
        return "/".join(map(str, self.keys))

    @property
    def size(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)


class Checkpoint(Protocol):
    """An open checkpoint. It closes as a context manager does.

    Attributes:
        path: What was opened.
        files: The files that are read; or a folder, all of which is the checkpoint's.
        tensors: What it holds, in its own order.
        metadata: What it says of itself, in a format that can.
        others: What else it holds, by name: numbers, texts, and the like.
    """

    @property
    def path(self) -> Path: ...

    @property
    def files(self) -> Sequence[Path]: ...

    @property
    def tensors(self) -> Sequence[Tensor]: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    @property
    def others(self) -> Sequence[str]: ...

    def read(self, tensor: Tensor) -> Array:
        """The values, in memory of their own; the plain bytes where NumPy lacks the dtype."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, *error: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Put:
    """Takes the next tensor of those to be written.

    Attributes:
        all: Takes several at once.
    """

    all: Callable[[Sequence[Tensor], Sequence[Array]], None]

    def __call__(self, tensor: Tensor, array: Array) -> None:
        """Writes a tensor."""
        self.all([tensor], [array])


class Writer(Protocol):
    """Takes the tensors of a checkpoint one after the other, in its order."""

    def put(self, tensor: Tensor, array: Array) -> None:
        """Writes the next tensor."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, *error: object) -> None: ...


def paths_of(tensors: Sequence[Tensor]) -> dict[Tensor, str]:
    """The path of each tensor, as the library writes paths.

    Names are split at slashes. Where no name has one, they are split at dots, as PyTorch writes
    them: the tensors keep their order by name either way.

    Raises:
        CheckpointError: two tensors have one path.
    """
    dotted = is_dotted(tensors)
    paths = {t: t.name.replace(".", "/") if dotted else t.name for t in tensors}
    by_path: dict[str, Tensor] = {}
    for tensor, path in paths.items():
        if path in by_path:
            raise CheckpointError(f"two tensors have the path {path!r}: rename one of them.")
        by_path[path] = tensor
    return paths


def is_dotted(tensors: Sequence[Tensor]) -> bool:
    """Whether names are split at dots."""
    return not any("/" in tensor.name for tensor in tensors)


def tree_of(tensors: Sequence[Tensor]) -> Any:
    """Tensors in the nested dicts that their keys, or else their paths, make.

    Raises:
        CheckpointError: a tensor stands where others need a dict.
    """
    paths = paths_of(tensors)
    root: dict[Any, Any] = {}
    for tensor in tensors:
        keys = tensor.keys if len(tensor.keys) != 1 else tuple(paths[tensor].split("/"))
        node = root
        for key in ("", *keys)[:-1]:
            node = node.setdefault(key, {})
            if isinstance(node, Tensor):
                break
        if isinstance(node, Tensor) or ("", *keys)[-1] in node:
            raise CheckpointError(
                f"{tensor.name!r} and a tensor within it cannot both stand in a tree: write a flat "
                "format, such as safetensors."
            )
        node[("", *keys)[-1]] = tensor
    return root.get("", {})


def is_possible(shape: Sequence[int]) -> bool:
    """Whether NumPy could make an array of this shape, had it the memory."""
    if len(shape) > 64 or (shape and min(shape) < 0):
        return False
    return (math.prod(shape) or math.prod(filter(None, shape))) < 2**63


@functools.cache
def numpy_dtype(name: str) -> np.dtype[Any] | None:
    """The dtype that NumPy or ml_dtypes calls by this name; None where they know none."""
    try:
        dtype = np.dtype(getattr(ml_dtypes, name, name))
    except (TypeError, ValueError):
        return None
    # NumPy reads much more than its own names: "999999999f4", "V0", "O". And not all that
    # ml_dtypes has is a dtype.
    is_named = name == dtype.name or (dtype.kind in "USVMm" and name == dtype.str)
    return dtype if is_named and dtype.itemsize and not dtype.hasobject else None


def known_dtype(tensor: Tensor, path: Path, target: str) -> np.dtype[Any]:
    """The dtype of a tensor that is to be written in another format.

    Raises:
        CheckpointError: there is none.
    """
    dtype = numpy_dtype(tensor.dtype)
    if dtype is None:
        raise CheckpointError(
            f"{path}: {tensor.name!r} has dtype {tensor.dtype}, which {target} cannot hold: write "
            "the format that was read."
        )
    return dtype


def shaped(raw: Array, tensor: Tensor) -> Array:
    """Plain bytes as the values of `tensor`, where NumPy knows their dtype."""
    dtype = numpy_dtype(tensor.dtype)
    return raw if dtype is None else raw.view(dtype).reshape(tensor.shape)


def raw_bytes(array: Array) -> memoryview:
    """The bytes of an array in C order, uncopied where they lie so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def widened(array: Array) -> Array:
    """Floats as float64; in silence, where NumPy warns of NaNs that it calls signalling."""
    with np.errstate(all="ignore"):
        return array.astype(np.float64)


def wide_types(tensors: Sequence[Tensor]) -> AbstractContextManager[Any]:
    """Lets JAX have float64, where a tensor is of it."""
    if not any(tensor.dtype == "float64" for tensor in tensors):
        return nullcontext()
    # Old versions of JAX keep it elsewhere.
    place: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
    return place.enable_x64(True)
