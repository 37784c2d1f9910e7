"""Specs, metrics and primitives of your own: what to register for a new class.

A spec is a frozen dataclass registered as a pytree. Register `fit` (what is wrong with a leaf for
it) and `mask` (what it keeps of one leaf's scores), and masks, plans, schedules, training,
sensitivity and files know it. The other functions have defaults, named in their docstrings.

What `jaxprune.dependencies` does not know about a primitive is told by `reads`: which of `layouts`
it has, or a class of your own. For such a class register `couple` (which axes belong together),
and where the defaults are not right `zeros` (where the result of a masked model is zero) and
`run_small` (how it is run at the sizes that a cut leaves).

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
from jaxprune.shrinking._couple import couple
from jaxprune.shrinking._masked import Zeros
from jaxprune.shrinking._program import Place, Step
from jaxprune.shrinking._small import Small, run_small
from jaxprune.shrinking._zeros import zeros
from jaxprune.tracing import _layouts as layouts
from jaxprune.tracing._jax_layouts import reads

__all__ = [
    "Leaf",
    "Place",
    "Problem",
    "Small",
    "Step",
    "Work",
    "Zeros",
    "at_sparsity",
    "couple",
    "fit",
    "fit_together",
    "layouts",
    "mask",
    "reads",
    "removed",
    "resolved",
    "run_small",
    "scope",
    "scores_of",
    "select",
    "target",
    "zeros",
]
