"""Outputs that are there as a whole or not at all.

An output is written under another name in its own folder, so that a rename can put it in place in
one step. While it is written, it is locked; the system drops the lock of a process that dies, so
the next run tells what was left behind from what is being written.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxprune.io._checkpoint import CheckpointError

try:
    import fcntl
except ImportError:  # Windows: there, a file that is open cannot be removed in the first place
    fcntl = None  # type: ignore[assignment]

PART = ".jaxprune-part"  # what the names of unfinished outputs end in


_placed: list[tuple[tuple[int, int], Path]] = []


def written() -> list[Path]:
    """The outputs put in place since `forget_written`, and that still stand there."""
    return [target for identity, target in _placed if _identity(target) == identity]


def forget_written() -> None:
    """Starts the list of `written` anew."""
    _placed.clear()


@contextmanager
def replacing(target: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yields an empty file to write; it becomes `target` at the end, or vanishes on an error.

    Args:
        target: The file to write.
        mode: The permissions of a new file, before the umask; one that is replaced lends its own.

    Yields:
        The file to fill.
    """
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder: name a file in it.")
    _sweep(target)
    temporary, handle = _part_of(target), None
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        _lock(handle)
        old = target.stat().st_mode & 0o777 if target.exists() else None
        temporary.chmod(mode & ~_umask() if old is None else old)
        yield temporary
        os.fsync(handle)
        _place(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        if handle is not None:
            os.close(handle)
    sync(target.parent)


@contextmanager
def creating(target: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yields a new folder to fill; it becomes `target` at the end, or vanishes on an error.

    One folder cannot replace another in one step, so the target may not exist, or must be empty.

    Args:
        target: The folder to write.
        mode: The most that its files permit, before the umask.

    Yields:
        The folder to fill.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CheckpointError(
            f"{target} exists, and a folder is only written whole: remove it, or name a new one."
        )
    _sweep(target)
    temporary, handle = _part_of(target), None
    try:
        temporary.mkdir(0o700)
        handle = os.open(temporary, os.O_RDONLY)
        _lock(handle)
        yield temporary
        _finish_folder(temporary, mode & ~_umask())
        _place(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if handle is not None:
            os.close(handle)
    sync(target.parent)


def _part_of(target: Path) -> Path:
    # A name first and the file afterwards: whenever a signal comes, it is known what to remove.
    return target.parent / f".{target.name}.{secrets.token_hex(4)}{PART}"


def _place(temporary: Path, target: Path) -> None:
    identity = _identity(temporary)
    if identity is not None:
        _placed.append((identity, target))
    temporary.replace(target)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _finish_folder(folder: Path, mode: int) -> None:
    for above, _, files in os.walk(folder):
        for file in files:
            path = Path(above, file)
            path.chmod(path.stat().st_mode & (mode | 0o100))
            sync(path)
        # A folder can be listed by whoever may read it.
        Path(above).chmod(0o700 | mode | (mode & 0o444) >> 2)
        sync(Path(above))


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


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Waits until what was written to a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
