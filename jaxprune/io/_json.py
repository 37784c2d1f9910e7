"""JSON out of files that may lie: no name twice, no half characters, and a bounded structure."""

import json
import re
from collections import Counter
from typing import Any

from jaxprune._errors import shown

# Brackets, commas and colons, of which a tensor's entry in a safetensors header has twelve. A value
# without any of them is a string or a number, which takes memory in proportion to its text.
MOST_MARKS = 8_000_000

_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_MARKS = b"[{,:"


def parse_json(raw: bytes) -> Any:
    """The value of a JSON document.

    Args:
        raw: Its text, in UTF-8.

    Returns:
        The value.

    Raises:
        ValueError: it is not JSON, names something twice in one object, holds half of a surrogate
            pair, is nested too deep, or has more structure than any checkpoint; in a clause whose
            subject is the document.
    """
    if sum(map(raw.count, (bytes([mark]) for mark in _MARKS))) > MOST_MARKS:
        bare = _TEXT.sub(b"", raw)
        marks = sum(map(bare.count, (bytes([mark]) for mark in _MARKS)))
        if marks > MOST_MARKS:
            raise ValueError(f"has {marks} brackets, commas and colons, more than {MOST_MARKS}")
    try:
        text = raw.decode()
        found = json.loads(text, object_pairs_hook=_once, parse_int=_integer)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except _Twice as error:
        raise ValueError(str(error)) from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({shown(str(error))})") from None
    except RecursionError:
        raise ValueError("is not JSON (nested too deep)") from None
    return found


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise _Twice(f"names {shown(twice)} twice")
    return found


def _integer(text: str) -> int:
    # JSON's -0 is no integer to other readers. Python would take a quadratic time for long ones,
    # and no size in a file has more digits than this.
    return int(text) if text != "-0" and len(text) <= 40 else -1
