"""Exactly the lowest scores, in NumPy: what `device.py` does, to the bit, with nothing to compile.

A file has tensors of many shapes, each seen once, and a first call has leaves of many shapes: the
compiled kernel takes longer to compile than this takes to run.

Keys are computed a piece at a time, in the cache, and again in every pass: a fraction of the time
of writing them to memory, where a page that is new costs more than all of the arithmetic.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import numpy as np

from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.shares import PIECE, find_shares

Array: TypeAlias = np.ndarray[Any, Any]

_PAIRWISE = 16  # the widest N:M group in which every pair is compared
_SAMPLE = 1 << 15  # keys that bracket a cut,
_SPREAD = 1.5 * _SAMPLE**0.5  # and by how many ranks of the sample, three standard deviations

_R = TypeVar("_R")


def keys(scores: Array) -> Array:
    """Unsigned integers that order as the scores do, from 1 for -inf on.

    -0.0 and 0.0 share a key, and every NaN has the one highest. 0 is left for what is gone, and the
    highest integer for what is held.
    """
    width = 8 * scores.dtype.itemsize
    signed, unsigned = (np.dtype(f"{kind}{width}").type for kind in ("int", "uint"))
    infinity = int(scores.dtype.type(np.inf).view(unsigned))
    bits = scores.view(signed)
    if bits.size and bits.min() >= 0:
        places = bits.view(unsigned) + unsigned(infinity + 1)
    else:
        minus = bits >> signed(width - 1)  # all ones where the sign is
        order = bits & np.iinfo(signed).max
        broken = order > signed(infinity)
        order ^= minus
        order -= minus  # the magnitude, negated where the sign is
        places = order.view(unsigned)
        places += unsigned(infinity + 1)
        places[broken] = 2 * infinity + 2
    return np.minimum(places, unsigned(2 * infinity + 2), out=places)


def magnitudes(weights: Array) -> Array:
    """|w| in the dtype of the weights, NaN and subnormals included."""
    unsigned = unsigned_of(weights.dtype)
    return (weights.view(unsigned) & unsigned(np.iinfo(unsigned).max >> 1)).view(weights.dtype)


def unsigned_of(dtype: Any) -> Any:
    """The unsigned integers as wide as a dtype."""
    return np.dtype(f"uint{8 * np.dtype(dtype).itemsize}").type


def zeroed(weights: Array, kept: Array, out: Array | None = None) -> Array:
    """The weights with 0.0 wherever they are not kept; written to `out`, if there is one."""
    # Of integers: a NaN that goes is gone, and no -0.0 is left.
    bits = unsigned_of(weights.dtype)
    place = None if out is None else out.view(bits)
    return np.multiply(weights.view(bits), kept, out=place, dtype=bits).view(weights.dtype)


def key_pieces(leaf: Ranked) -> Iterator[Array]:
    """The keys of a leaf's scores in row-major order, piece by piece."""
    values, alive, held = (
        None if array is None else np.asarray(array).reshape(-1)
        for array in (leaf.values, leaf.alive, leaf.held)
    )
    assert values is not None
    for at in range(0, values.size, PIECE):
        here = slice(at, at + PIECE)
        order = keys(_scores(leaf, values[here]))
        if alive is not None:
            order[~alive[here]] = 0
        if held is not None:
            order[held[here]] = np.iinfo(order.dtype).max
        yield order


def all_keys(leaf: Ranked) -> Array:
    """The keys of a leaf's scores in row-major order."""
    pieces = list(key_pieces(leaf))
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint32)


def highest(order: Array, count: int) -> Array:
    """The places of the `count` highest keys; among equals the first."""
    if count >= order.size:
        return np.arange(order.size)
    return _lowest(~order, count)


def nonzero(weights: Array) -> Array:
    """Where floats are neither 0.0 nor -0.0: by their bits, which takes NaNs of every kind."""
    mask = np.empty(weights.shape, bool)
    flat = mask.reshape(-1)
    for at, bits in _shifted(weights):
        np.not_equal(bits, 0, out=flat[at : at + bits.size])
    return mask


def count_nonzero(weights: Array) -> int:
    """How many floats are neither 0.0 nor -0.0."""
    return sum(int(np.count_nonzero(bits)) for _, bits in _shifted(weights))


