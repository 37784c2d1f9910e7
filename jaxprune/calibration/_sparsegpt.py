"""SparseGPT: weights are removed column by column, and those to the right make up for it.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
2023.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._errors import InvalidPattern, Problem, PruningError, raise_problems
from jaxprune._kernels import device
from jaxprune._kernels.counting import LARGEST
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.sharding import on_any_mesh
from jaxprune._specs.checks import check_count, check_sparsity
from jaxprune._specs.n_of_m import NM
from jaxprune._specs.unstructured import Unstructured
from jaxprune._text import shown
from jaxprune._tree import Leaf
from jaxprune._where import leave_out
from jaxprune.calibration._hessian import (
    check_damping,
    damped,
    is_root,
    not_solvable,
    root_of_inverse,
    unusable,
)

_TILE = 16  # columns that are finished one by one; what they change beyond is one product
_EXACT = lax.Precision.HIGHEST
_LARGEST_FLOAT = 2.0**31 - 2.0**7  # the largest float32 that an int32 holds


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
        >>> from jaxprune.calibration._sparsegpt import SparseGPT
        >>> x = jax.random.normal(jax.random.key(0), (64, 8))
        >>> weights = jax.random.normal(jax.random.key(1), (1, 4, 8))
        >>> spec = jp.Unstructured(0.5)
        >>> solved, kept = SparseGPT().solve(weights, (x.T @ x)[None], 64, spec)
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
        problem = refused(spec, exact=self.exact)
        raise_problems(
            [
                Problem(InvalidPattern, f"{name}: {problem}") if problem else None,
                unusable(weights, gram, rows, name),
            ]
        )
        raise_problems([_unfit(spec, weights.shape, name)])
        solved, kept, done = _solved(
            weights, gram, rows, self.damping, spec, block=self.block, exact=self.exact
        )
        if not bool(done):
            raise not_solvable(gram, rows, self.damping, name)
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


class _Columns(NamedTuple):
    """How columns are gone through.

    Attributes:
        width: Of a block.
        tile: Columns of a block that are finished one by one; for N:M, a group.
        blocks: How many blocks there are; the last may be padded.
    """

    width: int
    tile: int
    blocks: int


def _columns(spec: Any, inputs: int, block: int) -> _Columns:
    if isinstance(spec, NM):
        width = min(-(-block // spec.m) * spec.m, inputs)
        return _Columns(width, spec.m, -(-inputs // width))
    width = min(block, inputs)
    tile = max(tile for tile in range(1, _TILE + 1) if width % tile == 0)
    return _Columns(width, tile, -(-inputs // width))


@functools.partial(jax.jit, static_argnames=("block", "exact"))
@functools.partial(on_any_mesh, like=lambda weights, *_: (weights, weights, weights))
def _solved(
    weights: jax.Array,
    gram: jax.Array,
    rows: Any,
    damping: Any,
    spec: Any,
    *,
    block: int,
    exact: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The new weights, which are kept, and whether H could be factorised.

    The errors of removed weights, w / U_jj, are gathered in an array [batch, in, out]; the weights
    of a column j are the old ones less U_j^T times all errors so far. Only what is needed next is
    computed: a block, of it a tile, of it a column.
    """
    inputs = weights.shape[2]
    columns = _columns(spec, inputs, block)
    width, padded = columns.width, columns.width * columns.blocks
    hessian, dead = damped(gram, rows, damping)
    root = root_of_inverse(hessian)
    # Columns lie in rows: a column of all outputs is contiguous then.
    old = jnp.where(dead[:, :, None], 0, weights.astype(jnp.float32).swapaxes(1, 2))
    old = jnp.pad(old, ((0, 0), (0, padded - inputs), (0, 0)))
    pad = ((0, 0), (0, padded - inputs), (0, padded - inputs))
    beyond = (jnp.arange(padded) >= inputs).astype(jnp.float32)
    wide = jnp.pad(root, pad) + jnp.diag(beyond)
    budgets = (
        _budgets(spec, weights.shape, columns, exact) if isinstance(spec, Unstructured) else None
    )

    def step(b: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        errors, new, kept = state
        start = b * width
        above = lax.dynamic_slice_in_dim(wide, start, width, 2)
        here = lax.dynamic_slice_in_dim(old, start, width, 1) - _product(above, errors)
        part = lax.dynamic_slice_in_dim(above, start, width, 1)
        stay = jnp.ones(here.shape, bool)
        if isinstance(spec, Unstructured):
            assert budgets is not None
            is_real = (start + jnp.arange(width) < inputs)[None, :, None]
            scores = jnp.where(is_real, _scores(here, part), jnp.inf)
            stay = _chosen(scores, budgets[b], spec.per == "output", exact)
        found = _block(here, part, stay, columns.tile, spec)
        return tuple(
            lax.dynamic_update_slice_in_dim(whole, of_block, start, 1)
            for whole, of_block in zip((errors, new, kept), found, strict=True)
        )

    start = (jnp.zeros_like(old), jnp.zeros_like(old), jnp.ones(old.shape, bool))
    _, new, kept = lax.fori_loop(0, columns.blocks, step, start)
    new, kept = (x[:, :inputs].swapaxes(1, 2) for x in (new, kept))
    solved = new.astype(weights.dtype)
    return solved, kept, is_root(root) & jnp.isfinite(new).all()


def _block(
    weights: jax.Array, root: jax.Array, stay: jax.Array, tile: int, spec: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The errors of one block of columns, its new weights, and which are kept, [batch, in, out]."""

    def step(t: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        start = t * tile
        above = lax.dynamic_slice_in_dim(root, start, tile, 2)
        here = lax.dynamic_slice_in_dim(weights, start, tile, 1) - _product(above, state[0])
        part = lax.dynamic_slice_in_dim(above, start, tile, 1)
        if isinstance(spec, NM):
            n = jnp.asarray(spec.n, jnp.int32)
            keep = device.n_of_m(Ranked(_scores(here, part)), n, view=here.shape, axis=1)
        else:
            keep = lax.dynamic_slice_in_dim(stay, start, tile, 1)
        errors, changed = _tile(here, part, keep)
        return tuple(
            lax.dynamic_update_slice_in_dim(whole, of_tile, start, 1)
            for whole, of_tile in zip(state, (errors, changed, keep), strict=True)
        )

    start = (jnp.zeros_like(weights), jnp.zeros_like(weights), stay)
    errors, new, kept = lax.fori_loop(0, weights.shape[1] // tile, step, start)
    return errors, new, kept


def _tile(weights: jax.Array, root: jax.Array, keep: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The errors and the new weights of columns that are finished one by one."""

    def step(j: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        errors, now = state
        column = lax.dynamic_index_in_dim(now, j, 1)
        right = lax.dynamic_index_in_dim(root, j, 1, keepdims=False)[:, :, None]
        lost = jnp.where(lax.dynamic_index_in_dim(keep, j, 1), 0, column)
        error = lost / lax.dynamic_index_in_dim(right, j, 1)
        # To the left of column j the factor is 0: what is finished stays as it is.
        return lax.dynamic_update_slice_in_dim(errors, error, j, 1), now - right * error

    errors, new = lax.fori_loop(0, keep.shape[1], step, (jnp.zeros_like(weights), weights))
    return errors, jnp.where(keep, new, 0)


def _product(above: jax.Array, errors: jax.Array) -> jax.Array:
    """What errors [batch, all, out] change in columns, by the factor [batch, all, columns]."""
    return jnp.einsum("baj,bao->bjo", above, errors, precision=_EXACT)


def _scores(weights: jax.Array, root: jax.Array) -> jax.Array:
    """(w / U_jj)^2, [batch, in, out]."""
    return weights**2 / jnp.diagonal(root, axis1=1, axis2=2)[:, :, None] ** 2


def _chosen(scores: jax.Array, count: jax.Array, per_output: bool, exact: bool) -> jax.Array:
    """Which weights of a block stay, [batch, in, out], for counts [batch] that go."""
    axes = (1,) if per_output else (1, 2)
    shape = (1, 1, 1) if per_output else (-1, 1, 1)
    groups = [1 if axis in axes else n for axis, n in enumerate(scores.shape)]
    counts = jnp.broadcast_to(count.reshape(shape), groups)
    stay = device.group_survivors(Ranked(scores), counts, axes=axes)
    if exact:
        return stay
    return scores > jnp.max(jnp.where(stay, -jnp.inf, scores), axes, keepdims=True)


def _budgets(
    spec: Unstructured, shape: tuple[int, ...], columns: _Columns, exact: bool
) -> jax.Array:
    """How many weights go in each block, int32 [blocks, 1], or [blocks, batch] of a leaf's budget.

    A leaf that has lost its share of the weights up to each block has lost exactly its budget after
    the last.
    """
    batch, outputs, inputs = shape
    ends = np.minimum(np.arange(1, columns.blocks + 1) * columns.width, inputs)
    sizes = np.diff(ends, prepend=0)
    if spec.per == "leaf":
        sizes = np.tile(sizes * outputs, batch)
    if not exact:
        counts = jnp.minimum(_counts(spec.sparsity, sizes) + 1, jnp.asarray(sizes, jnp.int32))
        return counts.reshape(batch, columns.blocks).T
    ends = np.cumsum(sizes)
    wanted = jnp.minimum(_counts(spec.sparsity, ends), int(ends[-1]) - spec.min_nonzero)

    def share(gone: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        by_now, size, later = block
        # Beyond 2^24 a float32 product may be off by more than a block holds.
        least = jnp.maximum(wanted[-1] - gone - later, 0)
        here = jnp.clip(by_now - gone, least, size)
        return gone + here, here

    left = (jnp.asarray(part, jnp.int32) for part in (sizes, ends[-1] - ends))
    _, counts = lax.scan(share, jnp.int32(0), (wanted, *left))
    return counts.reshape(-1, columns.blocks).T


def _counts(sparsity: Any, sizes: np.ndarray[Any, Any]) -> jax.Array:
    """`floor(float32(sparsity) * float32(n))` of each size, as int32."""
    products = jnp.floor(jnp.asarray(sparsity, jnp.float32) * jnp.asarray(sizes, jnp.float32))
    return products.clip(0, _LARGEST_FLOAT).astype(jnp.int32)
