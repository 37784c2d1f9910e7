"""A cut: which units of which groups stay."""

import dataclasses
import json
import numbers
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from jaxprune._errors import Problem, PruningError, raise_problems
from jaxprune._text import shown

_AS_JSON = '{"encoder/up": [0, 2, 3]}'


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """Which units stay: of every group that loses some, the indices of those that are kept.

    Of a residual block that is left out, none are. `one | other` cuts what either of two cuts does.

    Attributes:
        kept: By the name of a group or a block the sorted indices of the units that stay.

    Examples:
        >>> import jaxprune as jp
        >>> cut = jp.Cut({"encoder/up": (0, 2, 3)})
        >>> jp.Cut.from_json(cut.to_json()) == cut
        True
        >>> cut | jp.Cut({"encoder/up": (0, 1, 2), "encoder/attention:branch": ()})
        Cut(kept={'encoder/up': (0, 2), 'encoder/attention:branch': ()})
    """

    kept: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if not isinstance(self.kept, Mapping):
            raise PruningError(
                f'a cut is a mapping such as {{"encoder/up": (0, 2, 3)}}, got {shown(self.kept)}.'
            )
        problems = (_problem(str(name), units) for name, units in self.kept.items())
        raise_problems(problems)
        tidy = {str(name): tuple(map(int, units)) for name, units in self.kept.items()}
        object.__setattr__(self, "kept", tidy)

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.kept.items())))

    def __or__(self, other: "Cut") -> "Cut":
        if not isinstance(other, Cut):
            return NotImplemented
        both = dict(self.kept)
        for name, units in other.kept.items():
            both[name] = tuple(k for k in both.get(name, units) if k in units)
        return Cut(both)

    def to_json(self) -> str:
        """The cut as JSON, {group: kept indices}."""
        return json.dumps({name: list(units) for name, units in self.kept.items()})

    @classmethod
    def from_json(cls, text: str) -> "Cut":
        """The cut that `to_json` wrote.

        Args:
            text: JSON.

        Raises:
            PruningError: It is not JSON, or not that of a cut.
        """
        try:
            kept = json.loads(text)
        except ValueError as broken:
            raise PruningError(f"a cut is JSON such as {_AS_JSON}: {broken}.") from None
        return cls(kept)

    def save(self, path: Any) -> None:
        """Writes the cut to a JSON file.

        Args:
            path: Where.
        """
        pathlib.Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Any) -> "Cut":
        """The cut that `save` wrote.

        Args:
            path: Where.
        """
        return cls.from_json(pathlib.Path(path).read_text(encoding="utf-8"))


def _problem(name: str, units: Any) -> Problem | None:
    if isinstance(units, Iterable) and not isinstance(units, str | bytes):
        units = tuple(units)
        if all(isinstance(k, numbers.Integral) and not isinstance(k, bool) for k in units):
            return None
    return Problem(
        PruningError,
        f"a cut says of {name!r} which units stay, by integers such as (0, 2, 3), "
        f"got {shown(units)}.",
    )
