"""Trees like the parameters: which leaf of the parameters each of their leaves is cut as."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune._errors import Problem, StructureMismatch, raise_problems
from jaxprune._tree import Leaf, is_array, leaves, rebuild
from jaxprune.shrinking._blocks import units
from jaxprune.shrinking._paths import Paths
from jaxprune.shrinking._program import Axes
from jaxprune.shrinking._remains import Remains


def shrink_tree(tree: Any, like: Sequence[Leaf], axes: Sequence[Axes], left: Remains) -> Any:
    """A tree without what is cut.

    Each of its arrays is cut as the leaf of the parameters whose path ends as its own does, for as
    many parts as any, and whose shape it has, or has behind further axes. Where that leaf is gone
    as a whole there is None. Other arrays stay.

    Args:
        tree: Parameters, or any tree like them: an average, gradients, a mask, an optimizer's
            state, or a part of one.
        like: The leaves of the parameters.
        axes: Their axes.
        left: What is left of these.
    """
    paths = Paths([leaf.path for leaf in like])
    tree_leaves = leaves(tree, _is_masked)
    values: list[Any] = []
    problems: list[Problem | None] = []
    candidates = paths.of_tree([leaf.path for leaf in tree_leaves])
    for leaf, numbers in zip(tree_leaves, candidates, strict=True):
        value, problem = _shrunk(leaf, numbers, like, axes, left)
        values.append(value)
        problems.append(problem)
    raise_problems(problems)
    return rebuild(tree, values, _is_masked)


def _is_masked(node: Any) -> bool:
    """Whether a node of an optimizer's state stands for a leaf that the optimizer leaves alone."""
    if not isinstance(node, tuple) or node:
        return False
    import optax  # noqa: PLC0415  # importing jaxprune without training does not import Optax

    return isinstance(node, optax.MaskedNode)


def _shrunk(
    leaf: Leaf, numbers: Sequence[int], like: Sequence[Leaf], axes: Sequence[Axes], left: Remains
) -> tuple[Any, Problem | None]:
    is_gone = numbers and left.dropped.leaves.issuperset(numbers)
    if is_gone and (is_array(leaf.value) or _is_masked(leaf.value)):
        return None, _below(leaf, like[numbers[0]])
    if not is_array(leaf.value) or np.size(leaf.value) <= 1:
        # Counts, holes, and what stands where there is no statistic.
        return leaf.value, None
    shape = tuple(leaf.value.shape)
    same = [k for k in numbers if _fits(shape, like[k].value.shape)]
    if not same:
        cut = [k for k in numbers if not left.whole(axes[k])]
        return leaf.value, _misfit(leaf, like[cut[0]], left.shape(axes[cut[0]])) if cut else None
    ways = {tuple(left.of(block).tobytes() for block in axes[k]): k for k in same}
    if len(ways) > 1:
        names = " and ".join(like[k].name for k in ways.values())
        return leaf.value, Problem(
            StructureMismatch,
            f"{leaf.name} could be cut as {names}: pass a tree whose paths tell them apart.",
        )
    (k,) = ways.values()
    # A history of updates has axes of its own in front.
    further = tuple(units(size, "a history") for size in shape[: len(shape) - len(axes[k])])
    return left.take(leaf.value, (*further, *axes[k])), None


def _below(leaf: Leaf, of: Leaf) -> Problem | None:
    """The problem of one of several statistics of a leaf that is gone: there would be none."""
    if leaf.path.rpartition("/")[2] == of.path.rpartition("/")[2]:
        return None
    return Problem(
        StructureMismatch,
        f"{leaf.name} stands below {of.name}, which is gone as a whole: initialize this state anew "
        "from the small parameters, or pass the tree without it.",
    )


def _fits(shape: tuple[int, ...], of: Sequence[int]) -> bool:
    return len(of) > 0 and shape[len(shape) - len(of) :] == tuple(of)


def _misfit(leaf: Leaf, of: Leaf, small: tuple[int, ...]) -> Problem:
    shape, whole = tuple(leaf.value.shape), tuple(of.value.shape)
    if shape == small:
        what = "it is cut already, or of another model"
    elif np.prod(shape) < np.prod(whole):
        what = (
            "a factored statistic cannot be cut: initialize this state anew from the small "
            "parameters, or pass the tree without it"
        )
    else:
        what = "pass trees of the model whose dependencies these are"
    return Problem(
        StructureMismatch,
        f"{leaf.name} has shape {shape}, and {of.name}, which it is called as, {whole}: {what}.",
    )
