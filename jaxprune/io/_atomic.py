"""Outputs that are there as a whole or not at all.

An output is written under another name in its own folder, so that a rename can put it in place in
one step. While it is written, it is locked; the system drops the lock of a process that dies, so
the next run tells what was left behind from what is being written.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxprune.io._checkpoint import CheckpointError

try:
    import fcntl
except ImportError:  # Windows: there, a file that is open cannot be removed in the first place
    fcntl = None  # type: ignore[assignment]

PART = ".jaxprune-part"  # what the names of unfinished outputs end in


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields an empty file to write; it becomes `target` at the end, or vanishes on an error."""
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder: name a file in it.")
    _sweep(target)
    handle, name = tempfile.mkstemp(PART, f".{target.name}.", target.parent)
    temporary = Path(name)
    try:
        _lock(handle)
        _like_others(target, temporary)
        yield temporary
        os.fsync(handle)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    _sync(target.parent)


@contextmanager
def creating(target: Path) -> Iterator[Path]:
    """Yields a new folder to fill; it becomes `target` at the end, or vanishes on an error.

    One folder cannot replace another in one step, so the target may not exist, or must be empty.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CheckpointError(
            f"{target} exists, and a folder is only written whole: remove it, or name a new one."
        )
    _sweep(target)
    temporary = Path(tempfile.mkdtemp(PART, f".{target.name}.", target.parent))
    handle = os.open(temporary, os.O_RDONLY)
    try:
        _lock(handle)
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for folder, _, files in os.walk(temporary):
            for path in (*(Path(folder, file) for file in files), Path(folder)):
                _sync(path)
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(handle)
    _sync(target.parent)


def _lock(handle: int) -> None:
    """Locks a file or folder, or raises if a process has done so that is alive."""
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sweep(target: Path) -> None:
    """Removes what runs that died have left of this target."""
    if not target.parent.is_dir():
        raise CheckpointError(f"{target} cannot be written: {target.parent} is no folder; make it.")
    for path in target.parent.glob(f".{_literal(target.name)}.*{PART}"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                _lock(handle)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _like_others(target: Path, temporary: Path) -> None:
    """Gives a file the permissions of the one it replaces, or those of any new file."""
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
    temporary.chmod(mode)


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
