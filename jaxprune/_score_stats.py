"""Statistics of scores, and the highest of them."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import NoMatch, PruningError
from jaxprune._kernels import device, host
from jaxprune._kernels.floats import exponent, from_keys, keys, scaled_down, scaled_up
from jaxprune._kernels.limbs import limbs
from jaxprune._kernels.placement import on_host
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.sharding import local_parts, of_all_processes, placed
from jaxprune._text import shown
from jaxprune._tree import Leaf, as_array, concrete_leaves, is_prunable, leaves


class ScoreStats(NamedTuple):
    """Statistics of scores; scalars of their dtype, float32 at the least.

    Attributes:
        min: The lowest.
        max: The highest.
        mean: The mean.
        median: The exact median; of an even number the mean of the two in the middle.
        std: The population's standard deviation.
    """

    min: jax.Array
    max: jax.Array
    mean: jax.Array
    median: jax.Array
    std: jax.Array


@dataclass(frozen=True, slots=True)
class TopScore:
    """One of the highest scores: the leaf's path, the index in the leaf, and the score."""

    path: str
    index: tuple[int, ...]
    score: float


def stats(scores: Any) -> ScoreStats:
    """Minimum, maximum, mean, median and standard deviation of all the scores in a tree.

    Args:
        scores: A tree of scores; for one leaf's statistics pass the leaf.

    Returns:
        The statistics, as arrays: it runs under jit.

    Raises:
        NoMatch: The tree holds no scores.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> float(jp.stats(jnp.array([4.0, 1.0, 3.0, 2.0])).median)
        2.5
    """
    return _stats(_scores(scores, leaves(scores)))


def top_scores(scores: Any, k: int) -> list[TopScore]:
    """The k highest scores of a tree, highest first.

    Args:
        scores: A tree of scores.
        k: How many; all of them if there are fewer.

    Returns:
        Path, index and score of each. Among equals the earlier leaf and the lower index come first.

    Raises:
        PruningError: `k` is no positive integer, or the scores are traced.
        NoMatch: The tree holds no scores.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> jp.top_scores({"w": jnp.array([[1.0, 5.0], [3.0, 2.0]])}, 2)
        [TopScore(path='w', index=(0, 1), score=5.0), TopScore(path='w', index=(1, 0), score=3.0)]
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise PruningError(f"k is a positive Python integer, got {shown(k)}.")
    score_leaves = [
        leaf for leaf in concrete_leaves(scores, "top_scores") if _holds_scores(leaf.value)
    ]
    arrays = _scores(scores, score_leaves)
    widest = _widest(arrays)
    rows = of_all_processes(_highest(arrays, int(k), widest), arrays)
    rows = rows[rows[:, 0] >= 0]
    values = np.ascontiguousarray(rows[:, -_words(widest) :]).view(widest)[:, 0]
    order = host.all_keys(Ranked(values))
    best = sorted(range(len(rows)), key=lambda i: (-int(order[i]), *rows[i]))[:k]
    return [
        TopScore(leaf.path, tuple(map(int, rows[i, 1 : 1 + leaf.value.ndim])), float(values[i]))
        for i in best
        for leaf in [score_leaves[rows[i, 0]]]
    ]


def _highest(arrays: Sequence[jax.Array], k: int, widest: Any) -> np.ndarray[Any, Any]:
    """The k highest scores of each array that this process holds: int32 `[score, word]`.

    A row is the array's number, the index, and the bits of the score. Rows that are left over begin
    with -1: each process has as many, for they are exchanged.
    """
    rank = max(array.ndim for array in arrays)
    most = sum(min(k, array.size) for array in arrays)
    rows = np.full((most, 1 + rank + _words(widest)), -1, np.int32)
    filled = 0
    for number, array in enumerate(arrays):
        high = _k_highest(array, k)
        chosen = dict(local_parts(placed(high, array)))
        for first, part in local_parts(array):
            inside = np.argwhere(chosen[first])
            new = rows[filled : filled + len(inside)]
            new[:, 0] = number
            new[:, 1 : 1 + array.ndim] = inside + np.asarray(first, int)
            new[:, 1 + rank :] = part[chosen[first]].astype(widest)[:, None].view(np.int32)
            filled += len(inside)
    return rows


def _k_highest(array: jax.Array, k: int) -> Any:
    """Marks the `k` highest scores of an array; among equals the first stay."""
    here = on_host(Ranked(array))
    if here is None:
        lowest, axes = jnp.int32(max(0, array.size - k)), tuple(range(array.ndim))
        return device.group_survivors(Ranked(array), lowest, axes=axes, ties="last")
    kept = np.zeros(array.size, bool)
    kept[host.highest(host.all_keys(here), k)] = True
    return jax.device_put(kept.reshape(array.shape), array.sharding)


def _words(dtype: Any) -> int:
    return dtype.itemsize // 4


def _holds_scores(value: Any) -> bool:
    return is_prunable(value) and value.size > 0


def _scores(tree: Any, tree_leaves: Sequence[Leaf]) -> list[jax.Array]:
    arrays = [as_array(leaf.value) for leaf in tree_leaves if _holds_scores(leaf.value)]
    if not arrays:
        raise NoMatch(f"there are no scores in {shown(tree)}: pass what jp.importance returned.")
    return arrays


def _widest(arrays: Sequence[jax.Array]) -> Any:
    """The type that holds the scores of all `arrays`, float32 at the least."""
    return functools.reduce(jnp.promote_types, [a.dtype for a in arrays], jnp.dtype("float32"))


@jax.jit
def _stats(scores: Sequence[jax.Array]) -> ScoreStats:
    widest = _widest(scores)
    wide = [array.astype(widest) for array in scores]
    total = sum(array.size for array in wide)
    orders = [keys(array) for array in wide]
    lowest = from_keys(jnp.stack([jnp.min(order) for order in orders]).min(), widest)
    highest = from_keys(jnp.stack([jnp.max(order) for order in orders]).max(), widest)
    # Sums and squares are taken of numbers of magnitude below 2, whatever the scores: they neither
    # overflow nor are flushed.
    power = _power(lowest, highest)
    fractions = [scaled_down(array, power) for array in wide]

    def mean_of(parts: Iterable[jax.Array]) -> jax.Array:
        # Two short sums lose less to rounding than one long one.
        sums = [jnp.sum(jnp.sum(part, -1)) if part.ndim else part for part in parts]
        return sum(sums, jnp.zeros((), widest)) / total

    mean = mean_of(fractions)
    std = jnp.sqrt(mean_of(jnp.square(part - mean) for part in fractions))
    ranked = [Ranked(array) for array in wide]
    middle = device.nth_lowest(ranked, limbs((total + 1) // 2, total))
    if total % 2:
        median = middle
    else:
        median = _midpoint(middle, device.nth_lowest(ranked, limbs(total // 2 + 1, total)))
    return ScoreStats(lowest, highest, scaled_up(mean, power), median, scaled_up(std, power))


def _midpoint(a: jax.Array, b: jax.Array) -> jax.Array:
    power = _power(a, b)
    return scaled_up((scaled_down(a, power) + scaled_down(b, power)) / 2, power)


def _power(a: jax.Array, b: jax.Array) -> jax.Array:
    """The power of two that scales two numbers, and all between them, to a magnitude below 2."""
    power = jnp.maximum(exponent(a), exponent(b))
    return jnp.where(jnp.isfinite(a) & jnp.isfinite(b), power, 0)
