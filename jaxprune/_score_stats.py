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
    found = [leaf for leaf in concrete_leaves(scores, "top_scores") if is_prunable(leaf.value)]
    arrays = _scores(scores, found)
    widest = np.dtype(_widest(arrays))
    best: list[tuple[int, TopScore]] = []
    for leaf, array in zip(found, arrays, strict=True):
        for order, index, score in _highest(array, int(k), widest):
            best.append((order, TopScore(leaf.path, index, score)))
    best.sort(key=lambda item: -item[0])
    return [score for _, score in best[:k]]


def _highest(array: jax.Array, k: int, dtype: Any) -> Iterable[tuple[int, tuple[int, ...], float]]:
    """The keys, indices and values of the `k` highest scores, in row-major order."""
    here = on_host(Ranked(array, dtype=dtype))
    if here is None:
        lowest = jnp.int32(max(0, array.size - k))
        axes = tuple(range(array.ndim))
        kept = device.group_survivors(Ranked(array), lowest, axes=axes, ties="last")
        here = Ranked(np.asarray(array), dtype=dtype)
        places = np.flatnonzero(np.asarray(kept))
        order = host.all_keys(here)
    else:
        order = host.all_keys(here)
        places = np.sort(host.highest(order, k))
    values = here.values.reshape(-1)
    for place in places.tolist():
        index = tuple(int(i) for i in np.unravel_index(place, array.shape))
        yield int(order[place]), index, float(values[place])


def _scores(tree: Any, found: Sequence[Leaf]) -> list[jax.Array]:
    arrays = [as_array(leaf.value) for leaf in found if is_prunable(leaf.value) and leaf.value.size]
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
