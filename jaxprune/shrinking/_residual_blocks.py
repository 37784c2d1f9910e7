"""Residual blocks as a user sees them: their names, what is in them, what they cost."""

import dataclasses

from jaxprune._text import integer, table


@dataclasses.dataclass(frozen=True, slots=True)
class ResidualBlock:
    """What a model adds to a stream that it reads: it can be left out as a whole.

    Attributes:
        name: The module that its weights are in, and ":branch"; or ":layers", of a stack of layers
            that a scan runs over.
        units: How many can be left out one by one: 1, or the layers of a stack.
        leaves: The paths of the leaves that nothing reads without it; of a stack, of those that
            hold the layers.
        last: The paths of those which, where they are zero, make it add nothing.
        weights: How many weights go with one unit.
        multiply_adds: How many multiply-adds of one call go with one unit.
        refused: Why it cannot be left out; "" if it can.
    """

    name: str
    units: int
    leaves: tuple[str, ...]
    last: tuple[str, ...]
    weights: int
    multiply_adds: int
    refused: str = ""


class ResidualBlocks(tuple[ResidualBlock, ...]):
    """Residual blocks, in the order in which the model runs them; `print` shows a table."""

    __slots__ = ()

    def __str__(self) -> str:
        header = ("block", "units", "weights/unit", "multiply-adds/unit", "leaves")
        rows = [
            (
                block.name,
                integer(block.units),
                integer(block.weights),
                integer(block.multiply_adds),
                integer(len(block.leaves)),
            )
            for block in self
            if not block.refused
        ]
        lines = [table(header, rows)] if rows else ["No block can be left out."]
        refused = [f"  {block.name}: {block.refused}" for block in self if block.refused]
        return "\n".join([*lines, "", "Not left out:", *refused] if refused else lines)

    __repr__ = __str__
