"""Leaves found by how their paths end: those of an optimizer's state, an average, a gradient."""

from collections import Counter
from collections.abc import Sequence


class Paths:
    """Paths of leaves, to be found by the ends of other paths.

    Attributes:
        paths: The paths.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self._parts = [path.split("/") for path in paths]
        self._by_end: dict[str, list[int]] = {}
        for k, parts in enumerate(self._parts):
            self._by_end.setdefault(parts[-1], []).append(k)

    def ending_as(self, path: str) -> tuple[list[int], int]:
        """The numbers of the paths that end as `path` does, for as many parts as any does.

        Args:
            path: The path.

        Returns:
            The numbers, and how many parts agree.
        """
        parts = path.split("/")
        candidates = self._by_end.get(parts[-1], [])
        shared = {k: _shared(self._parts[k], parts) for k in candidates}
        most = max(shared.values(), default=0)
        return [k for k, count in shared.items() if count == most], most

    def _named_in(self, path: str) -> tuple[list[int], int]:
        """As `ending_as`, also of what stands below a leaf: several statistics of one, say."""
        best_match = self.ending_as(path)
        parts = path.split("/")
        for end in range(len(parts) - 1, 0, -1):
            numbers, shared = self.ending_as("/".join(parts[:end]))
            # A single part in common may be chance, as "scale" would be.
            is_sure = shared > 1 or any(len(self._parts[k]) == shared for k in numbers)
            if shared > best_match[1] and is_sure:
                best_match = numbers, shared
        return best_match

    def of_tree(self, others: Sequence[str]) -> list[list[int]]:
        """For each path of a tree the numbers of the paths that it may stand for.

        Where several end alike, those are taken that lie where most of the tree does: a tree is
        the whole, or a part of the whole with one place in it.

        Args:
            others: The paths of the tree.
        """
        matches = [self._named_in(path) for path in others]
        places = [
            {k: tuple(self._parts[k][: len(self._parts[k]) - shared]) for k in numbers}
            for numbers, shared in matches
        ]
        tally = Counter(place for of in places for place in set(of.values()))
        chosen = []
        for of in places:
            most = max((tally[place] for place in of.values()), default=0)
            chosen.append([k for k, place in of.items() if tally[place] == most])
        return chosen


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count
