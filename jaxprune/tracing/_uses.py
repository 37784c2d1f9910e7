"""What each leaf of a model is used for: the rows, the questions asked of them, and the table."""

import dataclasses
import difflib
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from jaxprune._errors import NoMatch, PruningError
from jaxprune._text import integer, table
from jaxprune._tree import Leaf
from jaxprune.tracing._dims import leaf_axes
from jaxprune.tracing._walk import Met

CONTRACTIONS = ("product", "convolution")

Word = Literal["input", "output", "batch"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Use:
    """One way in which a model reads a leaf, in one line of its source.

    Attributes:
        path: The leaf.
        use: "product", "convolution", "lookup", "elementwise", "derived" (the leaf is computed with
            before anything reads it), "opaque" (it goes into a primitive that cannot be read) or
            "unused".
        input_axes: The leaf's axes that the use sums over, in the order of the operand.
        output_axes: The leaf's axes that it leaves.
        batch_axes: The leaf's axes along which it holds independent matrices: layers, experts.
        multiply_adds: How many numbers it multiplies and adds.
        source: The model's `file:line`.
        primitive: What reads the leaf, or has made it derived.
        met: Each equation that reads the leaf so.
    """

    path: str
    use: str
    input_axes: tuple[int, ...] = ()
    output_axes: tuple[int, ...] = ()
    batch_axes: tuple[int, ...] = ()
    multiply_adds: int = 0
    source: str = ""
    primitive: str = ""
    met: tuple[Met, ...] = ()

    @property
    def is_contraction(self) -> bool:
        """Whether it is a product or a convolution."""
        return self.use in CONTRACTIONS

    def axes(self, word: Word) -> tuple[int, ...]:
        """The axes that a word means.

        Args:
            word: "input", "output" or "batch".
        """
        axes: tuple[int, ...] = getattr(self, f"{word}_axes")
        return axes

    @property
    def divided_axes(self) -> tuple[int, ...]:
        """The axes that the model cuts into several, which do not mean the same."""
        return tuple(
            axis
            for axis, times in Counter(
                (*self.input_axes, *self.output_axes, *self.batch_axes)
            ).items()
            if times > 1
        )

    @property
    def in_words(self) -> str:
        """The use, and what stands behind it where the word alone does not say."""
        named = self.use in ("derived", "opaque", "elementwise") and self.primitive
        return f"{self.use} ({self.primitive})" if named else self.use


def use_of(leaf: Leaf, met: Met, source: str) -> Use:
    """The row of a table for one meeting."""
    dims, roles, batch = met.part.dims, met.roles, met.part.batch
    axes: dict[str, tuple[int, ...]] = {}
    if roles is not None and dims is not None and met.use in (*CONTRACTIONS, "derived"):
        axes = {
            "input_axes": leaf_axes(dims, roles.input),
            "output_axes": leaf_axes(dims, roles.output),
        }
        batch = tuple(dict.fromkeys((*batch, *leaf_axes(dims, roles.batch))))
    equations = met.place.equations
    primitive = equations[-1].primitive.name if equations else "returned"
    by = met.part.by if met.use == "derived" else primitive
    return Use(
        leaf.path,
        met.use,
        **axes,
        batch_axes=batch,
        multiply_adds=met.multiply_adds,
        source=source,
        primitive=by,
        met=(met,),
    )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Uses:
    """What each leaf of a model is used for, read from its program.

    `print` shows it as a table. An array that one line reads in one way several times, as in an
    unrolled loop, is one row with all of its multiply-adds. Of a `while` loop one turn is counted,
    and of a `cond` every branch.

    Attributes:
        leaves: The leaves that were traced: paths, and descriptions of the arrays.
        rows: The uses, in the order of the leaves; every leaf has one at least.
    """

    leaves: tuple[Leaf, ...]
    rows: tuple[Use, ...]

    def of(self, path: str) -> tuple[Use, ...]:
        """The uses of one leaf.

        Args:
            path: The leaf's slash-joined path.
        """
        leaf_rows = tuple(row for row in self.rows if row.path == path)
        if not leaf_rows:
            near = difflib.get_close_matches(path, [leaf.path for leaf in self.leaves], n=3)
            meant = " or ".join(f"`{name}`" for name in near)
            remedy = f"did you mean {meant}?" if near else "trace the params that hold it."
            raise NoMatch(f"no leaf `{path}` was traced: {remedy}")
        return leaf_rows

    def is_product(self, path: str) -> bool:
        """Whether a product or a convolution reads the leaf as it is.

        Args:
            path: The leaf's slash-joined path.
        """
        return any(row.is_contraction for row in self.of(path))

    def multiply_adds(self, path: str) -> int:
        """The multiply-adds of all uses of a leaf.

        Args:
            path: The leaf's slash-joined path.
        """
        return sum(row.multiply_adds for row in self.of(path))

    def axes(self, path: str, word: Word) -> tuple[int, ...]:
        """The axes of a leaf that a word means, in the order of the array that is read.

        Args:
            path: The leaf's slash-joined path.
            word: "input", "output" or "batch".

        Raises:
            PruningError: No product or convolution reads the leaf, two do in different ways, or
                something reads it that cannot be read here.
        """
        rows = self.of(path)
        # The axes of a derived leaf are known where it was computed with entry by entry only.
        known = [row for row in rows if row.is_contraction]
        known = known or [row for row in rows if row.input_axes or row.output_axes]
        refusal = _refusal(Leaf(path, None).name, rows, known, word)
        if refusal:
            remedy = "Give an integer axis, or leave the leaf out with where=."
            raise PruningError(f"{refusal}. {remedy}")
        return known[0].axes(word)

    def fan_in(self, path: str) -> int:
        """How many numbers are summed for one output of a leaf.

        Args:
            path: The leaf's slash-joined path.
        """
        return self._size(path, "input")

    def fan_out(self, path: str) -> int:
        """How many outputs a leaf has.

        Args:
            path: The leaf's slash-joined path.
        """
        return self._size(path, "output")

    def _size(self, path: str, word: Word) -> int:
        (shape,) = [leaf.value.shape for leaf in self.leaves if leaf.path == path][:1]
        return math.prod(shape[axis] for axis in self.axes(path, word))

    def to_dict(self) -> dict[str, Any]:
        """The rows as plain data, ready for JSON."""
        return {
            "rows": [
                {
                    "path": row.path,
                    "use": row.use,
                    "input_axes": list(row.input_axes),
                    "output_axes": list(row.output_axes),
                    "batch_axes": list(row.batch_axes),
                    "multiply_adds": row.multiply_adds,
                    "source": row.source,
                }
                for row in self.rows
            ]
        }

    def __str__(self) -> str:
        header = ("leaf", "shape", "use", "input", "output", "batch", "multiply-adds", "source")
        shapes = {leaf.path: leaf.value.shape for leaf in self.leaves}
        rows: list[tuple[str, ...]] = [
            (
                row.path or "(array)",
                _sizes(shapes[row.path]),
                row.in_words,
                *map(_listed, (row.input_axes, row.output_axes, row.batch_axes)),
                integer(row.multiply_adds) if row.multiply_adds else "",
                _line(row),
            )
            for row in self.rows
        ]
        total = integer(sum(row.multiply_adds for row in self.rows))
        rows += [(), ("total", "", "", "", "", "", total, "")]
        return "\n".join([table(header, rows, left=3), *self._notes()])

    __repr__ = __str__

    def _notes(self) -> list[str]:
        notes = []
        for leaf in self.leaves:
            contractions = [row for row in self.of(leaf.path) if row.is_contraction]
            if len({(row.input_axes, row.output_axes) for row in contractions}) > 1:
                lines = ", ".join(dict.fromkeys(map(_line, contractions)))
                notes.append(f"{leaf.name} is read by different contractions: {lines}.")
        if any(met.place.in_while for row in self.rows for met in row.met if row.multiply_adds):
            notes.append("Multiply-adds in a while loop are those of one turn.")
        return ["", *notes] if notes else []


def rows_of(leaves: Iterable[Leaf], uses: Iterable[Use]) -> tuple[Use, ...]:
    """The rows of a table: by leaf, equal ones of one source line added up, unused ones said so."""
    of_leaf: dict[str, dict[Any, Use]] = {leaf.path: {} for leaf in leaves}
    for use in uses:
        axes = use.input_axes, use.output_axes, use.batch_axes
        key = use.use, use.primitive, use.source, axes
        same = of_leaf[use.path].get(key)
        if same is None:
            of_leaf[use.path][key] = use
        else:
            total = same.multiply_adds + use.multiply_adds
            both = dataclasses.replace(same, multiply_adds=total, met=same.met + use.met)
            of_leaf[use.path][key] = both
    return tuple(
        row for path, rows in of_leaf.items() for row in (rows.values() or [Use(path, "unused")])
    )


def _refusal(name: str, rows: Sequence[Use], known: Sequence[Use], word: Word) -> str:
    """Why a word means no axes of a leaf; "" where it does."""
    nothing = f'{name} has no "{word}" axes'
    opaque = [f"{row.primitive} ({_line(row)})" for row in rows if row.use == "opaque"]
    ways = {row.axes(word): row for row in known}
    divided = [axis for row in known for axis in row.axes(word) if axis in row.divided_axes]
    if opaque:
        return f"{nothing}: it goes into {' and '.join(opaque)}, which cannot be read"
    if not known:
        uses = dict.fromkeys(row.in_words + f" at {_line(row)}" * bool(row.source) for row in rows)
        return f"{nothing}: no product or convolution reads it. Its use: {' and '.join(uses)}"
    if len(ways) > 1:
        each = (f"{axes} in the {row.use} at {_line(row)}" for axes, row in ways.items())
        return f"{name} is read in different ways: its {word} axes are {'; '.join(each)}"
    at = _line(known[0])
    if divided and word != "batch":
        what = f"axis {divided[0]} of {name} is only in part an {word} axis"
        return f"{what}: the model cuts it into several at {at}"
    return "" if word == "batch" or () not in ways else f"{nothing} in the {known[0].use} at {at}"


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def _sizes(shape: Iterable[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _line(row: Use) -> str:
    return os.path.basename(row.source) or ("returned" if row.primitive == "returned" else "")
