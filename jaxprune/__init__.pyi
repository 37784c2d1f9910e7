from . import compat, extend, plot
from ._allocation.allocate import allocate, erk, uniform
from ._allocation.outliers import OWL
from ._errors import (
    BelowMinNonzero,
    EmptyTensor,
    InvalidPattern,
    InvalidSparsity,
    NoMatch,
    NotTwoDimensional,
    PruningError,
    StructureMismatch,
)
from ._metrics import L1, L2, LCG, Fisher, Movement, Random, Taylor, TaylorProxy, importance
from ._packing import pack, unpack
from ._plan import Plan, PlanRow, plan
from ._prune import apply_mask, make_mask, mask_from_zeros, prune
from ._report import Count, LeafReport, SparsityReport, report
from ._score_stats import ScoreStats, TopScore, stats, top_scores
from ._sensitivity import Sensitivity, sensitivity
from ._specs.n_of_m import NM
from ._specs.units import Block, Channels, Columns, Rows
from ._specs.unstructured import Unstructured
from ._where import Weights, any_leaf, is_weight
from .calibration._calibrate import calibrate
from .calibration._prune_with_data import prune_with_data
from .calibration._refit import Refit
from .calibration._sparsegpt import SparseGPT
from .calibration._stats import Stats
from .calibration._wanda import Wanda
from .shrinking._coupled import Coupled
from .shrinking._cut import Cut
from .shrinking._dependencies import Dependencies
from .shrinking._groups import Group
from .shrinking._read_dependencies import dependencies
from .shrinking._residual_blocks import ResidualBlock
from .tracing._trace import trace
from .tracing._uses import Uses
from .training._keep_mask import keep_mask
from .training._lottery import Ticket, lottery_tickets
from .training._rules import (
    Averaged,
    Rule,
    acdc,
    at_random,
    averaged,
    by_gradient,
    rigl,
    sparse_evolution,
)
from .training._schedules import Schedule, constant, gradual, one_shot, periodic
from .training._sparsify import sparsify
from .training._state import KeepMaskState, SparsifyState, current, sparsities
from .training._straight_through import straight_through

__version__: str

__all__ = [
    "L1",
    "L2",
    "LCG",
    "NM",
    "OWL",
    "Averaged",
    "BelowMinNonzero",
    "Block",
    "Channels",
    "Columns",
    "Count",
    "Coupled",
    "Cut",
    "Dependencies",
    "EmptyTensor",
    "Fisher",
    "Group",
    "InvalidPattern",
    "InvalidSparsity",
    "KeepMaskState",
    "LeafReport",
    "Movement",
    "NoMatch",
    "NotTwoDimensional",
    "Plan",
    "PlanRow",
    "PruningError",
    "Random",
    "Refit",
    "ResidualBlock",
    "Rows",
    "Rule",
    "Schedule",
    "ScoreStats",
    "Sensitivity",
    "SparseGPT",
    "SparsifyState",
    "SparsityReport",
    "Stats",
    "StructureMismatch",
    "Taylor",
    "TaylorProxy",
    "Ticket",
    "TopScore",
    "Unstructured",
    "Uses",
    "Wanda",
    "Weights",
    "acdc",
    "allocate",
    "any_leaf",
    "apply_mask",
    "at_random",
    "averaged",
    "by_gradient",
    "calibrate",
    "compat",
    "constant",
    "current",
    "dependencies",
    "erk",
    "extend",
    "gradual",
    "importance",
    "is_weight",
    "keep_mask",
    "lottery_tickets",
    "make_mask",
    "mask_from_zeros",
    "one_shot",
    "pack",
    "periodic",
    "plan",
    "plot",
    "prune",
    "prune_with_data",
    "report",
    "rigl",
    "sensitivity",
    "sparse_evolution",
    "sparsify",
    "sparsities",
    "stats",
    "straight_through",
    "top_scores",
    "trace",
    "uniform",
    "unpack",
]
