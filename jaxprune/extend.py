"""Specs and metrics of your own, complete: what to register for a new class.

A spec is a frozen dataclass registered as a pytree. Register `fit` (what is wrong with a leaf for
it) and `mask` (what it keeps of one leaf's scores), and masks, plans, schedules, training,
sensitivity and files know it. The other functions have defaults, named in their docstrings.

A metric is a function from weights to scores; or a class for which `scores_of` is registered.
"""

from jaxprune._errors import Problem
from jaxprune._metrics import scores_of
from jaxprune._specs.protocol import (
    Work,
    at_sparsity,
    fit,
    fit_together,
    mask,
    removed,
    resolved,
    scope,
    select,
    target,
)
from jaxprune._tree import Leaf

__all__ = [
    "Leaf",
    "Problem",
    "Work",
    "at_sparsity",
    "fit",
    "fit_together",
    "mask",
    "removed",
    "resolved",
    "scope",
    "scores_of",
    "select",
    "target",
]
