"""What lies beside the weights of a Hugging Face model: its configuration, and its tokenizer."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from jaxprune.io._atomic import replacing
from jaxprune.io._checkpoint import Checkpoint, CheckpointError
from jaxprune.io._outputs import naming
from jaxprune.io._regular import open_regular
from jaxprune.io._sharded import INDEX

_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_MOST, _LARGEST = 100, 100_000_000  # files, and bytes of one


def find_sidecars(source: Checkpoint) -> list[Path]:
    """The files beside a checkpoint that a model needs to be loaded, by their extensions.

    That are text (.json, .txt, .jinja) and tokenizers (.model, .tiktoken); no code, no other
    weights, and no index of shards, which is written with the shards.

    Args:
        source: An open checkpoint: a file in a model's folder, or the folder.

    Returns:
        The files, by name.

    Raises:
        CheckpointError: there is none, or one is no regular file, leads out of the folder, or is
            larger than any of a model.
        OSError: the folder cannot be read.
    """
    folder = source.path if source.path.is_dir() else source.path.parent
    read = {path.name for path in source.files}
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in _SUFFIXES and not path.name.startswith(".") and path.name not in read
    ]
    paths = [path for path in paths if not path.name.endswith(INDEX)]
    if not paths:
        raise CheckpointError(
            f"{folder} holds no configuration and no tokenizer ({', '.join(_SUFFIXES)}) that could "
            "be copied: leave --with-sidecars out."
        )
    if len(paths) > _MOST:
        raise CheckpointError(
            f"{folder} holds {len(paths)} files ({', '.join(_SUFFIXES)}), and a model has at most "
            f"{_MOST}: copy those that it needs, and leave --with-sidecars out."
        )
    for path in paths:
        _check(path)
    return paths


def _check(path: Path) -> None:
    folder = path.parent.resolve()
    # The files of the hub's cache are links to its blobs.
    homes = (folder, folder.parents[1] / "blobs") if len(folder.parents) > 1 else (folder,)
    if path.resolve().parent not in homes:
        raise CheckpointError(
            f"{path} is a link to {path.resolve()}, outside of its folder: copy what it means, and "
            "leave --with-sidecars out."
        )
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size > _LARGEST:
        raise CheckpointError(
            f"{path} has {size} bytes, more than any configuration or tokenizer: copy it yourself, "
            "and leave --with-sidecars out."
        )


def copy_sidecars(sidecars: Sequence[Path], target: Path) -> tuple[list[str], list[str]]:
    """Copies files to where an output was written. None is written over.

    Args:
        sidecars: What `find_sidecars` found.
        target: The output: a folder, or a file in one.

    Returns:
        The names of those that were copied, and of those that were there already.
    """
    folder = target if target.is_dir() else target.parent
    copied, there = [], []
    for path in sidecars:
        place = folder / path.name
        if os.path.lexists(place):
            there.append(path.name)
            continue
        with open_regular(path) as file, naming(place):
            mode = os.fstat(file.fileno()).st_mode & 0o666 | 0o600
            with replacing(place, mode) as temporary, temporary.open("wb") as copy:
                shutil.copyfileobj(file, copy)
        copied.append(path.name)
    return copied, there
