"""Positions along an axis, as units that are cut or stay together.

Every axis of every value of a program is a `Block`. A block is one of three things:

- units: `size` positions, each of which can be cut for itself, or none of which can (`why`);
- a product: the positions of an axis that was, or is going to be, reshaped into several;
- a sum: pieces one after another, as a concatenation makes them and slices take them apart.

Whatever couples two axes joins their blocks, and from then on they are one. A block of units turns
into a product or a sum when something takes it apart, for everybody who holds it. Parts are always
smaller than the whole, so taking apart ends. Where two structures have no common refinement (6 x 4
against 4 x 6), nothing in them can be cut: coarser, and still right.

The cost depends on how many operations a program has, not on the sizes of its axes.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

Kind: TypeAlias = Literal["units", "product", "sum"]


class Misfit(Exception):
    """Positions that do not divide into the wanted parts."""


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Block:
    """Positions along an axis.

    Attributes:
        size: How many.
        why: Of units alone: why none of them can be cut; None if they can.
        kind: What the block is.
        parts: Of a product, from major to minor; of a sum, from first to last.
        same: The block that this one has been joined to.
    """

    size: int
    why: Any = None
    kind: Kind = "units"
    parts: tuple["Block", ...] = ()
    same: "Block | None" = None


# A position that is alone on its axis is never cut: an axis is not emptied.
ONE = Block(1, "the only one on its axis")


def units(size: int, why: Any = None) -> Block:
    """New units that nothing is known about, or that cannot be cut."""
    if size == 0:
        return Block(0, "there is none")
    return ONE if size == 1 else Block(size, why)


def root(block: Block) -> Block:
    """The block that stands for this one and all that it was joined to."""
    end = block
    while end.same is not None:
        end = end.same
    while block.same is not None:
        block.same, block = end, block.same
    return end


def _flat(parts: Iterable[Block], kind: Kind) -> list[Block]:
    """The parts of nested products, or of nested sums."""
    flat = []
    for part in map(root, parts):
        flat += _flat(part.parts, kind) if part.kind == kind else [part]
    return flat


def product(parts: Iterable[Block]) -> Block:
    """The positions of several axes, from major to minor, merged into one."""
    flat = [part for part in _flat(parts, "product") if part.size != 1]
    if len(flat) < 2:
        return flat[0] if flat else ONE
    return Block(math.prod(part.size for part in flat), kind="product", parts=tuple(flat))


def joined_end_to_end(parts: Iterable[Block]) -> Block:
    """The positions of several axes one after another."""
    flat = [part for part in _flat(parts, "sum") if part.size]
    if len(flat) < 2:
        return flat[0] if flat else units(0)
    return Block(sum(part.size for part in flat), kind="sum", parts=tuple(flat))


def pin(block: Block, why: Any) -> None:
    """Lets none of the positions be cut."""
    for unit in atoms(block):
        if unit.why is None:
            unit.why = why


def atoms(block: Block) -> list[Block]:
    """The blocks of units that a block consists of, each as often as it occurs."""
    blocks, pending = [], [block]
    while pending:
        now = root(pending.pop())
        if now.kind == "units":
            blocks.append(now)
        else:
            pending += reversed(now.parts)
    return blocks


def join(one: Block, other: Block, why: Any) -> None:
    """Makes two blocks of one size one, as far as their parts allow it.

    Args:
        one: A block.
        other: Another.
        why: The reason that is given where they have no common refinement and are pinned.
    """
    pending = [(one, other)]
    while pending:
        a, b = map(root, pending.pop())
        assert a.size == b.size, (a.size, b.size)
        if a is b:
            continue
        if a.kind != "units" and b.kind == "units":
            a, b = b, a
        if a.kind == "units":
            if a.why is not None:
                pin(b, a.why)
            a.same = b
            continue
        try:
            pending += _refined(a, b)
        except Misfit:
            pin(a, why)
            pin(b, why)
        else:
            a.same = b


def _refined(a: Block, b: Block) -> list[tuple[Block, Block]]:
    """Pairs of parts that are the same positions of two blocks."""
    if a.kind == "product" and b.kind == "product":
        return _paired_factors(a, b)
    if a.kind == "sum" and b.kind == "sum":
        cuts = sorted({*_ends(a), *_ends(b)})
        sizes = np.diff([0, *cuts]).tolist()
        return list(zip(take_apart(a, sizes), take_apart(b, sizes), strict=True))
    whole, factors = (a, b) if a.kind == "sum" else (b, a)
    try:
        return list(zip(whole.parts, take_apart(factors, _sizes(whole)), strict=True))
    except Misfit:
        major, minor = split(whole, factors.parts[0].size)
        return [(major, factors.parts[0]), (minor, product(factors.parts[1:]))]


def _sizes(block: Block) -> list[int]:
    return [part.size for part in block.parts]


def _ends(block: Block) -> list[int]:
    return np.cumsum(_sizes(block)).tolist()


def _paired_factors(a: Block, b: Block) -> list[tuple[Block, Block]]:
    pairs = []
    left, right = product([a]), product([b])
    while left.size > 1:
        size = min(_major(left).size, _major(right).size)
        (one, left), (other, right) = split(left, size), split(right, size)
        pairs.append((one, other))
    return pairs


def _major(block: Block) -> Block:
    block = root(block)
    return root(block.parts[0]) if block.kind == "product" else block


def split(block: Block, size: int) -> tuple[Block, Block]:
    """Major and minor of a block that is seen as a product, the major one of this size.

    Raises:
        Misfit: It cannot be seen so.
    """
    block = root(block)
    if size == 1:
        return ONE, block
    if size == block.size:
        return block, ONE
    if not block.size or block.size % size:
        raise Misfit
    minor = block.size // size
    match block.kind:
        case "units":
            two = units(size, block.why), units(minor, block.why)
            # Where nothing can be cut there is nothing to keep track of.
            if block.why is None:
                block.kind, block.parts = "product", two
            return two
        case "product":
            first, rest = block.parts[0], product(block.parts[1:])
            if size >= first.size:
                if size % first.size:
                    raise Misfit
                middle, last = split(rest, size // first.size)
                return product([first, middle]), last
            one, two_ = split(first, size)
            return one, product([two_, rest])
        case _:
            pairs = [split(part, part.size // minor) for part in _runs(block.parts, minor)]
            for _, each in pairs[1:]:
                join(pairs[0][1], each, "pieces of different structure are reshaped into one")
            return joined_end_to_end(one for one, _ in pairs), pairs[0][1]


def _runs(parts: Iterable[Block], size: int) -> list[Block]:
    """The parts of a sum, those that are smaller than `size` joined end to end to make that."""
    runs: list[Block] = []
    run: list[Block] = []
    for part in parts:
        if not run and part.size % size == 0:
            runs.append(part)
            continue
        run.append(part)
        whole = joined_end_to_end(run)
        if whole.size > size:
            raise Misfit
        if whole.size == size:
            runs.append(whole)
            run = []
    assert not run
    return runs


def take_apart(block: Block, sizes: Sequence[int]) -> list[Block]:
    """The pieces of a block that is seen as a sum.

    Raises:
        Misfit: It cannot be seen so.
    """
    block = root(block)
    assert sum(sizes) == block.size
    if block.size in sizes:
        return [block if size else units(0) for size in sizes]
    match block.kind:
        case "units":
            pieces = [units(size, block.why) for size in sizes]
            if block.why is None:
                block.kind, block.parts = "sum", tuple(piece for piece in pieces if piece.size)
            return pieces
        case "sum":
            return _recut(block, sizes)
        case _:
            first, rest = block.parts[0], product(block.parts[1:])
            if any(size % rest.size for size in sizes):
                raise Misfit
            pieces = take_apart(first, [size // rest.size for size in sizes])
            return [product([piece, rest]) if piece.size else piece for piece in pieces]


def _recut(block: Block, sizes: Sequence[int]) -> list[Block]:
    """The pieces of a sum, with ends of their own."""
    wanted = np.cumsum(sizes)
    cuts = sorted({*wanted.tolist(), *_ends(block)})
    fine: list[Block] = []
    start = 0
    for part in map(root, block.parts):
        inside = [cut for cut in cuts if start < cut < start + part.size]
        steps = np.diff([start, *inside, start + part.size]).tolist()
        fine += take_apart(part, steps) if inside else [part]
        start += part.size
    pieces, at = [], 0
    for size in sizes:
        own, total = [], 0
        while total < size:
            own.append(fine[at])
            total += fine[at].size
            at += 1
        pieces.append(joined_end_to_end(own))
    return pieces
