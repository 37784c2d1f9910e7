"""SparseGPT: weights are removed column by column, and those to the right make up for it.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jaxprune._errors import InvalidPattern, Problem, PruningError, raise_problems
from jaxprune._kernels.counting import LARGEST
from jaxprune._specs.checks import check_count, check_sparsity
from jaxprune._specs.n_of_m import NM
from jaxprune._specs.unstructured import Unstructured
from jaxprune._text import shown
from jaxprune._tree import Leaf, as_array
from jaxprune._where import leave_out
from jaxprune.calibration._columns import columns_of, solved_columns
from jaxprune.calibration._hessian import check_damping, factor, not_solvable, unusable


@dataclass(frozen=True, slots=True)
class SparseGPT:
    """Chooses which weights go, and solves for those that stay, from what the layer reads.

    With H = 2/p X X^T of the p inputs that the layer read, damped, and U the upper Cholesky factor
    of H^-1, columns (inputs) are visited from left to right, in blocks. A weight w of column j
    scores (w / U_jj)^2. The lowest of each block, over all its rows, are removed; each removed
    weight changes those of its row to the right by -w / U_jj * U_j, which keeps the layer's output
    as it was as far as they can. Frantar and Alistarh, 2023.

    Specs that it can mean are `Unstructured(s)`, `Unstructured(s, per="output")` and
    `NM(n, m, axis="input")`. Each block loses its share of the budget, so that the leaf loses
    exactly as many weights as the spec says.

    Attributes:
        damping: The fraction of the mean diagonal of H that is added to its diagonal.
        block: How many columns are chosen from together; for N:M, rounded up to whole groups.
        exact: Whether a leaf loses exactly `floor(s * n)` weights. If not, each block loses what
            scores no more than its `floor(s * n)`-th lowest counted from 0: one weight more, and
            all that tie with it, whatever `min_nonzero` says. That is what the authors' code does.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxprune as jp
        >>> x = jax.random.normal(jax.random.key(0), (64, 8))
        >>> weights = jax.random.normal(jax.random.key(1), (1, 4, 8))
        >>> spec = jp.Unstructured(0.5)
        >>> solved, kept = jp.SparseGPT().solve(weights, (x.T @ x)[None], 64, spec)
        >>> int(kept.sum())
        16
    """

    damping: float = 0.01
    block: int = 128
    exact: bool = True

    def __post_init__(self) -> None:
        check_damping(self.damping)
        check_count("block", self.block, PruningError)
        if self.block < 1:
            raise PruningError(f"block is 1 or more columns, got {self.block}: 128 is usual.")

    def solve(
        self, weights: jax.Array, gram: jax.Array, rows: Any, spec: Any, *, name: str = "the leaf"
    ) -> tuple[jax.Array, jax.Array]:
        """Prunes independent matrices, which share one budget.

        Compiled once for each shape: the sparsity, n and the damping are data.

        Args:
            weights: [batch, out, in], of any floating dtype; it is solved in float32.
            gram: float32 [batch, in, in], sum_p x_p x_p^T.
            rows: How many positions p that is, a number or one for each matrix, [batch].
            spec: `Unstructured` with `per="leaf"` or `per="output"`, or `NM` with `axis="input"`.
            name: What messages call the leaf.

        Returns:
            The new weights in the dtype of the old, 0 where they were removed, and which are kept,
            bool.

        Raises:
            InvalidPattern: The spec is none of these, or its groups do not divide the inputs.
            StructureMismatch: The shapes do not fit each other.
            PruningError: The sums of products cannot be factorised with this damping.
        """
        weights, gram = as_array(weights), as_array(gram)
        problem = refused(spec, exact=self.exact)
        raise_problems(
            [
                Problem(InvalidPattern, f"{name}: {problem}") if problem else None,
                unusable(weights, gram, rows, name),
            ]
        )
        raise_problems([_unfit(spec, weights.shape, name)])
        columns = columns_of(spec, weights.shape[2], self.block)
        gram_factor = factor(gram, rows, self.damping, columns.width)
        solved, kept, finite = solved_columns(
            weights, gram_factor, spec, columns=columns, exact=self.exact
        )
        if not bool(gram_factor.exists & finite):
            raise not_solvable(weights, gram, rows, self.damping, name)
        return solved, kept


def refused(spec: Any, *, exact: bool = True) -> str | None:
    """Why SparseGPT cannot mean a spec, by the spec alone; None if it can."""
    can = (
        'SparseGPT prunes by jp.Unstructured(s), jp.Unstructured(s, per="output") and '
        'jp.NM(n, m, axis="input")'
    )
    if isinstance(spec, NM):
        if spec.axis is None:
            return f"{can}, and {shown(spec)} has groups that run from one row into the next."
        return None
    if not isinstance(spec, Unstructured):
        return f"{can}, got {shown(spec)}: jp.Wanda scores weights for any spec."
    check_sparsity(spec.sparsity)
    if spec.per == "global":
        return (
            f"{can}, and each leaf is solved by itself, so none can share the budget of "
            f"{shown(spec)}: share it out first, with jp.allocate."
        )
    if not exact and spec.per != "leaf":
        return (
            "exact=False counts as the authors' code does, which knows no budget for each output: "
            'leave it out, or write per="leaf".'
        )
    return None


def in_matrix_words(
    spec: Any,
    leaf: Leaf,
    *,
    inputs: Sequence[int],
    outputs: Sequence[int],
    batch: Sequence[int] = (),
) -> Any:
    """A spec of a leaf's axes as one of its matrices, or the problem that refuses it.

    Args:
        spec: A spec that is not `refused`, its axes integers or words.
        leaf: The leaf, an array or the description of one.
        inputs: The axes that its use sums over, in the order of the operand.
        outputs: Those that it leaves.
        batch: Those along which the matrices are independent.
    """
    ndim, shape = len(leaf.value.shape), leaf.value.shape
    axes: Any = spec.axis if isinstance(spec, NM) else spec.per
    if isinstance(axes, str):
        return spec
    named = tuple(a % ndim for a in ((axes,) if isinstance(axes, int) else axes))
    if isinstance(spec, NM):
        along = tuple(inputs)
        # Groups along the last of several input axes are groups of the inputs in their order.
        if named == along or (along and named == along[-1:] and shape[along[-1]] % spec.m == 0):
            return NM(spec.n, spec.m, axis="input")
        return Problem(
            InvalidPattern,
            f"{leaf.name} has groups of {spec.m} along axis {axes}, and SparseGPT needs them along "
            f'its inputs, axis {_axes(along)}: write axis="input", or {leave_out(leaf.path)}.',
        )
    rows = {*outputs, *batch}
    if {*named, *(a for a in rows if shape[a] == 1)} == rows:
        return Unstructured(spec.sparsity, "output", spec.min_nonzero)
    return Problem(
        InvalidPattern,
        f"{leaf.name} has a budget for each index along axis {axes}, and SparseGPT needs one for "
        f'each output, axis {_axes(sorted(rows))}, or for the leaf: write per="output" or '
        f'per="leaf", or {leave_out(leaf.path)}.',
    )


def _axes(axes: Sequence[int]) -> str:
    return str(axes[0]) if len(axes) == 1 else str(tuple(axes))


def _unfit(spec: Any, shape: tuple[int, ...], name: str) -> Problem | None:
    """What is wrong with a spec for matrices of a shape."""
    batch, outputs, inputs = shape
    if isinstance(spec, NM):
        if inputs % spec.m == 0:
            return None
        return Problem(
            InvalidPattern,
            f"{name} has {inputs} inputs, not divisible by m={spec.m}: leave it out with where=.",
        )
    size = inputs if spec.per == "output" else batch * outputs * inputs
    if size > LARGEST:
        return Problem(
            InvalidPattern,
            f"{name} has {size} weights, more than the {LARGEST} that one budget may have: write "
            'per="output".',
        )
    if spec.min_nonzero <= size:
        return None
    return Problem(
        InvalidPattern,
        f"{name} should keep min_nonzero={spec.min_nonzero} weights of only {size}: lower it.",
    )
