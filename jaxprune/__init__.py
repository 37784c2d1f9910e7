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

__version__ = "0.1.0"

__all__ = [
    "L1",
    "L2",
    "LCG",
    "NM",
    "BelowMinNonzero",
    "Block",
    "Channels",
    "Columns",
    "Count",
    "EmptyTensor",
    "InvalidPattern",
    "InvalidSparsity",
    "LeafReport",
    "NoMatch",
    "NotTwoDimensional",
    "Plan",
    "PlanRow",
    "PruningError",
    "Random",
    "Rows",
    "ScoreStats",
    "SparsityReport",
    "StructureMismatch",
    "TaylorProxy",
    "TopScore",
    "Unstructured",
    "allocate",
    "any_leaf",
    "apply_mask",
    "compat",
    "erk",
    "importance",
    "is_weight",
    "make_mask",
    "mask_from_zeros",
    "pack",
    "plan",
    "prune",
    "report",
    "stats",
    "top_scores",
    "uniform",
    "unpack",
]
