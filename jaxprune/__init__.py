"""Exact, shardable, honest pruning for JAX."""

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
from jaxprune._specs import NM, Block, Channels, Columns, Rows, Unstructured
from jaxprune._tree import any_leaf, is_weight

__version__ = "0.1.0"
