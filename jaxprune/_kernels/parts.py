"""The leaves of a search, in the parts in which they are counted.

A program with kernels of its own for each leaf takes long to compile. So small leaves that lie on
one device are laid side by side in rows, each row of one leaf: a pass over all of them is one
kernel, however many they are, at the price of a copy. Large leaves are read where they lie, and so
are all leaves where there are several devices: joined, they could not stay spread over them.
"""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._kernels.counting import fold, key_at, place_of, positions
from jaxprune._kernels.floats import HELD
from jaxprune._kernels.ranked import Ranked
from jaxprune._tree import is_traced

Sizes: TypeAlias = np.ndarray[Any, Any]
Numbers: TypeAlias = Sequence[jax.Array]
Hits: TypeAlias = Callable[[Ranked], jax.Array]  # elementwise: which scores count

_SMALL = 2**20  # scores of a leaf that may be copied
_ROW = 2**10  # scores of a row


class Alone:
    """A leaf that is read where it lies: one group of scores."""

    def __init__(self, leaf: Ranked, member: int) -> None:
        self.leaf = leaf
        self.members = [member]
        self.sizes = np.array([leaf.values.size], np.int64)

    def before(self, keys: jax.Array, lasts: jax.Array, numbers: Numbers) -> jax.Array:
        """How many scores of each leaf lie before its cut, int32."""
        number = numbers[self.members[0]]
        return _before(self.leaf, keys[number], lasts[number])[None]

    def kept(self, keys: jax.Array, lasts: jax.Array, numbers: Numbers) -> list[jax.Array]:
        """Which scores of each leaf do not."""
        number = numbers[self.members[0]]
        return [_kept(self.leaf, keys[number], lasts[number])]

    def count(self, hits: Hits) -> jax.Array:
        """How many scores `hits` finds, an int32 scalar."""
        return _count(self.leaf, hits)

    def any(self, hits: Hits) -> jax.Array:
        """1 if `hits` finds a score, else 0: an int8 scalar."""
        return _any(self.leaf, hits)

    def sample(self, most: int) -> tuple[jax.Array, Sizes]:
        """The places of a strided sample of each leaf's keys, and how many there are of each."""
        places = _sample(self.leaf, _stride(self.leaf.values.size, most))
        return places[None], np.array([places.size])


