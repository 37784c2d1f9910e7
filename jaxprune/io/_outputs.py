"""Files and folders that are written in some format: whole, checked, or not at all."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from jaxprune._progress import Bar, Progress, quiet
from jaxprune.io._atomic import PART, creating, replacing, sync
from jaxprune.io._checkpoint import (
    Array,
    Checkpoint,
    CheckpointError,
    Put,
    Tensor,
    Writer,
    paths_of,
    raw_bytes,
)
from jaxprune.io._formats import (
    SAFETENSORS,
    Format,
    format_of_name,
    format_of_source,
    format_of_target,
)
from jaxprune.io._safetensors import lay_out_header
from jaxprune.io._sharded import ShardedCopy
from jaxprune.io._spans import PlacedWriter, SpanFile, SpanWriter


@contextmanager
def rewriting(
    target: Path | str,
    source: Checkpoint,
    *,
    mask_target: Path | None = None,
    masks: Sequence[Tensor] = (),
    progress: Progress = quiet,
) -> Iterator[tuple[Put, Put]]:
    """Writes `target` whole or not at all: what `source` holds, with the values that are put.

    In the format of the source all else is copied byte for byte.

    Args:
        target: The file or folder to write; its extension says in which format, and a slash at its
            end that it is a folder.
        source: The checkpoint that is rewritten. Every tensor of it is put, in its order.
        mask_target: A second file, put in place together with the first.
        masks: The tensors that it holds, each of which is put, in their order.
        progress: Makes a progress bar of a label and a number of bytes.

    Yields:
        `put(tensor, array)`, and the same for the masks; without a file for them it does nothing.

    Raises:
        CheckpointError: the target would be the source, or the format cannot hold what is there.
    """
    is_folder = str(target).endswith("/")  # which a Path does not keep
    target = Path(target)
    for path in (target, mask_target):
        if path is not None:
            refuse_input(path, source)
    writes = [_rewrite(target, format_of_target(target, source, is_folder=is_folder), source)]
    if mask_target is not None:
        mask_format = format_of_name(mask_target)
        writes.append(
            _Write(mask_target, mask_format, lambda path: mask_format.make(path, masks, {}))
        )
    with _written(writes, mode_of(source), progress) as puts:
        yield puts[0], puts[1] if mask_target is not None else Put(_nowhere)


def _nowhere(tensors: Sequence[Tensor], arrays: Sequence[Array]) -> None:
    del tensors, arrays


def _rewrite(target: Path, format_: Format, source: Checkpoint) -> "_Write":
    source_format = format_of_source(source.path)
    if source_format is format_:
        return _Write(target, format_, lambda path: format_.copy(path, source))
    if source.others:
        raise CheckpointError(
            f"{source.path} also holds {', '.join(map(repr, source.others[:3]))}, no plain arrays, "
            f"and {format_.name} could not keep them: write {source_format.name}."
        )
    return _Write(target, format_, lambda path: format_.make(path, source.tensors, source.metadata))


@contextmanager
def making(
    target: Path,
    tensors: Sequence[Tensor],
    metadata: Mapping[str, str],
    *,
    mode: int = 0o666,
    progress: Progress = quiet,
) -> Iterator[Put]:
    """Writes `target` whole or not at all: these tensors, each of which is put, in their order.

    Args:
        target: The file to write; its extension says in which format.
        tensors: What it will hold.
        metadata: What it will say of itself, if the format can.
        mode: The permissions of a new file, before the umask.
        progress: Makes a progress bar of a label and a number of bytes.

    Yields:
        `put(tensor, array)`.
    """
    format_ = format_of_name(target)
    write = _Write(target, format_, lambda path: format_.make(path, tensors, metadata))
    with _written([write], mode, progress) as (put,):
        yield put


@contextmanager
def converting(
    target: Path | str,
    source: Checkpoint,
    *,
    header: bytes | None = None,
    progress: Progress = quiet,
) -> Iterator[Put]:
    """Writes `target` whole or not at all: the tensors of `source`, each of which is put.

    Args:
        target: The file or folder to write; its extension says in which format.
        source: What is read.
        header: The header of a safetensors file of these tensors, if one is to be kept.
        progress: Makes a progress bar of a label and a number of bytes.

    Yields:
        `put(tensor, array)`.
    """
    is_folder = str(target).endswith("/")
    target = Path(target)
    refuse_input(target, source)
    format_ = format_of_target(target, source, is_folder=is_folder)

    def write(path: Path) -> Writer:
        if header is not None and format_ is SAFETENSORS:
            spans = lay_out_header(path, header)
            if set(spans) != set(source.tensors):
                raise CheckpointError(
                    f"{source.path} keeps a header that does not name its tensors: pack it again."
                )
            return PlacedWriter(path, spans)
        return format_.make(path, source.tensors, source.metadata)

    with _written([_Write(target, format_, write)], mode_of(source), progress) as (put,):
        yield put


def mode_of(source: Checkpoint) -> int:
    """The permissions of a new output: those that all files of the source share."""
    mode = 0o666
    for path in source.files:
        mode &= path.stat().st_mode
    return mode | 0o600


def refuse_input(target: Path, source: Checkpoint) -> None:
    """Refuses to write over what is read, or into a folder that is read as a whole.

    Raises:
        CheckpointError: `target` is such a place.
    """
    is_read = target.exists() and any(map(target.samefile, (source.path, *source.files)))
    if is_read or any(path.resolve() in target.resolve().parents for path in source.files):
        raise CheckpointError(
            f"{target} belongs to the input, {source.path}: name another output, and rename it "
            "afterwards."
        )


@dataclass(frozen=True, slots=True)
class _Write:
    """An output: where, in which format, and what writes it."""

    target: Path
    format: Format
    writer: Callable[[Path], Writer]


@contextmanager
def _written(writes: Sequence[_Write], mode: int, progress: Progress) -> Iterator[list[Put]]:
    """Fills several outputs, and puts them in place together when all have been checked."""
    with ExitStack() as places, ExitStack() as fills:
        paths = []
        for write in writes:
            places.enter_context(naming(write.target))
            place = creating if write.format.is_folder else replacing
            paths.append(places.enter_context(place(write.target, mode)))
        yield [
            fills.enter_context(_checked(write, path, progress))
            for write, path in zip(writes, paths, strict=True)
        ]


@contextmanager
def _checked(write: _Write, path: Path, progress: Progress) -> Iterator[Put]:
    """Fills the file or folder that stands in for an output, and compares what can be read back."""
    sums: dict[Tensor, int] = {}
    with naming(write.target):
        with write.writer(path) as writer:
            checks_itself = isinstance(writer, SpanWriter | ShardedCopy)

            def put(tensors: Sequence[Tensor], arrays: Sequence[Array]) -> None:
                with naming(write.target):
                    if isinstance(writer, SpanWriter | ShardedCopy):
                        writer.put_all(tensors, arrays)
                        return
                    for tensor, array in zip(tensors, arrays, strict=True):
                        sums[tensor] = zlib.crc32(raw_bytes(array))
                        writer.put(tensor, array)

            yield Put(put)
        if not checks_itself:
            with progress("checking", sum(tensor.nbytes for tensor in sums)) as bar:
                _read_back(write.format, path, write.target, sums, bar)
        if path.is_file():
            sync(path)


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """Has what the system refuses name the output, and not the file that stands in for it."""
    try:
        yield
    except OSError as error:
        if error.filename is None or PART in str(error.filename):
            error.filename = str(target)
        raise


def _read_back(
    format_: Format, path: Path, target: Path, sums: Mapping[Tensor, int], bar: Bar
) -> None:
    disk_sums = {}
    with format_.open(path) as written:
        for tensor in written.tensors:
            disk_sums[tensor] = _checksum(written, tensor)
            bar.update(tensor.nbytes)
    # By path: a flat format and a tree write the same name in different ways.
    if _by_path(disk_sums) != _by_path(sums):
        raise CheckpointError(f"{target}: what was written reads back otherwise. Check the disk.")


def _checksum(written: Checkpoint, tensor: Tensor) -> int:
    if isinstance(written, SpanFile):
        return written.checksum(tensor)
    return zlib.crc32(raw_bytes(written.read(tensor)))


def _by_path(sums: Mapping[Tensor, int]) -> dict[str, int]:
    return {path: sums[tensor] for tensor, path in paths_of(list(sums)).items()}