def _shifted(weights: Array) -> Iterator[tuple[int, Array]]:
    """The bits of floats without their signs, piece by piece, each with its position."""
    flat = np.ascontiguousarray(weights).reshape(-1).view(unsigned_of(weights.dtype))
    return ((at, flat[at : at + PIECE] << 1) for at in range(0, flat.size, PIECE))


def survivors(leaf: Ranked, count: int) -> Array:
    """Marks all scores of a leaf but the `count` lowest; among equals the first go.

    Args:
        leaf: The leaf, its arrays NumPy's.
        count: How many go, at most all.

    Returns:
        bool like the leaf.
    """
    kept = np.ones(leaf.values.shape, bool)
    flat = kept.reshape(-1)
    if not 0 < count < flat.size:
        kept[...] = not count
        return kept
    low, high = _bracket(leaf, count)
    left, near, places = count, [], []  # what goes at `low` or above it
    on_low = on_high = 0
    for at, order in _beside(leaf):
        here = flat[at : at + order.size]
        np.greater(order, low, out=here)
        on_here = int(np.count_nonzero(order == low))
        on_low += on_here
        left -= order.size - on_here - int(np.count_nonzero(here))
        on_high += int(np.count_nonzero(order == high))
        inside = np.flatnonzero(here & (order < high))
        near.append(order[inside])
        places.append(inside + at)
    between = np.concatenate(near)
    if on_low <= left <= on_low + between.size:
        flat[np.concatenate(places)[_lowest(between, left - on_low)]] = False
        return kept
    upper = left - on_low - between.size
    if 0 <= left < on_low:
        cut = low
    elif 0 < upper <= on_high:
        cut, left = high, upper
    else:
        order = all_keys(leaf)
        cut = np.partition(order, count - 1)[count - 1]
        left = count - int(np.count_nonzero(order < cut))
    for at, order in _beside(leaf):
        here = flat[at : at + order.size]
        np.greater(order, cut, out=here)
        tied = np.flatnonzero(order == cut)
        here[tied[left:]] = True
        left -= min(left, tied.size)
    return kept


def _lowest(order: Array, count: int) -> Array:
    """The places of the `count` lowest keys; among equals the first."""
    if not count:
        return np.empty(0, np.int64)
    cut = np.partition(order, count - 1)[count - 1]
    below, tied = np.flatnonzero(order < cut), np.flatnonzero(order == cut)
    return np.concatenate([below, tied[: count - below.size]])


def pool_survivors(leaves: Sequence[Ranked], count: int, most: Sequence[int]) -> list[Array]:
    """Marks all scores of a pool of leaves but the `count` lowest.

    Args:
        leaves: The leaves. Among equals the earlier leaf goes first.
        count: How many go.
        most: How many each leaf loses at the most: all of its scores but a number that is the same
            for all leaves.
    """
    if len(leaves) == 1 or not count:
        return [survivors(leaf, count) for leaf in leaves]
    numbers = [i for i, some in enumerate(most) if some]

    def pieces(i: int) -> Iterator[Array]:
        return key_pieces(leaves[i])

    held = leaves[numbers[0]].values.size - most[numbers[0]]
    width = 8 * np.dtype(leaves[0].score_dtype).itemsize
    shares = find_shares(numbers, pieces, count, held=held, width=width)
    return list(in_threads(survivors, leaves, [shares.get(i, 0) for i in range(len(leaves))]))


