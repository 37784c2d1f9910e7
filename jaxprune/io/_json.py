"""JSON out of files that may lie: no name twice, no half characters, and a bounded structure."""

import gc
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxprune._text import shown
from jaxprune.io._regular import open_regular

# Brackets, commas and colons, wherever they stand: Orbax writes forty for each tensor. What has
# none of them is a string or a number, whose memory is in proportion to its text.
MOST_MARKS = 8_000_000
_MARKS = b"[{,:"
LONGEST = 100_000_000  # bytes; what the safetensors format allows a header


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Args:
        path: The file.

    Returns:
        The value.

    Raises:
        CheckpointError: it is no regular file.
        ValueError: as `parse_json` does; or it is longer than any index.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > LONGEST:
            raise ValueError(f"has more than {LONGEST} bytes")
        return parse_json(file.read())


def parse_json(raw: bytes, most: int = MOST_MARKS) -> Any:
    """The value of a JSON document.

    Args:
        raw: Its text, in UTF-8.
        most: How many brackets, commas and colons it may have.

    Returns:
        The value.

    Raises:
        ValueError: it is not JSON, names something twice in one object, holds half of a surrogate
            pair, is nested too deep, or has more structure than any checkpoint; in a clause whose
            subject is the document.
    """
    marks = sum(raw.count(mark) for mark in _MARKS)
    if marks > most:
        raise ValueError(f"has {marks} brackets, commas and colons, more than {most}")
    try:
        text = raw.decode()
        with _no_collection():
            value = json.loads(text, object_pairs_hook=_once, parse_int=_integer)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except _Twice as error:
        raise ValueError(str(error)) from None
    except UnicodeDecodeError:
        raise ValueError("is not JSON (no text in UTF-8)") from None
    except UnicodeEncodeError:
        raise ValueError("is not JSON (a name holds half of a surrogate pair)") from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({shown(str(error))})") from None
    except RecursionError:
        raise ValueError("is not JSON (nested too deep)") from None
    return value


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps Python from looking for cycles, which JSON cannot have, again and again meanwhile."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise _Twice(f"names {shown(twice)} twice")
    return entries


def _integer(text: str) -> int:
    # JSON's -0 is no integer to other readers. Python would take a quadratic time for long ones,
    # and no size in a file has more digits than this.
    return int(text) if text != "-0" and len(text) <= 40 else -1
