"""Checkpoints as files: pruned, reported and compared one tensor at a time, whatever their size."""

from jaxprune.io._bitmask import Packed
from jaxprune.io._checkpoint import Checkpoint, CheckpointError, Tensor
from jaxprune.io._compare import Comparison, Overlap, compare_checkpoints
from jaxprune.io._formats import open_checkpoint
from jaxprune.io._outputs import making, rewriting
from jaxprune.io._pack import pack_checkpoint
from jaxprune.io._prune import Pruned, plan_checkpoint, prune_checkpoint
from jaxprune.io._report import histogram, report_checkpoint, report_rows
from jaxprune.io._unpack import unpack_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Comparison",
    "Overlap",
    "Packed",
    "Pruned",
    "Tensor",
    "compare_checkpoints",
    "histogram",
    "making",
    "open_checkpoint",
    "pack_checkpoint",
    "plan_checkpoint",
    "prune_checkpoint",
    "report_checkpoint",
    "report_rows",
    "rewriting",
    "unpack_checkpoint",
]
