"""The pattern that the zeros of a leaf form: found whatever made them, and only if there is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxprune as jp

# Few shapes: each is compiled once. Rank 2 is large enough that chance makes no pattern.
VECTOR, MATRIX, STACK, CONV = (256,), (64, 128), (4, 32, 64), (3, 3, 32, 64)


def weights(shape, seed=0):
    return jax.device_put(np.float32(np.random.default_rng(seed).normal(size=shape)))


def pattern(array):
    (row,) = jp.report(array).rows
    return row.pattern


def after(spec, shape, **kwargs):
    return pattern(jp.prune(weights(shape), spec, **kwargs)[0])


# --- after every spec ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        (jp.Rows(0.5), MATRIX, "rows"),
        (jp.Rows(0.02), MATRIX, "rows"),
        (jp.Rows(0.98), MATRIX, "rows"),
        (jp.Columns(0.5), MATRIX, "columns"),
        (jp.Columns(0.01), MATRIX, "columns"),
        (jp.Channels(0.5, axis=0), MATRIX, "rows"),
        (jp.Channels(0.5), MATRIX, "columns"),
        (jp.Channels(0.5, axis=0), STACK, "channels of axis 0"),
        (jp.Channels(0.5, axis=-2), STACK, "channels of axis 1"),
        (jp.Channels(0.5, axis=-1), STACK, "channels of axis 2"),
        (jp.Channels(0.4, axis=1), CONV, "channels of axis 1"),
        (jp.Channels(0.5, axis=-2), CONV, "channels of axis 2"),
        (jp.Channels(0.5), CONV, "channels of axis 3"),
        (jp.NM(2, 4), MATRIX, "2:4 along axis -1"),
        (jp.NM(2, 4, axis=-2), MATRIX, "2:4 along axis -2"),
        (jp.NM(2, 4, axis=None), MATRIX, "2:4 along axis -1"),
        (jp.NM(1, 2), MATRIX, "1:2 along axis -1"),
        (jp.NM(1, 4), MATRIX, "1:4 along axis -1"),
        (jp.NM(3, 4), MATRIX, "3:4 along axis -1"),
        (jp.NM(4, 8), MATRIX, "4:8 along axis -1"),
        (jp.NM(7, 8, axis=0), MATRIX, "7:8 along axis -2"),
        (jp.NM(8, 16), MATRIX, "8:16 along axis -1"),
        (jp.NM(1, 16), MATRIX, "1:16 along axis -1"),
        (jp.NM(16, 32), MATRIX, "16:32 along axis -1"),
        (jp.NM(1, 32, axis=0), MATRIX, "1:32 along axis -2"),
        (jp.NM(2, 4), VECTOR, "2:4 along axis -1"),
        (jp.NM(2, 4, axis=None), STACK, "2:4 along axis -1"),
        (jp.NM(2, 4, axis=-2), STACK, "2:4 along axis -2"),
        (jp.NM(2, 4), CONV, "2:4 along axis -1"),
        (jp.NM(4, 8, axis=-2), CONV, "4:8 along axis -2"),
        (jp.Block(0.5, (2, 2)), MATRIX, "blocks of 2x2"),
        (jp.Block(0.5, (4, 4)), MATRIX, "blocks of 4x4"),
        (jp.Block(0.9, (8, 8)), MATRIX, "blocks of 8x8"),
        (jp.Block(0.5, (16, 16)), MATRIX, "blocks of 16x16"),
        (jp.Block(0.5, (4, 4)), STACK, "blocks of 4x4"),
        (jp.Block(0.5, (8, 8)), CONV, "blocks of 8x8"),
        (jp.Unstructured(0.5), VECTOR, "unstructured"),
        (jp.Unstructured(0.5), MATRIX, "unstructured"),
        (jp.Unstructured(0.5), STACK, "unstructured"),
        (jp.Unstructured(0.9), CONV, "unstructured"),
        (jp.Unstructured(0.5, per="output"), MATRIX, "unstructured"),
        (jp.Unstructured(0.5, per="input"), MATRIX, "unstructured"),
        (jp.NM(4, 4), MATRIX, "dense"),
        (jp.Unstructured(0.0), MATRIX, "dense"),
        (jp.Rows(0.01), MATRIX, "dense"),  # of 64 rows not one
    ],
    ids=str,
)
def test_after(spec, shape, expected):
    assert after(spec, shape) == expected


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_after_in_half_precision(dtype):
    half = weights(MATRIX).astype(dtype)
    assert pattern(jp.prune(half, jp.NM(2, 4, axis=-2))[0]) == "2:4 along axis -2"
    assert pattern(jp.prune(half, jp.Rows(0.5))[0]) == "rows"


@pytest.mark.parametrize("metric", [jp.L2(), jp.LCG(7)], ids=repr)
def test_after_another_metric(metric):
    assert after(jp.NM(2, 4), MATRIX, metric=metric) == "2:4 along axis -1"
    assert after(jp.Block(0.5, (4, 4)), MATRIX, metric=metric) == "blocks of 4x4"


def test_after_two_specs():
    rows = jp.prune(weights(MATRIX), jp.Rows(0.25))[0]
    assert pattern(jp.prune(rows, jp.Columns(0.25))[0]) == "rows and columns"


@pytest.mark.parametrize("axis", [0, -3], ids=str)
def test_after_n_of_m_along_an_axis_that_is_not_one_of_the_last_two(axis):
    assert after(jp.NM(2, 4, axis=axis), STACK) == "2:4 along axis -3"


@pytest.mark.parametrize("shape", [(2, 8), (16, 4), (1, 4), (4, 1), (1, 16), (32, 32)], ids=str)
def test_after_blocks_of_any_shape(shape):
    assert after(jp.Block(0.5, shape), MATRIX) == f"blocks of {shape[0]}x{shape[1]}"
    assert after(jp.Block(0.5, shape), STACK) == f"blocks of {shape[0]}x{shape[1]}"


# --- whatever made them -------------------------------------------------------------------------


def test_dense_and_all_zero():
    assert pattern(weights(MATRIX)) == "dense"
    assert pattern(jnp.zeros(MATRIX)) == "all zero"
    assert pattern(-jnp.zeros(VECTOR)) == "all zero"
    assert pattern(jnp.float32(0)) == "all zero"
    assert pattern(jnp.float32(1)) == "dense"


def test_a_negative_zero_is_a_zero_and_a_subnormal_number_is_none():
    rows = np.asarray(weights(MATRIX)).copy()
    rows[5], rows[9] = -0.0, 0.0
    assert pattern(jax.device_put(rows)) == "rows"
    rows[9, 3] = 1e-45
    assert pattern(jax.device_put(rows)) == "unstructured"


def test_a_nan_is_no_zero():
    rows = np.asarray(weights(MATRIX)).copy()
    rows[5] = 0
    assert pattern(jax.device_put(rows)) == "rows"
    rows[5, 3] = np.nan
    assert pattern(jax.device_put(rows)) == "unstructured"


def test_a_pattern_accounts_for_every_zero():
    for spec, kind in ((jp.Rows(0.5), "rows"), (jp.Block(0.5, (8, 8)), "blocks of 8x8")):
        pruned = np.asarray(jp.prune(weights(MATRIX), spec)[0]).copy()
        assert pattern(jax.device_put(pruned)) == kind
        alive = np.argwhere(pruned)[0]
        pruned[tuple(alive)] = 0
        assert pattern(jax.device_put(pruned)) != kind


def test_a_group_with_one_too_many_is_not_n_of_m():
    pruned = np.asarray(jp.prune(weights(MATRIX), jp.NM(2, 4))[0]).copy()
    dead = np.argwhere(pruned == 0)[0]
    pruned[tuple(dead)] = 1
    assert pattern(jax.device_put(pruned)) != "2:4 along axis -1"


def test_a_few_more_zeros_leave_n_of_m_what_it_is():
    """2:4 hardware runs it all the same."""
    pruned = np.asarray(jp.prune(weights(MATRIX), jp.NM(2, 4))[0]).copy()
    for place in np.argwhere(pruned)[::100]:
        pruned[tuple(place)] = 0
    assert pattern(jax.device_put(pruned)) == "2:4 along axis -1"


def test_a_mask_decides_nothing_about_the_pattern():
    pruned, _ = jp.prune(weights(MATRIX), jp.NM(2, 4))
    (row,) = jp.report(pruned, jnp.ones(MATRIX, bool)).rows
    assert row.pattern == "2:4 along axis -1"


def test_the_pattern_of_a_leaf_that_is_left_dense_is_told_too():
    params = {"kernel": weights(MATRIX), "bias": jnp.zeros(3), "step": jnp.arange(3)}
    found = {row.path: row.pattern for row in jp.report(params).rows}
    assert found == {"kernel": "dense", "bias": "all zero", "step": ""}


# --- not where there is none --------------------------------------------------------------------


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), sparsity=st.floats(0.01, 0.99))
def test_no_pattern_in_random_zeros_of_a_large_leaf(seed, sparsity):
    rng = np.random.default_rng(seed)
    large = np.where(rng.random((256, 512)) < sparsity, 0, 1).astype(np.float32)
    assert pattern(jax.device_put(large)) == "unstructured"


@pytest.mark.parametrize(
    "sparsity", [0.001, 0.05, 0.1, 0.125, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.999]
)
def test_no_pattern_after_unstructured(sparsity):
    large = jp.prune(weights((256, 512)), sparsity)[0]
    assert pattern(large) == "unstructured"


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), sparsity=st.floats(0.02, 0.9))
def test_no_pattern_in_random_zeros_of_a_leaf_that_is_not_large(seed, sparsity):
    """Where 31:32 might be found by chance."""
    rng = np.random.default_rng(seed)
    alive = np.where(rng.random((32, 48)) < sparsity, 0, 1).astype(np.float32)
    assert pattern(jax.device_put(alive)) == "unstructured"


def test_a_few_groups_make_a_pattern_only_if_they_are_full():
    groups = np.asarray(jp.prune(weights((4, 16)), jp.NM(2, 4))[0]).copy()
    assert pattern(jax.device_put(groups)) == "2:4 along axis -1"
    assert pattern(jax.device_put(groups[0])) == "unstructured"
    groups[tuple(np.argwhere(groups)[0])] = 0
    assert pattern(jax.device_put(groups)) == "unstructured"


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), sparsity=st.floats(0.02, 0.9))
def test_no_pattern_in_random_zeros_of_a_large_stack(seed, sparsity):
    rng = np.random.default_rng(seed)
    large = np.where(rng.random((8, 64, 256)) < sparsity, 0, 1).astype(np.float32)
    assert pattern(jax.device_put(large)) == "unstructured"
