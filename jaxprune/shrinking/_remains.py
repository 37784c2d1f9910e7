"""What a cut leaves of the axes of a model."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import InvalidPattern, NoMatch, Problem, raise_problems
from jaxprune._kernels.placement import is_host_array
from jaxprune._kernels.sharding import on_any_mesh, placed
from jaxprune._text import shown
from jaxprune.shrinking._blocks import Block, root
from jaxprune.shrinking._cut import Cut
from jaxprune.shrinking._dropped import NOTHING, Dropped
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._positions import Kept, kept_positions
from jaxprune.shrinking._program import Axes


class Remains:
    """Which positions of blocks a cut leaves.

    Attributes:
        kept: For each block of units that loses some, which of them stay.
        dropped: What is left out of the program.
    """

    def __init__(self, kept: Mapping[Block, Kept], dropped: Dropped = NOTHING) -> None:
        self.kept, self.dropped = kept, dropped
        self._known: dict[Block, Kept] = {}

    def of(self, block: Block) -> Kept:
        """Which positions of a block are left."""
        block = root(block)
        if block not in self._known:
            self._known[block] = kept_positions(block, self._units)
        return self._known[block]

    def _units(self, block: Block) -> Kept:
        mask = self.kept.get(block)
        return np.ones(block.size, bool) if mask is None else mask

    def whole(self, axes: Iterable[Block]) -> bool:
        """Whether nothing of these axes is cut."""
        return all(bool(self.of(block).all()) for block in axes)

    def shape(self, axes: Axes) -> tuple[int, ...]:
        """The sizes that are left."""
        return tuple(int(np.count_nonzero(self.of(block))) for block in axes)

    def counts(self) -> dict[Block, int]:
        """How many units are left of each block that loses some."""
        return {block: int(np.count_nonzero(kept)) for block, kept in self.kept.items()}

    def take(self, value: Any, axes: Axes) -> Any:
        """What is left of an array, on the devices where it lies, as far as sizes allow it."""
        at = [(axis, self.of(block)) for axis, block in enumerate(axes)]
        at = [(axis, kept) for axis, kept in at if not kept.all()]
        if not at:
            return value
        # NumPy has nothing to compile: a tree has leaves of many shapes, each of which would be.
        is_here = is_host_array(value)
        result: Any = np.asarray(value) if is_here else value
        for axis, kept in at:
            result = take(result, np.flatnonzero(kept), axis)
        if not is_here:
            return placed(result, value)
        if isinstance(value, np.ndarray):
            return result
        return jax.device_put(result, value.sharding if value.committed else None)

    def put(self, value: Any, axes: Axes) -> Any:
        """An array of full size that holds what is left of it, amid zeros."""
        for axis, block in enumerate(axes):
            kept = self.of(block)
            if not kept.all():
                shape = (*value.shape[:axis], len(kept), *value.shape[axis + 1 :])
                at = (slice(None),) * axis + (np.flatnonzero(kept),)
                value = jnp.zeros(shape, value.dtype).at[at].set(value)
        return value


def take(value: Any, positions: np.ndarray[Any, Any], axis: int) -> Any:
    """The entries of an array at sorted positions along an axis."""
    size = value.shape[axis]
    if len(positions) == size and (positions == np.arange(size)).all():
        return value
    if isinstance(value, jax.ShapeDtypeStruct):
        shape = (*value.shape[:axis], len(positions), *value.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, value.dtype)
    if not isinstance(value, jax.Array):  # NumPy's, or what JAX 0.7 wraps constants in
        return np.take(np.asarray(value), positions, axis)
    spread = not isinstance(value, jax.core.Tracer) and len(value.devices()) > 1
    # Only under jit may a computation on several devices choose how its result lies.
    return (_taken if spread else _take)(value, tuple(positions.tolist()), axis)


def _take(value: jax.Array, positions: tuple[int, ...], axis: int) -> jax.Array:
    def kernel(value: jax.Array) -> jax.Array:
        start, size = positions[0], len(positions)
        if positions == tuple(range(start, start + size)):
            return jax.lax.slice_in_dim(value, start, start + size, axis=axis)
        return jnp.take(value, np.array(positions), axis, mode="clip")

    return on_any_mesh(kernel)(value)


_taken = jax.jit(_take, static_argnums=(1, 2))


def remains(cut: Cut, model: Model) -> Remains:
    """What a cut leaves of a model.

    Raises:
        NoMatch: It names groups or blocks that the model does not have.
        InvalidPattern: It keeps no unit of a group, or units that there are not, or cuts what
            cannot be cut.
    """
    raise_problems(_problem(name, units, model) for name, units in cut.kept.items())
    kept = {}
    branches = []
    for name, units in cut.kept.items():
        if name in model.depth.blocks and model.depth.blocks[name].units == 1:
            branches += [] if units else [name]
            continue
        block = model.blocks.get(name) or model.depth.places[name].layers
        left = np.zeros(block.size, bool)
        left[list(units)] = True
        if not left.all():
            kept[block] = left
    return Remains(kept, model.depth.without(branches))


def _problem(name: str, units: tuple[int, ...], model: Model) -> Problem | None:
    part = model.groups.get(name) or model.depth.blocks.get(name)
    if part is None:
        return Problem(
            NoMatch,
            f"the cut names {name!r}, which this model does not have: it was made for another "
            "one. Make it with choose of these dependencies.",
        )
    if part.refused and len(set(units)) != part.units:
        return Problem(InvalidPattern, f"{name!r} cannot be cut: {part.refused}.")
    if not units and not (name in model.depth.blocks and part.units == 1):
        return Problem(InvalidPattern, f"the cut keeps no unit of {name!r}: at least one stays.")
    if len(set(units)) != len(units) or not all(0 <= unit < part.units for unit in units):
        return Problem(
            InvalidPattern,
            f"the cut keeps the units {shown(units)} of {name!r}: expected different numbers from "
            f"0 to {part.units - 1}. Was it made for another model?",
        )
    return None
