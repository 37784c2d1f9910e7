"""How much each unit matters: the scores of its weights, added up over all leaves it is in."""

from collections.abc import Container, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from jaxprune._kernels.placement import is_host_array
from jaxprune._metrics import Metric, importance
from jaxprune._tree import leaves
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._positions import unit_positions
from jaxprune.shrinking._remains import Remains

Scores: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def unit_scores(
    model: Model, params: Any, metric: Metric, names: Sequence[str], left: Remains
) -> dict[str, Scores]:
    """The scores of the units of some groups, divided by their mean in the group.

    A unit's score is the sum over its weights in the kernels that products and convolutions read;
    of a group that is in none of these, over all of its weights. A mean of one makes groups
    comparable, whatever the sizes of their units. What is gone already counts for nothing, and its
    units go before all others.

    Args:
        model: The model.
        params: Its parameters.
        metric: What scores a weight.
        names: The names of the groups.
        left: What is left of the model already.
    """
    by_path = {leaf.path: leaf.value for leaf in leaves(importance(params, metric))}
    sums: dict[tuple[int, int], Scores] = {}

    def along(k: int, axis: int) -> Scores:
        if (k, axis) not in sums:
            kept = left.of(model.axes[k][axis])
            there = left.take(by_path[model.leaves[k].path], model.axes[k])
            sums[k, axis] = np.zeros(len(kept))
            sums[k, axis][kept] = _sum_along(there, axis)
        return sums[k, axis]

    there = {k for k in range(len(model.leaves)) if k not in left.dropped.leaves}
    by_name = {}
    for name in names:
        kept = left.of(model.blocks[name])
        scores = _group_scores(model, name, there, along)
        by_name[name] = np.full(len(kept), -np.inf)
        by_name[name][kept] = _normalized(scores[kept])
    return by_name


def _group_scores(model: Model, name: str, there: Container[int], along: Any) -> Scores:
    unit, group = model.blocks[name], model.groups[name]
    scores = np.zeros(group.units)
    for k, axis in model.scored_members(name, there):
        for at in unit_positions(model.axes[k][axis], unit):
            known = at >= 0
            scores += np.bincount(at[known], along(k, axis)[known], group.units)
    return scores


def _sum_along(scores: Any, axis: int) -> Scores:
    others = tuple(k for k in range(scores.ndim) if k != axis)
    if is_host_array(scores):
        return np.asarray(scores).sum(others, dtype=np.float64)
    return np.asarray(jnp.sum(scores, others, dtype=jnp.float32), np.float64)


def _normalized(scores: Scores) -> Scores:
    """Scores of mean one; what is no number ranks highest, as everywhere."""
    known = np.isfinite(scores)
    mean = np.abs(scores[known]).mean() if known.any() else 0.0
    scaled = scores / mean if mean else scores
    return np.where(np.isnan(scores), np.inf, scaled)
