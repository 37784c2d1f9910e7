"""Exact, shardable, honest pruning for JAX."""

from jaxprune import compat
from jaxprune._allocation import allocate, erk, uniform
from jaxprune._errors import (
    BelowMinNonzero,
    EmptyTensor,
    InvalidPattern,
    InvalidSparsity,
    NoMatch,
    NotTwoDimensional,
    PruningError,
    StructureMismatch,
)
from jaxprune._masks import apply_mask, make_mask, mask_from_zeros, pack, prune, unpack
from jaxprune._metrics import L1, L2, LCG, Random, TaylorProxy, importance
from jaxprune._plan import Plan, PlanRow, plan
from jaxprune._report import (
    Count,
    LeafReport,
    ScoreStats,
    SparsityReport,
    TopScore,
    report,
    stats,
    top_scores,
)
from jaxprune._specs import NM, Block, Channels, Columns, Rows, Unstructured
from jaxprune._tree import any_leaf, is_weight
from jaxprune.training._rules import (
    Averaged,
    Rule,
    acdc,
    at_random,
    averaged,
    by_gradient,
    fisher,
    movement,
    rigl,
    sparse_evolution,
    taylor,
)
from jaxprune.training._schedules import Schedule, constant, gradual, one_shot, periodic
from jaxprune.training._sparsify import (
    KeepMaskState,
    SparsifyState,
    current,
    keep_mask,
    sparsify,
)
from jaxprune.training._straight import straight_through

__version__ = "0.1.0"

__all__ = [
    "L1",
    "L2",
    "LCG",
    "NM",
    "Averaged",
    "BelowMinNonzero",
    "Block",
    "Channels",
    "Columns",
    "Count",
    "EmptyTensor",
    "InvalidPattern",
    "InvalidSparsity",
    "KeepMaskState",
    "LeafReport",
    "NoMatch",
    "NotTwoDimensional",
    "Plan",
    "PlanRow",
    "PruningError",
    "Random",
    "Rows",
    "Rule",
    "Schedule",
    "ScoreStats",
    "SparsifyState",
    "SparsityReport",
    "StructureMismatch",
    "TaylorProxy",
    "TopScore",
    "Unstructured",
    "acdc",
    "allocate",
    "any_leaf",
    "apply_mask",
    "at_random",
    "averaged",
    "by_gradient",
    "compat",
    "constant",
    "current",
    "erk",
    "fisher",
    "gradual",
    "importance",
    "is_weight",
    "keep_mask",
    "make_mask",
    "mask_from_zeros",
    "movement",
    "one_shot",
    "pack",
    "periodic",
    "plan",
    "prune",
    "report",
    "rigl",
    "sparse_evolution",
    "sparsify",
    "stats",
    "straight_through",
    "taylor",
    "top_scores",
    "uniform",
    "unpack",
]
