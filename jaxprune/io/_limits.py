"""Limits that no honest checkpoint meets, so that a file costs in proportion to its size."""

from pathlib import Path

from jaxprune.io._checkpoint import CheckpointError

_MOST_TENSORS = 200_000


def refuse_crowded(path: Path, count: int) -> None:
    """Refuses a file of more tensors than the largest models have in all of theirs.

    Raises:
        CheckpointError: it has more than 200,000.
    """
    if count > _MOST_TENSORS:
        raise CheckpointError(
            f"{path} has {count} tensors, and {_MOST_TENSORS} are the most that one file may have: "
            "divide it into shards."
        )


_MOST_INFLATION = 100
_ALWAYS_FINE = 1 << 28


def refuse_inflated(path: Path, stored: int, held: int) -> None:
    """Refuses a compressed file that holds far more than any weights would be compressed to.

    Raises:
        CheckpointError: it holds more than 100 times its size, and more than 256 MiB.
    """
    if held > max(_ALWAYS_FINE, _MOST_INFLATION * stored):
        raise CheckpointError(
            f"{path} takes {stored} bytes and claims to hold {held}, more than "
            f"{_MOST_INFLATION} times as much: if they are meant, write it without compression."
        )
