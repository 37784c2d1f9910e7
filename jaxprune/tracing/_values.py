"""What a reader knows of an array inside the function: which leaves it holds, and how.

A value is a tuple of `Part`s, one for each leaf that lies in the array, or `None`:

- `None`: it depends on the function's inputs. An activation.
- `()`: it depends on neither inputs nor leaves, or on leaves by products that were noted already.
- one part with `moves`: a leaf, or a piece of one, moved about.
- several such parts: leaves side by side, as after a concatenation.
- a part whose `moves` are None: the array is computed from the leaf alone, but not by moving it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeAlias

from jaxprune.tracing._dims import Dims, broadcast, resized
from jaxprune.tracing._moves import Each, Move, Pick, Rearrangement, Unstack


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One leaf's place in an array.

    Attributes:
        leaf: The number of the leaf.
        dims: Which of its axes lie behind each dimension of the array; None where that is unknown.
        moves: What was done to the leaf; None where more was done than moving its entries.
        by: The primitive that made it more than a move.
        is_lookup: Whether entries were looked up in it, at indices that need no inputs.
        batch: The leaf's axes along which loops have taken it apart.
        share: The part of the array's entries, of all turns of those loops, that are the leaf's.
    """

    leaf: int
    dims: Dims | None
    moves: tuple[Move, ...] | None = ()
    by: str = ""
    is_lookup: bool = False
    batch: tuple[int, ...] = ()
    share: Fraction = Fraction(1)

    @property
    def fill(self) -> Fraction:
        """How much of the array, over all turns of its loops, is this leaf."""
        share = self.share
        for dim in self.dims or ():
            share *= 1 if dim.is_whole else Fraction(dim.high - dim.low, dim.size)
        return share


Value: TypeAlias = tuple[Part, ...] | None


def moved(value: tuple[Part, ...], moves: Sequence[Rearrangement]) -> tuple[Part, ...]:
    """The value after `moves`; parts that a slice has left behind are gone."""

    def one(part: Part) -> Part | None:
        dims = part.dims
        for move in moves:
            if dims is None:
                break
            dims = move.dims(dims)
            if any(dim.low >= dim.high for dim in dims):
                return None
        then = None if part.moves is None else (*part.moves, *moves)
        return dataclasses.replace(part, dims=dims, moves=then)

    return tuple(part for part in map(one, value) if part is not None)


def unstacked(value: Value, loop: tuple[int, ...]) -> Value:
    """What one turn of a loop sees of a value that it takes apart along dimension 0."""
    return _each(value, lambda part: _taken(part, 0, Unstack(loop), keep=False))


def picked(value: tuple[Part, ...], picks: Sequence[Pick]) -> tuple[Part, ...]:
    """The value after a loop has read one index of it along each pick's axis."""
    for pick in picks:
        value = tuple(_taken(part, pick.axis, pick, keep=True) for part in value)
    return value


def restacked(value: Value, before: Value, loop: tuple[int, ...]) -> Value:
    """What a loop makes of `value`, of which it collects one a turn, along a new dimension 0.

    Args:
        value: One turn's result.
        before: All that the loop takes apart.
        loop: Where the loop stands in the jaxpr.
    """
    taken = {part.leaf: part for part in before or ()}

    def one(part: Part) -> Part:
        whole = taken.get(part.leaf)
        if whole is None or not whole.dims or part.dims is None:
            return dataclasses.replace(part, dims=None, moves=None, by=part.by or "scan")
        moves = part.moves
        if moves is not None:
            of_turn = moves.index(Unstack(loop)) if Unstack(loop) in moves else len(moves)
            inside = tuple(m for m in moves[of_turn + 1 :] if not isinstance(m, Unstack | Pick))
            is_whole = len(moves[: of_turn + 1]) + len(inside) == len(moves)
            moves = (*moves[:of_turn], Each(inside)) if is_whole else None
        return dataclasses.replace(
            part,
            dims=(whole.dims[0], *part.dims),
            moves=moves,
            by=part.by or "scan" * (moves is None),
            batch=tuple(axis for axis in part.batch if axis not in whole.dims[0].axes),
            share=whole.share,
        )

    return _each(value, one)


def looked_up(
    value: tuple[Part, ...], behind: Sequence[int] | None, shape: Sequence[int], by: str
) -> Value:
    """The value after entries of it were looked up, at indices that need no inputs.

    Args:
        value: What they were looked up in.
        behind: For each dimension of the result, that of `value`, where this is known.
        shape: The shape of the result.
        by: The primitive.
    """

    def one(part: Part) -> Part:
        dims = part.dims
        if dims is not None and behind is not None:
            dims = tuple(
                dims[k] if dims[k].size == size else resized(dims[k], size, 0, size)
                for k, size in zip(behind, shape, strict=True)
            )
        known_dims = dims if behind is not None else None
        return dataclasses.replace(
            part, dims=known_dims, moves=None, by=part.by or by, is_lookup=True
        )

    return _each(value, one)


def derived(value: Value, by: str) -> Value:
    """The value after something unknown was done to it that needs no inputs."""
    return _each(
        value, lambda part: dataclasses.replace(part, dims=None, moves=None, by=part.by or by)
    )


def combined(
    values: Sequence[Value], shapes: Sequence[Sequence[int]], shape: Sequence[int], by: str
) -> Value:
    """The value of an elementwise function of arrays of `shapes`, with a result of `shape`."""
    parts = [
        dataclasses.replace(part, dims=_stretched(part.dims, of, shape), moves=None)
        for value, of in zip(values, shapes, strict=True)
        for part in value or ()
    ]
    return merged([dataclasses.replace(part, by=part.by or by) for part in parts])


def merged(parts: Sequence[Part]) -> tuple[Part, ...]:
    """One part a leaf: of several, the one of which most is known."""
    best: dict[int, Part] = {}
    for part in parts:
        if part.leaf not in best or _known(part) > _known(best[part.leaf]):
            best[part.leaf] = part
    return tuple(best.values())


def joined(values: Sequence[Value], by: str) -> Value:
    """What holds whichever of these the array is: itself where all agree, else derived."""
    if all(value == values[0] for value in values):
        return values[0]
    if any(value is None for value in values):
        return None
    return derived(merged([part for value in values for part in value or ()]), by)


def _each(value: Value, change: Callable[[Part], Part]) -> Value:
    return None if value is None else tuple(map(change, value))


def _taken(part: Part, axis: int, move: Move, *, keep: bool) -> Part:
    moves = None if part.moves is None else (*part.moves, move)
    if part.dims is None:
        return dataclasses.replace(part, moves=moves)
    dim = part.dims[axis]
    left = (broadcast(1),) if keep else ()
    return dataclasses.replace(
        part,
        dims=part.dims[:axis] + left + part.dims[axis + 1 :],
        moves=moves,
        batch=tuple(dict.fromkeys((*part.batch, *dim.axes))),
        share=part.share * Fraction(dim.high - dim.low, max(dim.size, 1)),
    )


def _stretched(dims: Dims | None, of: Sequence[int], shape: Sequence[int]) -> Dims | None:
    """`dims` of an operand in the result of an elementwise function: sizes of 1 are broadcast."""
    if dims is None:
        return None
    if not of:
        return tuple(map(broadcast, shape))
    return tuple(
        dim if size == full else broadcast(full)
        for dim, size, full in zip(dims, of, shape, strict=True)
    )


def _known(part: Part) -> tuple[bool, int]:
    axes = {axis for dim in part.dims or () for axis in dim.axes}
    return part.moves is not None, len(axes) if part.dims is not None else -1
