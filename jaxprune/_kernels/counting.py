"""Counting what lies before a cut: one pass over the scores, one number a group.

A count reads an array where it lies and reduces it. Nothing is sorted, gathered, or flattened
across devices, so on a sharded array a pass costs one small all-reduce, and integers make the
answer the same bits however the array is laid out.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._kernels.floats import HELD

LARGEST = 2**31 - 1  # scores that one count may span: it is an int32

_RUN = 16  # the length of the runs along an axis whose counts are summed in int8,
_LANES = 8  # in as many columns side by side, where the axis is the last


class Grid(NamedTuple):
    """Keys, folded so that they count fast.

    int8 sums along short runs keep a CPU's whole pass in its vector registers: four times the speed
    of int32, and without a buffer for what is counted.

    Attributes:
        keys: Signed integers.
        axes: The axes that a group spans.
        runs: Which of them, if any, is made of runs short enough for int8.
    """

    keys: jax.Array
    axes: tuple[int, ...]
    runs: int | None

    @property
    def size(self) -> int:
        """How many keys a group holds."""
        return math.prod(self.keys.shape[axis] for axis in self.axes)

    def positions(self, first: Any = 0) -> jax.Array:
        """The int32 row-major position of each key in its group, counted from `first`."""
        return positions(self.keys.shape, self.axes, first)

    def before(
        self, key: jax.Array, last: jax.Array | None = None, position: jax.Array | None = None
    ) -> jax.Array:
        """How many keys of each group lie before a cut, as int32, the axes kept with length 1.

        Args:
            key: The place of the cut's key, one a group.
            last: The cut's position; None if everything on the cut counts.
            position: What `last` is compared with; None for the positions in row-major order.
        """
        cut = key_at(key, self.keys.dtype)
        if last is None:
            return self.tally(self.keys <= cut)
        # One comparison: the cut lies one key higher for the positions up to the last.
        position = self.positions() if position is None else position
        return self.tally(self.keys < cut + (position <= last).astype(cut.dtype))

    def tally(self, hits: jax.Array) -> jax.Array:
        """How many of `hits`, shaped as the keys, are true in each group."""
        return tally(hits, self.axes, self.runs)


def fold(order: jax.Array, axes: Sequence[int] | None = None) -> Grid:
    """Keys with one axis of a group cut into runs, where its length and its sharding allow it.

    Args:
        order: The keys.
        axes: The axes that a group spans; None for all.
    """
    whole = axes is None
    axes = tuple(range(order.ndim)) if axes is None else tuple(axes)
    if whole and jax.device_count() == 1:
        order, axes = order.reshape(-1), (0,)
    last = order.ndim - 1
    for axis in sorted(axes, reverse=True):
        block = (_RUN, _LANES) if axis == last else (_RUN,)
        if _divides(order, axis, math.prod(block)):
            shape = order.shape
            outer = shape[axis] // math.prod(block)
            folded = order.reshape(*shape[:axis], outer, *block, *shape[axis + 1 :])
            moved = [a if a <= axis else a + len(block) for a in axes]
            inner = range(axis + 1, axis + 1 + len(block))
            return Grid(folded, tuple(sorted([*moved, *inner])), axis + 1)
    return Grid(order, axes, None)


def tally(hits: jax.Array, axes: Sequence[int], runs: int | None = None) -> jax.Array:
    """How many of `hits` are true along `axes`, as int32, the axes kept with length 1."""
    narrow: type[np.signedinteger[Any]] = np.int8
    if runs is None or hits.shape[runs] == 1:
        # Whole axes are longer than int8 can count, but most fit int16: twice int32's speed. The
        # last is the likeliest to lie on one device.
        fits = [axis for axis in axes if 1 < hits.shape[axis] < 2**15]
        narrow, runs = np.int16, max(fits, default=None)
    if runs is None:
        return jnp.sum(hits, axes, keepdims=True, dtype=jnp.int32)
    partial = lax.reduce(hits.astype(narrow), narrow(0), lax.add, (runs,))
    return jnp.sum(jnp.expand_dims(partial, runs), axes, keepdims=True, dtype=jnp.int32)


def positions(shape: Sequence[int], axes: Sequence[int], first: Any = 0) -> jax.Array:
    """The int32 row-major position, among the `axes`, of each place of an array.

    Args:
        shape: The shape of the array.
        axes: The axes along which positions are counted.
        first: Where they begin.
    """
    where, stride = jnp.full(shape, first, jnp.int32), 1
    for axis in sorted(axes, reverse=True):
        where = where + lax.broadcasted_iota(jnp.int32, shape, axis) * stride
        stride *= shape[axis]
    return where


def counter_of(dtype: Any) -> Any:
    """The unsigned type that counts keys of a dtype from the lowest up: ranges never overflow."""
    return jnp.uint64 if np.dtype(dtype).itemsize == 8 else jnp.uint32


def top_of(dtype: Any) -> int:
    """The place of the highest key there can be."""
    return HELD(dtype) - int(np.iinfo(dtype).min)


def key_at(place: jax.Array, dtype: Any) -> jax.Array:
    """The key that lies `place` keys above the lowest."""
    signed = lax.bitcast_convert_type(place, jnp.dtype(f"int{8 * place.dtype.itemsize}"))
    return (signed + signed.dtype.type(np.iinfo(dtype).min)).astype(dtype)


def place_of(order: jax.Array) -> jax.Array:
    """How far keys lie above the lowest: what `key_at` takes."""
    counter = np.dtype(counter_of(order.dtype))
    wide = order.astype(jnp.dtype(f"int{8 * counter.itemsize}"))
    return lax.bitcast_convert_type(wide - wide.dtype.type(np.iinfo(order.dtype).min), counter)


def _divides(array: jax.Array, axis: int, block: int) -> bool:
    """Whether cutting `axis` into blocks leaves every block on one device.

    Only the compiler knows how an array is sharded; blocks that divide among all the devices there
    are divide among those along any axis.
    """
    return array.shape[axis] % (block * jax.device_count()) == 0
