"""What was gathered, by leaf: a tree of arrays that adds up, is saved and is loaded."""

import dataclasses
import json
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import NoMatch, PruningError, StructureMismatch
from jaxprune._text import integer, table
from jaxprune._tree import Leaf, node, some
from jaxprune.calibration._gathering import Gathering
from jaxprune.calibration._pieces import Piece
from jaxprune.calibration._statistics import Gather, Sums


class LeafStats(NamedTuple):
    """What is fixed of one leaf's statistics.

    Attributes:
        path: The leaf.
        shape: Its shape.
        input_axes: Its axes that are summed over, in the order of the array that is read.
        output_axes: Its axes that are left.
        batch_axes: Its axes of independent matrices: layers, experts.
        grams: The names of its Grams: one, or one for each part that the model reads by itself.
    """

    path: str
    shape: tuple[int, ...]
    input_axes: tuple[int, ...]
    output_axes: tuple[int, ...]
    batch_axes: tuple[int, ...]
    grams: tuple[str, ...] = ()


@node("squares", "grams", "counts")
@dataclasses.dataclass(frozen=True, eq=False)
class Stats:
    """Sums over the activations that each leaf is multiplied with, as `calibrate` gathers them.

    A tree of arrays: those of two runs over the same model are added by `+`, and `save` and `load`
    keep them in one `.npz` file. `print` shows them as a table.

    Attributes:
        squares: For each leaf by its path: sum_p x_p^2 of each of its inputs, float32, in a shape
            that broadcasts against the leaf: 1 along its outputs.
        grams: sum_p x_p x_p^T by name, float32, [*layers, batch, in, in], if they were gathered:
            inputs in the order of the array that the product reads. Leaves that read one activation
            share one; `gram(path)` is that of a leaf.
        counts: For each leaf the number p of positions at which each of its matrices was applied.
        leaves: What is fixed of each leaf.
    """

    squares: dict[str, jax.Array]
    grams: dict[str, jax.Array]
    counts: dict[str, jax.Array]
    leaves: tuple[LeafStats, ...]

    @property
    def gather(self) -> Gather:
        """What was gathered: "squares" or "gram"."""
        return "gram" if self.grams else "squares"

    def of(self, path: str) -> LeafStats:
        """What is fixed of a leaf.

        Args:
            path: The leaf's slash-joined path.
        """
        for leaf in self.leaves:
            if leaf.path == path:
                return leaf
        paths = [leaf.path for leaf in self.leaves]
        raise NoMatch(f"there are no stats of `{path}`: they are of {some(paths)}.")

    def gram(self, path: str) -> jax.Array:
        """The Gram of a leaf's inputs, [*layers, batch, in, in].

        Args:
            path: The leaf's slash-joined path.

        Raises:
            PruningError: None was gathered, or the model reads the leaf in parts, each of which has
                one of its own.
        """
        names = self.of(path).grams
        if len(names) == 1:
            return self.grams[names[0]]
        name = Leaf(path, None).name
        if names:
            raise PruningError(
                f"the model reads {name} in parts, and has a Gram for each: take them from grams, "
                f"by the names {', '.join(map(repr, names))}."
            )
        raise PruningError(f'no Gram of {name} was gathered: calibrate with gather="gram".')

    def unreached(self) -> dict[str, tuple[int, int]]:
        """The leaves of which a matrix met no data, as an expert does to which nothing is routed.

        Returns:
            By path how many of the leaf's matrices met only zeros, of how many.
        """
        silent_counts = {}
        for leaf in self.leaves:
            others = tuple(k for k in range(len(leaf.shape)) if k not in leaf.batch_axes)
            silent = np.max(np.asarray(self.squares[leaf.path]), axis=others) == 0
            if silent.any():
                silent_counts[leaf.path] = int(silent.sum()), silent.size
        return silent_counts

    def __add__(self, other: "Stats") -> "Stats":
        """The sums over both runs' batches.

        Raises:
            StructureMismatch: They are not of the same leaves, or not of the same kind.
        """
        if not isinstance(other, Stats):
            return NotImplemented
        if self.leaves != other.leaves:
            raise StructureMismatch(
                f"stats of {self.gather} of {len(self.leaves)} leaves and of {other.gather} of "
                f"{len(other.leaves)} do not add up: gather both of the same model, with one "
                "where=."
            )
        return jax.tree.map(jnp.add, self, other)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes all of it into one `.npz` file.

        Args:
            file: Its name.
        """
        arrays: dict[str, Any] = {
            f"{kind}/{name}": np.asarray(x)
            for kind in ("squares", "grams", "counts")
            for name, x in getattr(self, kind).items()
        }
        with open(file, "wb") as to:  # by its name NumPy would add an ending to it
            np.savez(to, leaves=np.array(json.dumps(self.leaves)), **arrays)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> "Stats":
        """Reads what `save` has written.

        Args:
            file: Its name.

        Raises:
            PruningError: It is another kind of file, or not all of one.
        """
        kinds: dict[str, dict[str, jax.Array]] = {"squares": {}, "grams": {}, "counts": {}}
        try:
            with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as archive:
                fixed = json.loads(str(archive["leaves"]))
                for key in archive.files:
                    kind, _, name = key.partition("/")
                    if kind in kinds:
                        kinds[kind][name] = jnp.asarray(archive[key])
            leaves = [LeafStats(path, *(tuple(part) for part in rest)) for path, *rest in fixed]
        except (ValueError, TypeError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise PruningError(
                f"{os.fspath(file)} is not what Stats.save has written, or not all of it: {error}"
            ) from error
        return cls(**kinds, leaves=tuple(leaves))

    def __str__(self) -> str:
        header = ("leaf", "shape", "matrices", "inputs", "positions", "gathered")
        silent = self.unreached()
        rows = []
        for leaf in self.leaves:
            count = np.asarray(self.counts[leaf.path])
            inputs = math.prod(leaf.shape[axis] for axis in leaf.input_axes)
            note = f"; {silent[leaf.path][0]} met no data" if leaf.path in silent else ""
            shape = "x".join(map(str, leaf.shape))
            positions = integer(int(count.sum()))
            what = self.gather + note
            rows.append(
                (leaf.path or "(array)", shape, str(count.size), str(inputs), positions, what)
            )
        return table(header, rows)

    __repr__ = __str__


def stats_of(gathering: Gathering, total: Sequence[Sums], gather: Gather) -> Stats:
    """The sums of pieces, by leaf."""
    of_leaf: dict[str, list[int]] = {}
    for k, piece in enumerate(gathering.pieces):
        of_leaf.setdefault(piece.leaf.path, []).append(k)
    names = [_gram_name(gathering, g, of_leaf) for g in range(len(total))]

    def one(path: str) -> LeafStats:
        pieces = [gathering.pieces[k] for k in of_leaf[path]]
        inputs, outputs, batch = (
            pieces[0].form.axes(word) for word in ("input", "output", "batch")
        )
        grams = tuple(names[gathering.group[k]] for k in of_leaf[path]) if gather == "gram" else ()
        shape = tuple(pieces[0].leaf.value.shape)
        return LeafStats(path, shape, inputs, outputs, batch, grams)

    @jax.jit
    def laid_out(total: list[Sums]) -> dict[str, jax.Array]:
        return {
            path: _squares(
                [gathering.pieces[k] for k in each],
                [of_inputs(total[gathering.group[k]]) for k in each],
            )
            for path, each in of_leaf.items()
        }

    counts = {
        path: jnp.concatenate([jnp.ravel(total[gathering.group[k]].count) for k in each])
        for path, each in of_leaf.items()
    }
    grams = {name: one.sums for name, one in zip(names, total, strict=True) if gather == "gram"}
    return Stats(laid_out(list(total)), grams, counts, tuple(map(one, of_leaf)))


def _gram_name(gathering: Gathering, group: int, of_leaf: dict[str, list[int]]) -> str:
    k = gathering.group.index(group)
    path = gathering.pieces[k].leaf.path
    return path if len(of_leaf[path]) == 1 else f"{path}:{of_leaf[path].index(k)}"


def of_inputs(sums: Sums) -> jax.Array:
    """The sum of squares of each input: what was summed, or the diagonal of the Gram."""
    is_gram = sums.sums.ndim == sums.count.ndim + 2
    squares: jax.Array = jnp.diagonal(sums.sums, axis1=-2, axis2=-1) if is_gram else sums.sums
    return squares


def _squares(pieces: Sequence[Piece], sums: Sequence[jax.Array]) -> jax.Array:
    """Squares of the pieces of one leaf, in a shape that broadcasts against it."""
    laid = [piece.form.over_box(x) for piece, x in zip(pieces, sums, strict=True)]
    if len(pieces) == 1 and pieces[0].is_whole:
        return laid[0]
    shape: list[int] = []
    for axis, size in enumerate(pieces[0].leaf.value.shape):
        is_shared = all(
            x.shape[axis] == 1 and piece.shape[axis] == size
            for piece, x in zip(pieces, laid, strict=True)
        )
        shape.append(1 if is_shared else size)
    out: Any = jnp.zeros(shape, jnp.float32)
    for piece, x in zip(pieces, laid, strict=True):
        box = [1 if n == 1 else m for n, m in zip(shape, piece.shape, strict=True)]
        at = [0 if n == 1 else k for n, k in zip(shape, piece.start, strict=True)]
        out = jax.lax.dynamic_update_slice(out, jnp.broadcast_to(x, box), at)
    return out
