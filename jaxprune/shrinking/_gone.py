"""Units that are gone already: zero, or masked, in every leaf that they are a part of."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune._errors import NoMatch
from jaxprune._tree import concrete_leaves, is_array
from jaxprune.shrinking._cut import Cut
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._positions import unit_positions


def cut_of(model: Model, tree: Any) -> Cut:
    """The cut of the units that are gone from parameters, or from a mask of them.

    Args:
        model: The model.
        tree: The tree; a hole in a mask says nothing about its leaf.
    """
    by_path = {leaf.path: leaf.value for leaf in concrete_leaves(tree, "cut_of")}
    values = [by_path.get(leaf.path) for leaf in model.leaves]
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
    kept |= _blocks(model, values)
    if not kept:
        raise NoMatch(
            "no unit of the tree is gone: every one has a weight that is not zero. Prune whole "
            "units with jp.Coupled, or choose a cut."
        )
    return Cut(kept)


def _blocks(model: Model, values: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """The residual blocks that add nothing: all of their last leaves are zero."""
    kept = {}
    for name, block in model.depth.blocks.items():
        last = model.depth.places[name].last
        if block.refused or not last or not all(is_array(values[k]) for k in last):
            continue
        alive = np.zeros(block.units, bool)
        for k in last:
            alive |= (np.asarray(values[k]) != 0).reshape(block.units, -1).any(1)
        units = tuple(np.flatnonzero(alive).tolist())
        if len(units) < block.units and (units or block.units == 1):
            kept[name] = units
    return kept
