"""Axes of moved leaves, against where each entry really is after any chain of moves."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.tracing import _moves as m
from jaxprune.tracing._dims import of_shape

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def slices(draw, shape):
    starts = tuple(draw(st.integers(0, size - 1)) for size in shape)
    limits = tuple(draw(st.integers(at + 1, n)) for at, n in zip(starts, shape, strict=True))
    return m.Slice(starts, limits, tuple(draw(st.integers(1, 2)) for _ in shape))


def pads(draw, shape):
    amounts = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 1))
    return m.Pad(tuple(draw(amounts) for _ in shape))


def broadcasts(draw, shape):
    wider = (2, *(3 if size == 1 else size for size in shape))
    return m.Broadcast(wider, tuple(range(1, len(wider))))


MOVES = [
    slices,
    pads,
    broadcasts,
    lambda draw, shape: m.Transpose(tuple(draw(st.permutations(range(len(shape)))))),
    lambda draw, shape: m.Reshape(draw(a_shape_of(int(np.prod(shape))))),
    lambda draw, shape: m.Reverse(tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1)))))),
    lambda draw, shape: m.Tile(tuple(draw(st.integers(1, 2)) for _ in shape)),
    lambda draw, shape: m.Squeeze(tuple(axis for axis, size in enumerate(shape) if size == 1)),
]


@st.composite
def a_shape_of(draw, size):
    shape = []
    while size > 1 or not shape:
        part = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
        shape.append(part)
        size //= part
        if len(shape) == 4:
            shape[-1] *= size
            break
    return tuple(shape)


@st.composite
def a_leaf_and_its_moves(draw):
    shape = draw(SIZES)
    moves, now = [], shape
    for _ in range(draw(st.integers(1, 5))):
        move = draw(st.sampled_from(MOVES))(draw, now)
        after = jax.eval_shape(move.apply, jax.ShapeDtypeStruct(now, np.int32)).shape
        if not after or np.prod(after) > 2000:
            break
        moves, now = [*moves, move], after
    return shape, moves


@settings(max_examples=30)
@given(a_leaf_and_its_moves())
def test_every_entry_lies_where_the_axes_say(drawn):
    """Entries whose index along an axis of the leaf differs differ along a dimension that names it.

    And where the span of a dimension says that nothing of the leaf is, there is nothing.
    """
    shape, moves = drawn
    leaf = 1 + np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    with jax.disable_jit():
        array = np.asarray(m.apply(moves, jax.device_put(leaf)))
    dims = of_shape(shape)
    for move in moves:
        dims = move.dims(dims)
        if any(dim.low >= dim.high for dim in dims):
            break
    empty = any(dim.low >= dim.high for dim in dims)
    if empty:
        assert not array.any()
        return
    assert tuple(dim.size for dim in dims) == array.shape
    where = np.indices(array.shape)[:, array != 0]
    for at, dim in zip(where, dims, strict=True):
        assert dim.low <= at.min(initial=dim.low)
        assert at.max(initial=dim.low) < dim.high
    index = np.stack(np.unravel_index(np.maximum(array - 1, 0), shape))
    for k, dim in enumerate(dims):
        after, before = (np.take(array, range(a, array.shape[k] - 1 + a), k) for a in (1, 0))
        both = (after != 0) & (before != 0)
        steps = np.diff(index, axis=k + 1)
        changed = {axis for axis in range(len(shape)) if (steps[axis] * both).any()}
        assert changed <= {*dim.axes}
