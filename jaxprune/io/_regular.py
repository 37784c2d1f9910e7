"""Opens regular files and nothing else: a pipe never ends, and a device may answer for ever."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from jaxprune.io._checkpoint import CheckpointError

# A pipe without a writer would block the call that opens it.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path, *, buffering: int = -1) -> BinaryIO:
    """Opens a regular file, or a link to one, for reading.

    Args:
        path: The file.
        buffering: As for `open`.

    Returns:
        The open file.

    Raises:
        CheckpointError: it is a pipe, a device, a socket or a folder.
        OSError: it cannot be opened.
    """
    _check(path, path.stat().st_mode)
    handle = os.open(path, _FLAGS)
    try:
        _check(path, os.fstat(handle).st_mode)  # another file may stand there by now
        return os.fdopen(handle, "rb", buffering)
    except BaseException:
        os.close(handle)
        raise


def check_folder(folder: Path) -> int:
    """Checks that a folder holds regular files and folders alone, and adds up their sizes.

    Args:
        folder: The folder.

    Returns:
        The bytes that its files take together.

    Raises:
        CheckpointError: something else lies in it.
        OSError: it cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    total = 0
    for above, _, files in os.walk(folder, onerror=fail):
        for name in files:
            path = Path(above, name)
            try:
                status = path.stat()
            except FileNotFoundError:  # a link that leads nowhere: whoever needs it will say so
                continue
            _check(path, status.st_mode)
            total += status.st_size
    return total


def _check(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise CheckpointError(f"{path} is {kind}: expected a regular file; copy it to one.")


_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
