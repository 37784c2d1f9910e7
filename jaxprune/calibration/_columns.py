"""SparseGPT's columns, gone through from left to right: the compiled part."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._kernels import device
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.sharding import on_any_mesh
from jaxprune._specs.n_of_m import NM
from jaxprune._specs.unstructured import Unstructured
from jaxprune.calibration._hessian import Factor

_TILE = 16  # columns that are finished one by one; what they change beyond is one product
_EXACT = lax.Precision.HIGHEST
_LARGEST_FLOAT = 2.0**31 - 2.0**7  # the largest float32 that an int32 holds


class Columns(NamedTuple):
    """How columns are gone through.

    Attributes:
        width: Of a block.
        tile: Columns of a block that are finished one by one; for N:M, a group.
        blocks: How many blocks there are; the last may be padded.
    """

    width: int
    tile: int
    blocks: int


def columns_of(spec: Any, inputs: int, block: int) -> Columns:
    """How the columns of a matrix are gone through.

    Args:
        spec: As of `SparseGPT.solve`.
        inputs: How many columns the matrix has.
        block: As of `SparseGPT`.
    """
    if isinstance(spec, NM):
        width = min(-(-block // spec.m) * spec.m, inputs)
        return Columns(width, spec.m, -(-inputs // width))
    width = min(block, inputs)
    tile = max(tile for tile in range(1, _TILE + 1) if width % tile == 0)
    return Columns(width, tile, -(-inputs // width))


@functools.partial(jax.jit, static_argnames=("columns", "exact"))
@functools.partial(on_any_mesh, like=lambda weights, *_: (weights, weights, weights))
def solved_columns(
    weights: jax.Array, factor: Factor, spec: Any, *, columns: Columns, exact: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The new weights, which are kept, and whether all of them are finite.

    Within a block, a removed weight w of column j changes those to the right by -w / U_jj * U_j.
    From block to block all changes so far are made up for at once: with C_a the old weights of a
    finished block less the new, those of block b are the old ones plus U_bb^T sum_a R_ab^T C_a.

    Args:
        weights: [batch, out, in], of any floating dtype.
        factor: The factor of the layer's Gram matrix; weights of dead inputs become zero.
        spec: As of `SparseGPT.solve`.
        columns: How the columns are gone through.
        exact: As of `SparseGPT`.
    """
    inputs = weights.shape[2]
    width, padded = columns.width, columns.width * columns.blocks
    old = jnp.where(factor.dead[:, None, :], 0, weights.astype(jnp.float32))
    old = jnp.pad(old, ((0, 0), (0, 0), (0, padded - inputs)))
    budgets = (
        _budgets(spec, weights.shape, columns, exact) if isinstance(spec, Unstructured) else None
    )

    def step(b: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        new, kept = state
        root = lax.dynamic_index_in_dim(factor.inverses, b, 1, keepdims=False)
        before = lax.dynamic_slice_in_dim(old, b * width, width, 2)

        def add(a: jax.Array, lost: jax.Array) -> jax.Array:
            at = (a * width, b * width)
            between = lax.dynamic_slice(factor.upper, (0, *at), (len(old), width, width))
            was, now = (lax.dynamic_slice_in_dim(x, at[0], width, 2) for x in (old, new))
            return lost + jnp.matmul(was - now, between, precision=_EXACT)

        lost = lax.fori_loop(0, b, add, jnp.zeros_like(before))
        here = before + jnp.matmul(lost, root, precision=_EXACT)
        here = here.swapaxes(1, 2)  # a column of all outputs is contiguous then
        stay = jnp.ones_like(here, bool)
        if isinstance(spec, Unstructured):
            assert budgets is not None
            is_real = (b * width + jnp.arange(width) < inputs)[None, :, None]
            scores = jnp.where(is_real, _scores(here, root), jnp.inf)
            stay = _chosen(scores, budgets[b], spec.per == "output", exact)
        new_here, kept_here = _block(here, root, stay, columns.tile, spec)
        return (
            lax.dynamic_update_slice_in_dim(new, new_here.swapaxes(1, 2), b * width, 2),
            lax.dynamic_update_slice_in_dim(kept, kept_here.swapaxes(1, 2), b * width, 2),
        )

    start = (jnp.zeros_like(old), jnp.ones_like(old, bool))
    new, kept = lax.fori_loop(0, columns.blocks, step, start)
    new, kept = (x[:, :, :inputs] for x in (new, kept))
    solved = new.astype(weights.dtype)
    return solved, kept, jnp.isfinite(new).all()


def _block(
    weights: jax.Array, root: jax.Array, stay: jax.Array, tile: int, spec: Any
) -> tuple[jax.Array, jax.Array]:
    """The new weights of one block of columns, and which are kept, [batch, in, out]."""

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
    _, new, kept = lax.fori_loop(0, weights.shape[1] // tile, step, start)
    return new, kept


def _tile(weights: jax.Array, root: jax.Array, keep: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The errors and the new weights of columns that are finished one by one."""

    def step(j: jax.Array, errors: jax.Array) -> jax.Array:
        # The errors of column j and of those to its right are still 0.
        above = lax.dynamic_index_in_dim(root, j, 2)
        column = lax.dynamic_index_in_dim(weights, j, 1) - _product(above, errors)
        lost = jnp.where(lax.dynamic_index_in_dim(keep, j, 1), 0, column)
        error = lost / lax.dynamic_index_in_dim(above, j, 1)
        return lax.dynamic_update_slice_in_dim(errors, error, j, 1)

    errors = lax.fori_loop(0, keep.shape[1], step, jnp.zeros_like(weights))
    return errors, jnp.where(keep, weights - _product(root, errors), 0)


def _product(above: jax.Array, errors: jax.Array) -> jax.Array:
    """The transpose of [batch, all, columns] times [batch, all, out]."""
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
    spec: Unstructured, shape: tuple[int, ...], columns: Columns, exact: bool
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
