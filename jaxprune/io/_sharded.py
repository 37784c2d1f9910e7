"""Sharded safetensors: an index that says which tensor lies in which file beside it."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from jaxprune._text import shown
from jaxprune.io._checkpoint import Array, CheckpointError, Tensor
from jaxprune.io._json import read_json
from jaxprune.io._safetensors import open_safetensors
from jaxprune.io._spans import SpanFile, SpanWriter

INDEX = ".safetensors.index.json"
_SERIES = re.compile(r"(.+)-\d+(-of-\d+\.safetensors)")


class ShardedFile:
    """The shards of an index, as one checkpoint: shard by shard, each in its own order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = _index_in(path)
        names = _weight_map(self.index)
        _refuse_unnamed(self.index, set(names.values()))
        self.shards: dict[str, SpanFile] = {}
        self.others: list[str] = []
        self._open = ExitStack()
        try:
            for name in dict.fromkeys(names.values()):
                self.shards[name] = self._open.enter_context(
                    open_safetensors(self.index.parent / name)
                )
            self._check(names)
        except BaseException:
            self._open.close()
            raise
        self.home = {tensor: shard for shard in self.shards.values() for tensor in shard.tensors}
        self.tensors = list(self.home)
        self.files = [self.index, *(shard.path for shard in self.shards.values())]
        self.metadata = {k: v for shard in self.shards.values() for k, v in shard.metadata.items()}

    def _check(self, names: dict[str, str]) -> None:
        pairs = [(t.name, name) for name, shard in self.shards.items() for t in shard.tensors]
        strays = set(names.items()) ^ set(pairs)
        if strays or len(pairs) != len(names):
            tensor, shard = min(strays, default=("?", "?"))
            raise CheckpointError(
                f"{self.index} and its shards do not agree on {tensor!r} in {shard!r}: copy or "
                "download them again."
            )

    def read(self, tensor: Tensor) -> Array:
        """The values of `tensor`."""
        return self.home[tensor].read(tensor)

    def read_all(self, tensors: Sequence[Tensor], into: Array) -> None:
        """Fills memory with the bytes of tensors, end to end."""
        at = 0
        for shard, some in self.by_shard(tensors):
            nbytes = sum(tensor.nbytes for tensor in some)
            shard.read_all(some, into[at : at + nbytes])
            at += nbytes

    def by_shard(self, tensors: Sequence[Tensor]) -> Iterator[tuple[SpanFile, list[Tensor]]]:
        """Neighbours of one shard, and the shard."""
        for _, some in itertools.groupby(tensors, lambda tensor: id(self.home[tensor])):
            here = list(some)
            yield self.home[here[0]], here

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


def indices_in(folder: Path) -> list[Path]:
    """The indices of sharded checkpoints that lie in a folder."""
    return sorted(folder.glob(f"*{INDEX}"))


def _index_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    indices = indices_in(path)
    if len(indices) == 1:
        return indices[0]
    names = ", ".join(index.name for index in indices) or "none"
    raise CheckpointError(f"{path} should hold one *{INDEX}, got {names}: name the file.")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        document = read_json(index)
        names = document["weight_map"]
    except (LookupError, TypeError):
        raise CheckpointError(f"{index} is no index: expected JSON with a weight_map.") from None
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(
            f"{index} is no index: it {error}, expected JSON with a weight_map."
        ) from None
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index} is no index: its weight_map is {shown(names)}.")
    for shard in names.values():
        # An index from elsewhere shall not reach outside its folder.
        if not isinstance(shard, str) or Path(shard).name != shard or "\0" in shard:
            raise CheckpointError(
                f"{index} names the shard {shown(shard)}: expected a file name without folders."
            )
    return names


def _refuse_unnamed(index: Path, names: Iterable[str]) -> None:
    """Refuses shards of the index's series that it does not name: it is not the whole of them."""
    for prefix, total in {match.groups() for name in names if (match := _SERIES.fullmatch(name))}:
        pattern = re.compile(re.escape(prefix) + r"-\d+" + re.escape(total))
        lost = {path.name for path in index.parent.iterdir() if pattern.fullmatch(path.name)}
        if lost := lost - set(names):
            raise CheckpointError(
                f"{index} does not name {min(lost)}, which lies beside it and belongs to the same "
                "shards: download the index again, or take the file away."
            )


class ShardedCopy:
    """Copies an index and its shards into a folder, with other bytes in the places of tensors."""

    def __init__(self, folder: Path, source: ShardedFile) -> None:
        self._folder = folder
        self._source = source
        with ExitStack() as opened:
            self._writers = {
                id(shard): opened.enter_context(SpanWriter(folder / name, shard))
                for name, shard in source.shards.items()
            }
            self._open = opened.pop_all()

    def put(self, tensor: Tensor, array: Array) -> None:
        """Writes the next tensor to its shard."""
        self.put_all([tensor], [array])

    def put_all(self, tensors: Sequence[Tensor], arrays: Sequence[Array]) -> None:
        """Writes the next tensors, each to its shard."""
        left = iter(arrays)
        for shard, some in self._source.by_shard(tensors):
            self._writers[id(shard)].put_all(some, list(itertools.islice(left, len(some))))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._open.__exit__(kind, *error)  # type: ignore[arg-type]
        if kind is None:
            # Not by shutil, which names the input in what it raises when the disk is full.
            index = self._source.index
            (self._folder / index.name).write_bytes(index.read_bytes())
