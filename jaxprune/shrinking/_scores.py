"""How much each unit matters: the scores of its weights, added up over all leaves it is in."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from jaxprune._kernels.placement import is_host_array
from jaxprune._metrics import Metric, importance
from jaxprune._tree import leaves
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._positions import unit_positions

Scores: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def unit_scores(
    model: Model, params: Any, metric: Metric, names: Sequence[str]
) -> dict[str, Scores]:
    """The scores of the units of some groups, divided by their mean in the group.

    A unit's score is the sum over its weights in the kernels that products and convolutions read;
    of a group that is in none of these, over all of its weights. A mean of one makes groups
    comparable, whatever the sizes of their units.

    Args:
        model: The model.
        params: Its parameters.
        metric: What scores a weight.
        names: The names of the groups.
    """
    by_path = {leaf.path: leaf.value for leaf in leaves(importance(params, metric))}
    sums: dict[tuple[int, int], Scores] = {}

    def along(k: int, axis: int) -> Scores:
        if (k, axis) not in sums:
            sums[k, axis] = _sum_along(by_path[model.leaves[k].path], axis)
        return sums[k, axis]

    return {name: _normalized(_group_scores(model, name, along)) for name in names}


def _group_scores(model: Model, name: str, along: Any) -> Scores:
    unit, group = model.blocks[name], model.groups[name]
    scores = np.zeros(group.units)
    for k, axis in model.scored_members(name):
        for at in unit_positions(model.axes[k][axis], unit):
            there = at >= 0
            scores += np.bincount(at[there], along(k, axis)[there], group.units)
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
