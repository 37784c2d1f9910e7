"""Which axes an operation couples that moves entries about, takes parts of them, or joins them."""

from collections.abc import Callable, Sequence

from jaxprune.shrinking._blocks import (
    Block,
    Misfit,
    joined_end_to_end,
    product,
    split,
    take_apart,
    units,
)
from jaxprune.shrinking._program import Axes, Place, fresh, total
from jaxprune.tracing import _layouts as at


def transposed(reading: at.Transposed, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    return [tuple(operands[0][k] for k in reading.order)]


def reshaped(reading: at.Reshaped, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    (shape,) = place.shapes
    before = [block.size for block in operands[0]]
    result: list[Block] = []
    for old, new in reshaped_runs(before, shape):
        blocks, sizes = [operands[0][k] for k in old], [shape[k] for k in new]
        try:
            result += _divided(product(blocks), sizes)
        except Misfit:
            words = "a reshape does not divide it into whole parts"
            for block in blocks:
                place.pin(block, words)
            result += [place.pinned(size, words) for size in sizes]
    return [tuple(result)]


def _divided(block: Block, sizes: Sequence[int]) -> list[Block]:
    divided = []
    for size in sizes[:-1]:
        major, block = split(block, size)
        divided.append(major)
    return [*divided, block] if sizes else divided


def reshaped_runs(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions that hold the same entries before and after a reshape."""
    if 0 in (*before, *after):
        return [(list(range(len(before))), list(range(len(after))))]
    runs, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        old, new = list(range(i, len(before)))[:1], list(range(j, len(after)))[:1]
        while (here := total(before[k] for k in old)) != (there := total(after[k] for k in new)):
            if here < there:
                old.append(i + len(old))
            else:
                new.append(j + len(new))
        runs.append((old, new))
        i, j = i + len(old), j + len(new)
    return runs


def broadcast(reading: at.Broadcast, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    (shape,) = place.shapes
    result = list(fresh(shape))
    for block, k in zip(operands[0], reading.axes, strict=True):
        if block.size == shape[k]:
            result[k] = block
    return [tuple(result)]


def squeezed(reading: at.Squeezed, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    return [tuple(block for k, block in enumerate(operands[0]) if k not in reading.axes)]


def sliced(reading: at.Sliced, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    results: list[list[Block]] = [[] for _ in reading.parts]
    for k, block in enumerate(operands[0]):
        ranges = [part[k] for part in reading.parts]
        for result, piece in zip(results, _pieces(place, block, ranges), strict=True):
            result.append(piece)
    return [tuple(result) for result in results]


def _pieces(place: Place, block: Block, ranges: Sequence[tuple[int, int, int]]) -> list[Block]:
    """What slices take of one axis."""
    try:
        return [_piece(block, *each) for each in ranges]
    except Misfit:
        words = "slices do not divide it into whole parts"
        place.pin(block, words)
        return [place.pinned(len(range(*each)), words) for each in ranges]


def _piece(block: Block, start: int, limit: int, stride: int) -> Block:
    size = len(range(start, limit, stride))
    if stride == 1:
        return take_apart(block, [start, limit - start, block.size - limit])[1]
    # Every second one, say: the same of the two in each pair.
    if block.size % stride or size != block.size // stride:
        raise Misfit
    major, minor = split(block, size)
    take_apart(minor, [1] * stride)
    return major


def padded(reading: at.Padded, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    (shape,) = place.shapes
    result = []
    for block, size, (before, after, between) in zip(
        operands[0], shape, reading.config, strict=True
    ):
        if min(before, after) < 0 or between:
            words = "padding takes positions away, or stands between them"
            place.pin(block, words)
            result.append(place.pinned(size, words))
        else:
            result.append(joined_end_to_end([units(before), block, units(after)]))
    return [tuple(result)]


def concatenated(reading: at.Concatenated, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    whole = [
        joined_end_to_end(axes[k] for axes in operands) if k == reading.axis else block
        for k, block in enumerate(operands[0])
    ]
    for axes in operands[1:]:
        for k, block in enumerate(axes):
            if k != reading.axis:
                place.join(whole[k], block)
    return [tuple(whole)]


def stacked(reading: at.Stacked, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    for axes in operands[1:]:
        for one, other in zip(operands[0], axes, strict=True):
            place.join(one, other)
    along = place.pinned(len(operands), "arrays are stacked along it")
    return [(*operands[0][: reading.axis], along, *operands[0][reading.axis :])]


def tiled(reading: at.Tiled, place: Place, operands: Sequence[Axes]) -> list[Axes]:
    pairs = zip(operands[0], reading.times, strict=True)
    return [tuple(product([units(times), block]) for block, times in pairs)]


# The rule for each way to move entries about.
MOVES: dict[type, Callable[..., list[Axes]]] = {
    at.Transposed: transposed,
    at.Reshaped: reshaped,
    at.Broadcast: broadcast,
    at.Squeezed: squeezed,
    at.Sliced: sliced,
    at.Padded: padded,
    at.Concatenated: concatenated,
    at.Stacked: stacked,
    at.Tiled: tiled,
}
