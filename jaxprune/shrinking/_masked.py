"""What is known of a value of a masked model: where it is zero."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from jaxprune._tree import is_traced
from jaxprune.shrinking._blocks import Block, atoms
from jaxprune.shrinking._program import Axes, Why

Units: TypeAlias = frozenset[Block]
NONE: Units = frozenset()


class Zeros(NamedTuple):
    """Where a value of the masked model is zero.

    Attributes:
        axes: For each axis the units at whose positions it is.
        number: The one number that the whole value consists of, whatever is masked; else None.
    """

    axes: tuple[Units, ...]
    number: float | None = None


Values: TypeAlias = Sequence[Zeros]
Reasons: TypeAlias = dict[Block, Why]


def units_of(block: Block) -> Units:
    """The units on an axis that can be cut."""
    return frozenset(unit for unit in atoms(block) if unit.why is None)


def everywhere(axes: Axes) -> Zeros:
    """What is zero at all units of all axes: a masked parameter."""
    return Zeros(tuple(map(units_of, axes)))


def nowhere(axes: Axes) -> Zeros:
    """What is zero at no unit for certain."""
    return Zeros((NONE,) * len(axes))


def constant(value: Any, axes: Axes) -> Zeros:
    """Where a constant is zero."""
    kind = getattr(value, "dtype", np.dtype(float))
    is_number = any(jnp.issubdtype(kind, each) for each in (jnp.floating, jnp.integer, jnp.bool_))
    if is_traced(value) or np.size(value) != 1 or not is_number:
        return nowhere(axes)
    number = float(np.asarray(value).reshape(()))
    return Zeros(tuple(map(units_of, axes)) if number == 0 else (NONE,) * len(axes), number)