class Rows:
    """Leaves of one kind side by side, each from a new row on."""

    def __init__(self, leaves: Sequence[Ranked], members: Sequence[int]) -> None:
        self.members = list(members)
        self.shapes = [leaf.values.shape for leaf in leaves]
        self.sizes = np.array([math.prod(shape) for shape in self.shapes], np.int32)
        lengths = -(-self.sizes // _ROW)
        self.starts = _ROW * (np.cumsum(lengths) - lengths).astype(np.int32)
        self.owners = np.repeat(np.arange(lengths.size), lengths)
        self.rows: Ranked = jax.tree.map(_side_by_side, *leaves)

    def before(self, keys: jax.Array, lasts: jax.Array, numbers: Numbers) -> jax.Array:
        """How many scores of each leaf lie before its cut, int32."""
        del numbers
        # As in `_before`.
        keys, lasts = keys[np.array(self.members)], lasts[np.array(self.members)]
        keys, lasts, zero = lax.optimization_barrier((keys, lasts, jnp.int32(0)))
        grid = fold(self.rows.once_more(zero).keys(), (1,))
        owner, position = self._positions(grid.positions(zero))
        order = jnp.where(position < self.sizes[owner], grid.keys, HELD(grid.keys.dtype))
        counts = grid._replace(keys=order).before(keys[owner], lasts[owner], position)
        return jax.ops.segment_sum(counts.reshape(-1), self.owners, len(self.members))

    def kept(self, keys: jax.Array, lasts: jax.Array, numbers: Numbers) -> list[jax.Array]:
        """Which scores of each leaf do not."""
        keys, lasts = keys[np.array(self.members)], lasts[np.array(self.members)]
        owner, position = self._positions(positions(self.rows.values.shape, (1,)))
        reached = _reached(self.rows.keys(), keys[owner], lasts[owner], position)
        # Without the barrier, scores may be compared anew for each leaf.
        flat = lax.optimization_barrier(reached).reshape(-1)
        starts = jnp.asarray(self.starts)
        return [
            lax.dynamic_slice(flat, (starts[number],), (math.prod(shape),)).reshape(shape)
            for number, shape in zip(numbers, self.shapes, strict=False)
        ]

    def count(self, hits: Hits) -> jax.Array:
        """How many scores `hits` finds, an int32 scalar."""
        grid = fold(self._hits(hits))
        return grid.tally(grid.keys).reshape(())

    def any(self, hits: Hits) -> jax.Array:
        """1 if `hits` finds a score, else 0: an int8 scalar."""
        return _greatest(self._hits(hits))

    def _hits(self, hits: Hits) -> jax.Array:
        owner, position = self._positions(positions(self.rows.values.shape, (1,)))
        return hits(self.rows) & (position < self.sizes[owner])

    def sample(self, most: int) -> tuple[jax.Array, Sizes]:
        """The places of a strided sample of each leaf's keys, and how many there are of each."""
        strides = np.array([_stride(size, most) for size in self.sizes.tolist()], np.int32)
        kept = -(-self.sizes // strides)
        places = lax.iota(jnp.int32, int(kept.max())) * strides[:, None]
        at = self.starts[:, None] + jnp.minimum(places, self.sizes[:, None] - 1)
        return place_of(jax.tree.map(lambda array: array.reshape(-1)[at], self.rows).keys()), kept

    def _positions(self, in_row: jax.Array) -> tuple[Sizes, jax.Array]:
        """The leaf of each row, and the position in its leaf of what lies in a row."""
        owner = self.owners.reshape(-1, *(1,) * (in_row.ndim - 1))
        row = np.arange(self.owners.size, dtype=np.int32).reshape(owner.shape)
        return owner, in_row + (_ROW * row - self.starts[owner])


Parts: TypeAlias = Sequence[Alone | Rows]


def parts_of(leaves: Sequence[Ranked]) -> Parts:
    """Leaves, in the parts in which they are counted."""
    parts: list[Alone | Rows] = []
    alike: dict[Hashable, list[int]] = {}
    for i, leaf in enumerate(leaves):
        if jax.device_count() == 1 and leaf.values.size <= _SMALL:
            kind = leaf.values.dtype, leaf.score, leaf.dtype, leaf.alive is None, leaf.held is None
            alike.setdefault(kind, []).append(i)
        else:
            parts.append(Alone(leaf, i))
    for members in alike.values():
        if len(members) == 1:
            parts.append(Alone(leaves[members[0]], members[0]))
        else:
            parts.append(Rows([leaves[i] for i in members], members))
    return parts


def leaf_order(parts: Parts) -> Sizes:
    """Where each leaf comes, in its order, if parts come one after the other."""
    return np.argsort([i for part in parts for i in part.members])


def counts_before(parts: Parts, keys: jax.Array, lasts: jax.Array, sure: jax.Array) -> jax.Array:
    """How many scores of each leaf lie before its cut, int32.

    Args:
        parts: The leaves.
        keys: For each leaf the place of the cut's key.
        lasts: For each leaf the cut's position.
        sure: True, which the compiler must not know.
    """
    numbers = _numbers(keys.size, sure)
    counts = [part.before(keys, lasts, numbers) for part in parts]
    return jnp.concatenate(counts)[leaf_order(parts)]


def kept_after(parts: Parts, keys: jax.Array, lasts: jax.Array, sure: jax.Array) -> list[jax.Array]:
    """Which scores of each leaf do not: arguments as for `counts_before`."""
    numbers = _numbers(keys.size, sure)
    masks = [mask for part in parts for mask in part.kept(keys, lasts, numbers)]
    return [masks[k] for k in leaf_order(parts)]


def unknown(value: Any) -> Any:
    """A condition that kernels read as it is, and do not each work out anew."""
    if not is_traced(value):
        return value
    return lax.cond(value, lambda: jnp.bool_(True), lambda: jnp.bool_(False))


def _numbers(count: int, sure: jax.Array) -> Numbers:
    """The first whole numbers, as scalars that the compiler does not know.

    A kernel that reads element 3 of a vector is another program than one that reads element 4. One
    that is told by an operand which to read is compiled once for all leaves of one shape.
    """
    return lax.cond(
        sure,
        lambda: [jnp.int32(i) for i in range(count)],
        lambda: [jnp.int32(0) for _ in range(count)],
    )


@functools.partial(jax.jit, static_argnames="hits")
def count_where(leaves: Sequence[Ranked], hits: Hits) -> jax.Array:
    """How many scores of all leaves `hits` finds, an int32 scalar."""
    return jnp.stack([part.count(hits) for part in parts_of(leaves)]).sum(dtype=jnp.int32)


@functools.partial(jax.jit, static_argnames="hits")
def any_where(leaves: Sequence[Ranked], hits: Hits) -> jax.Array:
    """Whether `hits` finds a score in any leaf, a bool scalar."""
    return jnp.stack([part.any(hits) for part in parts_of(leaves)]).max() > 0


def _side_by_side(*arrays: jax.Array) -> jax.Array:
    pieces = []
    for array in arrays:
        pieces.append(array.reshape(-1))
        if rest := -array.size % _ROW:
            pieces.append(jnp.zeros(rest, array.dtype))
    # Without the barrier the copy may be made within what reads it, once for each reader.
    return lax.optimization_barrier(jnp.concatenate(pieces)).reshape(-1, _ROW)


def _stride(size: int, most: int) -> int:
    # An odd stride meets all columns of a matrix: few have an odd number of them.
    return size // most | 1


@jax.jit  # leaves of one shape are traced once
def _before(leaf: Ranked, key: jax.Array, last: jax.Array) -> jax.Array:
    # Keys and positions are computed again in every pass. Without the barrier the compiler would
    # compute them once, before the search, and keep those of all leaves in memory.
    key, last, zero = lax.optimization_barrier((key, last, jnp.int32(0)))
    grid = fold(leaf.once_more(zero).keys())
    return grid.before(key, last, grid.positions(zero)).reshape(())


@jax.jit
def _kept(leaf: Ranked, key: jax.Array, last: jax.Array) -> jax.Array:
    shape = leaf.values.shape
    return _reached(leaf.keys(), key, last, positions(shape, range(len(shape))))


def _reached(order: jax.Array, key: Any, last: Any, position: jax.Array) -> jax.Array:
    """Which keys do not lie before a cut."""
    return order >= key_at(key, order.dtype) + (position <= last).astype(order.dtype)


@functools.partial(jax.jit, static_argnames="hits")
def _count(leaf: Ranked, hits: Hits) -> jax.Array:
    grid = fold(hits(leaf))
    return grid.tally(grid.keys).reshape(())


@functools.partial(jax.jit, static_argnames="hits")
def _any(leaf: Ranked, hits: Hits) -> jax.Array:
    return _greatest(hits(leaf))


def _greatest(hits: jax.Array) -> jax.Array:
    # On a CPU the greatest of int8 is found in half the time of `jnp.any`.
    return jnp.max(hits.astype(jnp.int8), initial=0)


@functools.partial(jax.jit, static_argnames="stride")
def _sample(leaf: Ranked, stride: int) -> jax.Array:
    flat = jax.tree.map(lambda array: array.reshape(-1), leaf)
    return place_of(jax.tree.map(lambda array: array[::stride], flat).keys())
