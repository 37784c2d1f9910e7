"""Shares by LAMP: what each weight adds to its leaf, ranked over all leaves."""

import math
from typing import Any

import numpy as np

from jaxprune._tree import Leaf

_Array = np.ndarray[Any, Any]


def lamp_shares(leaves: dict[int, Leaf], left: int) -> dict[int, int]:
    """How many weights each leaf loses, if the `left` lowest LAMP scores of all go.

    A weight's score is its square over the sum of the squares of all weights of its leaf that are
    at least as large; among equal weights, of those that go after it. In a leaf it rises with the
    magnitude, so the shares say all: each leaf loses its smallest weights. The largest of a leaf
    scores 1, and stays. Among equal scores, those of the earlier leaf go first.
    """
    scores = {i: lamp_scores(leaf.value)[:-1] for i, leaf in leaves.items()}
    if left <= 0:
        return dict.fromkeys(leaves, 0)

    def lower(bound: float, side: Any) -> dict[int, int]:
        return {i: int(np.searchsorted(s, bound, side)) for i, s in scores.items()}

    # Scores are floats of 0 to 1, whose bits are integers of the same order.
    low, high = -1, int(np.float64(1).view(np.int64))
    while high - low > 1:
        middle = (low + high) // 2
        enough = sum(lower(_float(middle), "right").values()) >= left
        low, high = (low, middle) if enough else (middle, high)
    shares, most = (lower(_float(high), side) for side in ("left", "right"))
    missing = left - sum(shares.values())
    for i, share in shares.items():
        taken = min(most[i] - share, missing)
        shares[i] += taken
        missing -= taken
    return shares


def lamp_scores(weights: Any) -> _Array:
    """The LAMP scores of a leaf's weights, float64, from the smallest weight up."""
    values = np.asarray(weights)
    wide = values.astype(np.promote_types(values.dtype, np.float32), copy=False)
    squares = np.square(np.sort(np.abs(wide), axis=None), dtype=np.float64)
    # A NaN is sorted last: it ranks highest, and takes no part in the sums.
    squares = np.where(np.isfinite(squares), squares, np.inf)
    finite = squares[squares < math.inf]
    sums = np.cumsum(finite[::-1])[::-1]
    scores = np.ones(squares.size)
    # Rounding must not turn the order around.
    scores[: finite.size] = np.maximum.accumulate(
        np.divide(finite, sums, out=np.zeros_like(finite), where=sums > 0)
    )
    return scores


def _float(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))
