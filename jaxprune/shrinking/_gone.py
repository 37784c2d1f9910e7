"""Units that are gone already: zero, or masked, in every leaf that they are a part of."""

from typing import Any

import numpy as np

from jaxprune._errors import NoMatch
from jaxprune._tree import concrete_leaves, is_array
from jaxprune.shrinking._blocks import unit_positions
from jaxprune.shrinking._cut import Cut
from jaxprune.shrinking._model import Model


def cut_of(model: Model, tree: Any) -> Cut:
    """The cut of the units that are gone from parameters, or from a mask of them.

    Args:
        model: The model.
        tree: The tree; a hole in a mask says nothing about its leaf.
    """
    found = {leaf.path: leaf.value for leaf in concrete_leaves(tree, "cut_of")}
    values = [found.get(leaf.path) for leaf in model.leaves]
    kept = {}
    for name, group in model.groups.items():
        members = [m for m in model.scored_members(name) if is_array(values[m[0]])]
        if group.refused or not members:
            continue
        alive = np.zeros(group.units, bool)
        for k, axis in members:
            array = np.asarray(values[k])
            others = tuple(a for a in range(array.ndim) if a != axis)
            there = (array != 0).any(others)
            for numbers in unit_positions(model.axes[k][axis], model.blocks[name]):
                np.logical_or.at(alive, numbers[numbers >= 0], there[numbers >= 0])
        if alive.any() and not alive.all():
            kept[name] = tuple(np.flatnonzero(alive).tolist())
    if not kept:
        raise NoMatch(
            "no unit of the tree is gone: every one has a weight that is not zero. Prune whole "
            "units with jp.Coupled, or choose a cut."
        )
    return Cut(kept)
