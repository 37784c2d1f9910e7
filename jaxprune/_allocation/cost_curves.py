"""What losing weights costs each leaf, as convex curves, and the shares that cost least in all."""

import itertools
import math
from typing import NamedTuple

from jaxprune._errors import Problem, StructureMismatch
from jaxprune._sensitivity import Sensitivity
from jaxprune._tree import Leaf


class Point(NamedTuple):
    """A point of a curve: so many weights lost, and by how much the loss rises."""

    lost: int
    cost: float


def convex(measured: Sensitivity, row: int) -> list[Point]:
    """The lower convex hull of what was measured of one leaf, from nothing lost on."""
    size = measured.sizes[row]
    costs = {0: 0.0}
    for removed, loss in zip(measured.removed[row], measured.losses[row], strict=True):
        costs.setdefault(min(int(removed), size - 1), float(loss) - measured.dense)
    hull: list[Point] = []
    for point in map(Point._make, sorted(costs.items())):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) > _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    # Budgets are rounded for all leaves together, and what was removed for each: up to the next
    # whole weight a leaf can give what is missing, once nothing that was measured is left.
    end = min(math.ceil(measured.sparsities[-1] * size), size - 1)
    return [*hull, Point(end, math.inf)] if end > hull[-1].lost else hull


def cheapest(curves: dict[int, list[Point]], left: int) -> dict[int, int]:
    """The shares, `left` weights in all, at which the costs sum to the least.

    Curves are convex, so it is enough to take their pieces in the order of their slopes. Of equal
    slopes the piece that ends at the lower sparsity goes first: leaves that are alike stay alike.
    """
    pieces = sorted(
        (_slope(a, b), b.lost / curve[-1].lost, i, b.lost - a.lost)
        for i, curve in curves.items()
        for a, b in itertools.pairwise(curve)
    )
    shares = dict.fromkeys(curves, 0)
    for _, _, i, length in pieces:
        taken = min(length, left)
        shares[i] += taken
        left -= taken
    return shares


def unmeasured(measured: Sensitivity, leaf: Leaf) -> Problem | None:
    """Why `measured` does not tell about a leaf; None if it does."""
    size = math.prod(leaf.value.shape)
    if leaf.path not in measured.paths:
        return Problem(
            StructureMismatch,
            f"{leaf.name} was not measured: pass the where= that jp.sensitivity had, or fix its "
            "sparsity by overrides=.",
        )
    before = measured.sizes[measured.paths.index(leaf.path)]
    if size == before:
        return None
    return Problem(
        StructureMismatch,
        f"{leaf.name} holds {size} weights, and held {before} when it was measured: measure these "
        "parameters.",
    )


def _slope(a: Point, b: Point) -> float:
    return (b.cost - a.cost) / (b.lost - a.lost)
