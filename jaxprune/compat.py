"""The reference mode: the original system's answers to the bit.

One tensor at a time, in float32, sums in order, its 64-bit generator, its errors by name. It is
eager: the order of a float32 sum, and the subnormal numbers in it, are things a compiler does not
promise, so everything is done in NumPy, by the kernel that prunes files and first calls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxprune._errors import (
    BelowMinNonzero,
    EmptyTensor,
    InvalidSparsity,
    NotTwoDimensional,
    PruningError,
)
from jaxprune._kernels import host
from jaxprune._kernels import lcg as generator
from jaxprune._kernels.ranked import Ranked
from jaxprune._report import SparsityReport
from jaxprune._report import report as _report
from jaxprune._score_stats import ScoreStats, TopScore, top_scores
from jaxprune._score_stats import stats as _stats
from jaxprune._specs.budget import budget
from jaxprune._specs.checks import check_count, check_sparsity
from jaxprune._text import shown
from jaxprune._tree import concrete_leaves, is_traced
from jaxprune._where import any_leaf

MetricName: TypeAlias = Literal["l1_magnitude", "l2_magnitude", "taylor_proxy", "random"]
Granularity: TypeAlias = Literal["unstructured", "structured_row", "structured_column"]

_METRICS: dict[str, Callable[[host.Array, int], host.Array]] = {
    "l1_magnitude": lambda array, seed: np.abs(array),
    "l2_magnitude": lambda array, seed: np.square(array),
    "taylor_proxy": lambda array, seed: np.square(array),
    "random": lambda array, seed: generator.on_host(seed, array.size).reshape(array.shape),
}


class PruningConfig(TypedDict):
    """Arguments of `prune` by name, as the presets give them."""

    sparsity: float
    metric: MetricName
    granularity: Granularity


_ALONG = {"structured_row": 1, "structured_column": 0}  # the axis that a unit spans


def prune(
    array: ArrayLike,
    *,
    sparsity: float,
    metric: MetricName = "l1_magnitude",
    granularity: Granularity = "unstructured",
    min_nonzero: int = 1,
    seed: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Prunes one tensor as the reference does.

    Args:
        array: The weights; they are taken as float32.
        sparsity: The fraction removed, in [0, 1).
        metric: The reference's name of the metric.
        granularity: The reference's name of what is removed: weights, rows or columns.
        min_nonzero: Weights kept at the least.
        seed: The seed of the random metric. Row or column u reads the stream of `seed + u`.

    Returns:
        The pruned float32 weights, and the mask as float32: 1 kept, 0 pruned.

    Raises:
        InvalidSparsity: The sparsity is no number in [0, 1), or is traced.
        PruningError: `array` is not a tensor, or the reference does not know a name or a number.
        EmptyTensor: There are no weights.
        NotTwoDimensional: Rows or columns asked of a tensor that is no matrix.
        BelowMinNonzero: `min_nonzero` exceeds the number of weights.

    Examples:
        >>> from jaxprune import compat
        >>> pruned, mask = compat.prune([3.0, -1.0, 2.0, 0.5], sparsity=0.5)
        >>> pruned
        Array([3., 0., 2., 0.], dtype=float32)
    """
    if is_traced(sparsity):
        raise InvalidSparsity(
            "the sparsity is a tracer, and jaxprune.compat needs its value: call it outside jit."
        )
    check_sparsity(sparsity)
    array = _tensor(array)
    scores = _scores(array, metric, seed)
    if not scores.size:
        raise EmptyTensor(f"the tensor has shape {scores.shape} and holds no weights.")
    if granularity != "unstructured" and granularity not in _ALONG:
        raise PruningError(
            f"granularity is 'unstructured', 'structured_row' or 'structured_column', got "
            f"{shown(granularity)}."
        )
    if granularity in _ALONG and scores.ndim != 2:
        raise NotTwoDimensional(f"{granularity} needs a matrix, got the shape {scores.shape}.")
    check_count("min_nonzero", min_nonzero)
    if min_nonzero > scores.size:
        raise BelowMinNonzero(
            f"min_nonzero={min_nonzero} exceeds the tensor's {scores.size} weights."
        )
    if granularity == "unstructured":
        kept = host.survivors(Ranked(scores), int(budget(sparsity, scores.size, min_nonzero)))
    else:
        axis = _ALONG[granularity]
        units = _unit_scores(scores, axis, metric, seed)
        held = -(-min_nonzero // scores.shape[axis])
        alive = host.survivors(Ranked(units), int(budget(sparsity, units.size, held)))
        kept = np.broadcast_to(np.expand_dims(alive, axis), scores.shape)
    pruned = np.where(kept, array, np.float32(0))
    return jax.device_put((pruned, kept.astype(np.float32)))


def importance(array: ArrayLike, metric: MetricName = "l1_magnitude", seed: int = 0) -> jax.Array:
    """Scores one tensor as the reference does, weight by weight.

    Args:
        array: The weights; they are taken as float32.
        metric: The reference's name of the metric.
        seed: The seed of the random metric.

    Returns:
        float32 scores of the shape of `array`.

    Raises:
        PruningError: The metric's name or the seed is not valid, or `array` is traced.
    """
    return jax.device_put(_scores(_tensor(array), metric, seed))


def unstructured_l1(sparsity: float) -> PruningConfig:
    """The reference's preset for single weights by magnitude, for `prune(array, **preset)`.

    Args:
        sparsity: The fraction removed, in [0, 1).

    Raises:
        InvalidSparsity: The sparsity is not a number in [0, 1).

    Examples:
        >>> from jaxprune import compat
        >>> compat.prune([3.0, -1.0], **compat.unstructured_l1(0.5))[1]
        Array([1., 0.], dtype=float32)
    """
    check_sparsity(sparsity)
    return PruningConfig(sparsity=sparsity, metric="l1_magnitude", granularity="unstructured")


def structured_row_l2(sparsity: float) -> PruningConfig:
    """The reference's preset for whole rows by their Euclidean norm, for `prune(array, **preset)`.

    Args:
        sparsity: The fraction of the rows removed, in [0, 1).

    Raises:
        InvalidSparsity: The sparsity is not a number in [0, 1).
    """
    check_sparsity(sparsity)
    return PruningConfig(sparsity=sparsity, metric="l2_magnitude", granularity="structured_row")


@dataclass(frozen=True, eq=False, slots=True)
class ImportanceScores:
    """The scores of one tensor, and the metric that made them.

    Attributes:
        values: float32, of the tensor's shape.
        metric: The reference's name of the metric.
        seed: The seed of the random metric.
    """

    values: jax.Array
    metric: MetricName
    seed: int = 0

    def sparsity(self, threshold: float = 0.0) -> float:
        """The fraction of the scores at or below a threshold, in float32; 0.0 of no scores.

        A NaN is at or below nothing.
        """
        values = np.asarray(self.values)
        low = int(np.count_nonzero(values <= np.float32(threshold)))
        return low / values.size if values.size else 0.0

    def top_k(self, k: int) -> list[TopScore]:
        """The k highest scores, highest first; none if k is 0, or if there are no scores.

        Raises:
            PruningError: `k` is not an integer of 0 or more.
        """
        check_count("k", k, PruningError)
        return top_scores(self.values, k) if k and self.values.size else []

    def stats(self) -> ScoreStats:
        """Their statistics; zeros of no scores."""
        if not self.values.size:
            return ScoreStats(*[jnp.float32(0)] * len(ScoreStats._fields))
        return _stats(self.values)


def scores(
    array: ArrayLike, metric: MetricName = "l1_magnitude", seed: int = 0
) -> ImportanceScores:
    """Scores one tensor, and remembers by which metric.

    Args:
        array: The weights; they are taken as float32.
        metric: The reference's name of the metric.
        seed: The seed of the random metric.

    Raises:
        PruningError: As `importance` does.

    Examples:
        >>> from jaxprune import compat
        >>> scores = compat.scores([3.0, -1.0, 2.0, 0.5])
        >>> scores.metric, scores.sparsity(threshold=1.0)
        ('l1_magnitude', 0.5)
    """
    return ImportanceScores(importance(array, metric, seed), metric, int(seed))


def report(params: Any) -> SparsityReport:
    """Reports on every tensor of a tree as the reference does: vectors and biases count too.

    Args:
        params: Any tree of arrays.

    Returns:
        What `jaxprune.report(params, where=jaxprune.any_leaf)` gives.
    """
    return _report(params, where=any_leaf)


def lcg(seed: int, n: int) -> jax.Array:
    """The first `n` values of the reference's generator.

    Args:
        seed: An integer in [0, 2**64).
        n: How many values.

    Returns:
        float32, between 0 and 1.

    Raises:
        PruningError: The seed does not fit 64 bits, or `n` is no number of values.

    Examples:
        >>> from jaxprune import compat
        >>> compat.lcg(42, 3)
        Array([0.56823033, 0.22546344, 0.4128383 ], dtype=float32)
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise PruningError(f"n is how many values, a Python integer of 0 or more, got {shown(n)}.")
    return generator.uniform(generator.check_seed(seed), (int(n),))


def _tensor(array: ArrayLike) -> np.ndarray:
    concrete_leaves(array, "jaxprune.compat")
    try:
        if array is not None:  # which NumPy takes for a NaN
            return np.asarray(array, np.float32)
    except (TypeError, ValueError):
        pass
    raise PruningError(f"expected one tensor of numbers, got {shown(array)}.")


def _scores(array: np.ndarray, metric: str, seed: int) -> np.ndarray:
    if metric not in _METRICS:
        raise PruningError(
            f"metric is one of {', '.join(map(repr, _METRICS))}, got {shown(metric)}."
        )
    generator.check_seed(seed)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return _METRICS[metric](array, int(seed))


def _unit_scores(scores: np.ndarray, axis: int, metric: str, seed: int) -> np.ndarray:
    """The scores of whole rows or columns: in-order float32 sums, subnormal numbers included."""
    if metric == "random":
        return generator.unit_values(seed, scores.shape[1 - axis])
    with np.errstate(over="ignore"):
        sums = np.add.accumulate(scores, axis, dtype=np.float32).take(-1, axis)
    return sums if metric == "l1_magnitude" else np.sqrt(sums)
