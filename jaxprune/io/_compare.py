"""What changed between two checkpoints: masks, kept weights, and what is in one of them alone."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprune._progress import Progress, quiet
from jaxprune._text import integer, table
from jaxprune._tree import is_prunable
from jaxprune.io._checkpoint import Array, Checkpoint, Tensor, paths_of, widened

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two versions of a tensor, or of all of them, weight by weight.

    Attributes:
        total: The weights.
        both: How many are not zero in either.
        only_a: How many are not zero in A alone.
        only_b: How many are not zero in B alone.
        distance: The sum of the squares of the differences, over the weights in `both`.
        length: The sum of the squares of A's weights, over the same.
        furthest: The largest difference among them, in magnitude.
    """

    total: int = 0
    both: int = 0
    only_a: int = 0
    only_b: int = 0
    distance: float = 0.0
    length: float = 0.0
    furthest: float = 0.0

    @property
    def iou(self) -> float:
        """Intersection over union of what is not zero; 1.0 where all is zero in both."""
        union = self.both + self.only_a + self.only_b
        return self.both / union if union else 1.0

    @property
    def drift(self) -> float:
        """How far the weights in `both` have moved: |B - A| over |A|, Euclidean."""
        if not self.length:
            return 0.0 if not self.distance else math.inf
        return math.sqrt(self.distance / self.length)

    def __add__(self, other: "Overlap") -> "Overlap":
        *mine, furthest = dataclasses.astuple(self)
        *others, further = dataclasses.astuple(other)
        # NumPy's maximum is NaN if either is.
        sums = [a + b for a, b in zip(mine, others, strict=True)]
        return Overlap(*sums, float(np.maximum(furthest, further)))  # type: ignore[call-arg]

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, ready for JSON: None for NaN and infinities, which it lacks."""
        counts = {name: getattr(self, name) for name in ("total", "both", "only_a", "only_b")}
        ratios = {"iou": self.iou, "drift": self.drift, "furthest": self.furthest}
        return counts | {name: x if math.isfinite(x) else None for name, x in ratios.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two checkpoints side by side. Print it.

    Attributes:
        rows: The floating tensors that both have in one shape, by path.
        only_a: The paths of the tensors that A alone has.
        only_b: The paths of the tensors that B alone has.
        changed: What the tensors are in A and in B whose shape or dtype differs, by path.
        others_changed: The paths of the tensors without floats whose bytes differ.
    """

    rows: dict[str, Overlap]
    only_a: list[str]
    only_b: list[str]
    changed: dict[str, tuple[str, str]]
    others_changed: list[str]

    @property
    def all(self) -> Overlap:
        """All rows together."""
        return sum(self.rows.values(), Overlap())

    @property
    def remarks(self) -> list[str]:
        """What differs beside the rows, a line each."""
        return [
            *(f"only in A: {path}" for path in self.only_a),
            *(f"only in B: {path}" for path in self.only_b),
            *(f"changed: {path}: {a} in A, {b} in B" for path, (a, b) in self.changed.items()),
            *(f"other values: {path}" for path in self.others_changed),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers, ready for JSON."""
        return {
            "rows": [{"path": path} | row.to_dict() for path, row in self.rows.items()],
            "all": self.all.to_dict(),
            "only_a": self.only_a,
            "only_b": self.only_b,
            "changed": {path: list(pair) for path, pair in self.changed.items()},
            "others_changed": self.others_changed,
        }

    def __str__(self) -> str:
        header = ["tensor", "weights", "both", "only A", "only B", "IoU", "drift", "furthest"]
        cells: list[Sequence[str]] = [_cells(path, row) for path, row in self.rows.items()]
        lines = [table(header, [*cells, [], _cells("all", self.all)])]
        lines += self.remarks
        lines.append(
            "both, only A, only B: weights that are not zero there; drift: |B - A| / |A| of those "
            "in both."
        )
        return "\n".join(lines)


def compare_checkpoints(a: Checkpoint, b: Checkpoint, *, progress: Progress = quiet) -> Comparison:
    """Compares two checkpoints, a pair of tensors at a time.

    Args:
        a: An open checkpoint.
        b: Another.
        progress: Makes a progress bar of a label and a number of bytes.

    Returns:
        What differs.
    """
    ours = {path: tensor for tensor, path in paths_of(a.tensors).items()}
    theirs = {path: tensor for tensor, path in paths_of(b.tensors).items()}
    shared = sorted(set(ours) & set(theirs))
    rows, changed, others = {}, {}, []
    with progress("comparing", sum(ours[path].nbytes for path in shared)) as bar:
        for path in shared:
            pair = ours[path], theirs[path]
            if (pair[0].shape, pair[0].dtype) != (pair[1].shape, pair[1].dtype):
                changed[path] = _described(pair[0]), _described(pair[1])
            if pair[0].shape == pair[1].shape:
                values = a.read(pair[0]), b.read(pair[1])
                if all(map(is_prunable, pair)):
                    rows[path] = sum(map(_overlap, *map(_parts, values)), Overlap())
                elif path not in changed and values[0].tobytes() != values[1].tobytes():
                    others.append(path)
            bar.update(pair[0].nbytes)
    return Comparison(
        rows, sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours)), changed, others
    )


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype}[{', '.join(map(str, tensor.shape))}]"


def _parts(values: Array) -> Iterator[Array]:
    flat = values.reshape(-1)
    return (widened(flat[at : at + _CHUNK]) for at in range(0, flat.size, _CHUNK))


def _overlap(a: Array, b: Array) -> Overlap:
    in_a, in_b = a != 0, b != 0
    both = in_a & in_b
    old, new = a[both], b[both]
    with np.errstate(all="ignore"):  # a NaN shows as one; equal infinities have not moved
        moved = np.where(old == new, 0.0, new - old)
        return Overlap(
            total=a.size,
            both=int(np.count_nonzero(both)),
            only_a=int(np.count_nonzero(in_a & ~in_b)),
            only_b=int(np.count_nonzero(in_b & ~in_a)),
            distance=float(np.square(moved).sum()),
            length=float(np.square(old).sum()),
            furthest=float(np.abs(moved).max(initial=0.0)),
        )


def _cells(path: str, row: Overlap) -> list[str]:
    counts = map(integer, (row.total, row.both, row.only_a, row.only_b))
    return [path, *counts, f"{row.iou:.4f}", f"{row.drift:.4g}", f"{row.furthest:.4g}"]
