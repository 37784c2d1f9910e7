"""Positions of blocks as numbers: which are left of them, and which unit each of them is."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from jaxprune.shrinking._blocks import Block, root

Kept: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


def kept_positions(block: Block, kept: Callable[[Block], Any], xp: Any = np) -> Any:
    """Which positions are left, as a vector of bools.

    Args:
        block: The block.
        kept: For a block of units, which of them are left.
        xp: What computes: NumPy, or `jax.numpy` where that is data.
    """
    block = root(block)
    if block.kind == "units":
        return kept(block)
    parts = [kept_positions(part, kept, xp) for part in block.parts]
    if block.kind == "sum":
        return xp.concatenate(parts)
    out = parts[0]
    for part in parts[1:]:
        out = (out[:, None] & part).reshape(-1)
    return out


def unit_positions(block: Block, unit: Block) -> list[np.ndarray[Any, Any]]:
    """For each time that units occur in a block: at each position the unit's number, or -1."""
    block = root(block)
    if block is unit:
        return [np.arange(block.size)]
    if block.kind == "units":
        return []
    vectors = []
    for k, part in enumerate(block.parts):
        before, after = block.parts[:k], block.parts[k + 1 :]
        for numbers in unit_positions(part, unit):
            if block.kind == "sum":
                ends = [np.full(sum(p.size for p in ps), -1) for ps in (before, after)]
                vectors.append(np.concatenate([ends[0], numbers, ends[1]]))
            else:
                major, minor = (math.prod(p.size for p in ps) for ps in (before, after))
                vectors.append(np.tile(np.repeat(numbers, minor), major))
    return vectors


def count(block: Block, left: Mapping[Block, int]) -> int:
    """How many positions are left where `left` units of a block are; the others are whole."""
    block = root(block)
    match block.kind:
        case "units":
            return left.get(block, block.size)
        case "sum":
            return sum(count(part, left) for part in block.parts)
        case _:
            return math.prod(count(part, left) for part in block.parts)