def in_threads(function: Callable[..., _R], *arguments: Iterable[Any]) -> list[_R]:
    """`map` over several threads: NumPy computes outside of the interpreter's lock."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, *arguments))


def survivors_along(leaf: Ranked, count: int | Array, axis: int) -> Array:
    """The same for each index along an axis: all lose `count`, or each a number of its own."""
    kept = np.ones(leaf.values.shape, bool)
    across = np.moveaxis(kept, axis, 0)
    size = across[0].size if across.size else 0
    if not size:
        return kept
    if isinstance(count, int) and not 0 < count < size:
        kept[...] = not count
        return kept
    values, alive, held = (
        None if array is None else np.moveaxis(np.asarray(array), axis, 0)
        for array in (leaf.values, leaf.alive, leaf.held)
    )
    assert values is not None
    groups = max(1, PIECE // size)
    for at in range(0, len(values), groups):
        here = slice(at, at + groups)
        part = Ranked(
            np.ascontiguousarray(values[here]),
            leaf.score,
            leaf.dtype,
            None if alive is None else np.ascontiguousarray(alive[here]),
            None if held is None else np.ascontiguousarray(held[here]),
        )
        order = all_keys(part).reshape(-1, size)
        some = count if isinstance(count, int) else count[here]
        across[here] = _survivors_of_rows(order, some).reshape(across[here].shape)
    return kept


def _survivors_of_rows(order: Array, count: int | Array) -> Array:
    """Marks all keys of each row but the `count` lowest; among equals the first go."""
    size = order.shape[1]
    if isinstance(count, int):
        cut = np.partition(order, count - 1, axis=1)[:, count - 1 : count]
    else:
        cut = np.take_along_axis(np.sort(order, axis=1), np.maximum(count - 1, 0)[:, None], axis=1)
    stay = order > cut
    spare = size - count - np.count_nonzero(stay, axis=1)  # of those on the cut, how many stay
    (rows,) = np.nonzero(spare)
    tied = order[rows] == cut[rows]
    later = np.cumsum(tied[:, ::-1], axis=1)[:, ::-1]  # this one, and those on the cut behind it
    stay[rows] |= tied & (later <= spare[rows, None])
    return stay


def highest_of_groups(leaf: Ranked, n: int, axis: int) -> Array:
    """Marks the `n` highest along an axis; among equals the lower index is kept."""
    m, inner = leaf.values.shape[axis], math.prod(leaf.values.shape[axis + 1 :])
    values, alive, held = (
        None if array is None else np.asarray(array).reshape(-1, m, inner)
        for array in (leaf.values, leaf.alive, leaf.held)
    )
    assert values is not None
    kept = np.empty(values.shape, bool)
    step = max(1, PIECE // (m * inner))
    for at in range(0, len(values), step):
        here = slice(at, at + step)
        part = Ranked(
            values[here],
            leaf.score,
            leaf.dtype,
            None if alive is None else alive[here],
            None if held is None else held[here],
        )
        _highest_here(all_keys(part).reshape(-1, m, inner), n, kept[here])
    return kept.reshape(leaf.values.shape)


def _highest_here(order: Array, n: int, kept: Array) -> None:
    """Writes into `kept` which of the axis in the middle are the `n` highest."""
    m = order.shape[1]
    if m > _PAIRWISE:
        highest = np.argsort(~order, axis=1, kind="stable")[:, :n]
        kept[...] = False
        np.put_along_axis(kept, highest, True, axis=1)
        return
    beaten = np.zeros((m, len(order), order.shape[2]), np.int8)
    for i in range(m):
        for j in range(i):
            wins = order[:, i] > order[:, j]
            beaten[j] += wins
            beaten[i] += ~wins
    for i in range(m):
        np.less(beaten[i], n, out=kept[:, i])


def _scores(leaf: Ranked, values: Array) -> Array:
    scores = leaf.score.host(values)
    if leaf.dtype is None or scores.dtype == leaf.dtype:
        return scores
    with np.errstate(invalid="ignore"):  # NumPy warns of NaNs that it calls signalling
        return scores.astype(leaf.dtype)


def _bracket(leaf: Ranked, count: int) -> tuple[Any, Any]:
    """Two keys between which the cut should lie, by a strided sample of the scores."""
    size = leaf.values.size
    # An odd stride meets all columns of a matrix: few have an odd number of them.
    stride = size // _SAMPLE | 1
    thin = [
        None if array is None else np.asarray(array).reshape(-1)[::stride]
        for array in (leaf.values, leaf.alive, leaf.held)
    ]
    sample = Ranked(thin[0], leaf.score, leaf.dtype, *thin[1:])
    order = np.sort(all_keys(sample))
    place = count / size * order.size
    low, high = round(place - _SPREAD), round(place + _SPREAD)
    least, most = order.dtype.type(0), order.dtype.type(np.iinfo(order.dtype).max)
    return order[low] if low >= 0 else least, order[high] if high < order.size else most


def _beside(leaf: Ranked) -> Iterator[tuple[int, Array]]:
    """The keys of a leaf piece by piece, each with the position of its first."""
    at = 0
    for piece in key_pieces(leaf):
        yield at, piece
        at += piece.size
