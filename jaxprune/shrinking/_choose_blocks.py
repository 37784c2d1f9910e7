"""Which residual blocks go: those that change their stream least."""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune._errors import InvalidSparsity, NoMatch, Problem, StructureMismatch, raise_problems
from jaxprune._text import shown
from jaxprune.shrinking._cut import Cut
from jaxprune.shrinking._depth import Depth


def choose_blocks(depth: Depth, changes: Mapping[str, Sequence[float]], amount: float) -> Cut:
    """The cut that leaves out the blocks that change least; see `Dependencies.choose_blocks`."""
    if not changes:
        raise NoMatch("there are no changes to choose by: make them with deps.changes.")
    raise_problems(_problem(name, of, depth) for name, of in changes.items())
    order = sorted((change, name, k) for name, of in changes.items() for k, change in enumerate(of))
    wanted = _count(amount, len(order))
    gone: dict[str, set[int]] = {name: set() for name in changes}
    for _, name, k in order:
        # A stack of no layers would be no stack.
        if wanted and (len(changes[name]) == 1 or len(gone[name]) < len(changes[name]) - 1):
            gone[name].add(k)
            wanted -= 1
    if wanted:
        raise InvalidSparsity("a stack keeps at least one of its layers: ask for fewer blocks.")
    return Cut(
        {
            name: tuple(k for k in range(len(changes[name])) if k not in units)
            for name, units in gone.items()
            if units
        }
    )


def _problem(name: str, of: Sequence[float], depth: Depth) -> Problem | None:
    block = depth.blocks.get(name)
    if block is None:
        return Problem(
            NoMatch,
            f"the changes name the block {name!r}, which this model does not have. Make them with "
            "deps.changes.",
        )
    if block.refused:
        return Problem(NoMatch, f"the block {name!r} cannot be left out: {block.refused}.")
    if len(of) != block.units or not np.isfinite(of).all():
        return Problem(
            StructureMismatch,
            f"the block {name!r} has {block.units} units, and its changes are {shown(of)}: "
            "expected a finite number for each.",
        )
    return None


def _count(amount: Any, total: int) -> int:
    """How many of some blocks an amount is."""
    if isinstance(amount, numbers.Integral) and not isinstance(amount, bool):
        if 1 <= int(amount) < total:
            return int(amount)
        words = f"there are {total} blocks to choose from, of which one at least stays: "
        raise InvalidSparsity(
            f"{words}ask for a number from 1 to {total - 1}, got {shown(amount)}."
        )
    if isinstance(amount, numbers.Real) and 0 < float(amount) < 1:
        count = int(np.floor(np.float32(amount) * np.float32(total)))
        if count:
            return count
        raise InvalidSparsity(
            f"a fraction of {shown(amount)} of {total} blocks is none: ask for more."
        )
    raise InvalidSparsity(
        f"an amount of blocks is how many go, or the fraction of them, got {shown(amount)}: write "
        "2 for two blocks, and 0.25 for a quarter of all."
    )
