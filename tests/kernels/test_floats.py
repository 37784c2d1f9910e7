"""Floats read as integers: their order, their zeros, their squares and scales, nothing flushed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune._kernels import floats
from jaxprune._kernels.floats import nonzero
from tests import oracle

# Compiled whole, as they run inside of kernels: XLA may fuse and contract what it likes.
exponent, keys, square = map(jax.jit, (floats.exponent, floats.keys, floats.square))
scaled_down, scaled_up = (jax.jit(jax.vmap(f)) for f in (floats.scaled_down, floats.scaled_up))
from_keys = jax.jit(floats.from_keys, static_argnums=1)

F32, BF16, F16, F64 = (np.dtype(t) for t in (np.float32, jnp.bfloat16, np.float16, np.float64))
HALVES = [BF16, F16]

kinds, seeds = st.sampled_from(list(oracle.KINDS)), st.integers(0, 2**32 - 1)
thorough = settings(max_examples=100)


def every_half(dtype):
    return np.arange(2**16, dtype=np.uint16).view(dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_keys_order_every_half_precision_float_as_its_value(dtype):
    values = every_half(dtype)
    found = np.asarray(keys(jax.device_put(values)))
    assert found.dtype == np.int16
    _, dense = np.unique(found, return_inverse=True)
    np.testing.assert_array_equal(dense, oracle.ranks(values))


def check_keys(bits, dtype):
    values = np.concatenate(
        [np.array(bits, f"uint{8 * dtype.itemsize}").view(dtype), special(dtype)]
    )
    found = np.asarray(keys(jax.device_put(values)))
    assert found.dtype == f"int{8 * dtype.itemsize}"
    _, dense = np.unique(found, return_inverse=True)
    np.testing.assert_array_equal(dense, oracle.ranks(values))


def special(dtype):
    info = np.finfo(dtype)
    magnitudes = [0.0, info.smallest_subnormal, info.tiny, 1.0, info.max, np.inf, np.nan]
    magnitudes = np.array(magnitudes, dtype)
    below = np.nextafter(magnitudes[1:5], np.array(0, dtype))
    return np.concatenate([magnitudes, -magnitudes, below, -below])


@thorough
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=50, max_size=50))
def test_keys_order_float32_bit_patterns_as_their_values(bits):
    check_keys(bits, F32)


@given(bits=st.lists(st.integers(0, 2**64 - 1), min_size=50, max_size=50))
def test_keys_order_float64_bit_patterns_as_their_values(bits, x64):
    with x64(True):
        check_keys(bits, F64)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_nonzero_sees_every_half_precision_subnormal(dtype):
    values = every_half(dtype)
    expected = oracle.exact(values) != 0
    np.testing.assert_array_equal(nonzero(jax.device_put(values)), expected)


@given(kind=kinds, seed=seeds)
def test_nonzero_sees_float32_subnormals_and_nan_but_no_negative_zero(kind, seed):
    values = oracle.hard_scores(kind, seed, (30,), F32)
    expected = oracle.exact(values) != 0
    np.testing.assert_array_equal(nonzero(jax.device_put(values)), expected)
    np.testing.assert_array_equal(nonzero(values), expected)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_from_keys_gives_every_half_precision_float_back(dtype):
    values = every_half(dtype)
    found = np.asarray(from_keys(keys(jax.device_put(values)), dtype))
    np.testing.assert_array_equal(oracle.exact(found), oracle.exact(values))
    assert not np.signbit(found[oracle.exact(values) == 0]).any()


def check_scaling(values):
    """Down to a magnitude below 2, and up again, against NumPy, which flushes nothing."""
    array = jax.device_put(values)
    # NumPy's frexp gives fractions below 1.
    powers = np.where(values == 0, np.asarray(exponent(array)), np.frexp(values)[1] - 1)
    np.testing.assert_array_equal(exponent(array), powers)
    fractions = np.ldexp(values, -powers).astype(values.dtype)
    assert_same_bits(scaled_down(array, powers), fractions)
    assert_same_bits(scaled_up(jax.device_put(fractions), powers), values)


def assert_same_bits(found, expected):
    kind = f"uint{8 * expected.dtype.itemsize}"
    np.testing.assert_array_equal(np.asarray(found).view(kind), expected.view(kind))


@thorough
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=20, max_size=20
    )
)
def test_scaling_down_and_up_again(values):
    check_scaling(np.array([v + 0.0 for v in values], F32))


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=20, max_size=20))
def test_scaling_down_and_up_again_in_float64(values, x64):
    with x64(True):
        check_scaling(np.array([v + 0.0 for v in values]))


@thorough
@given(
    fraction=st.floats(-2, 2, width=32, exclude_min=True, exclude_max=True, allow_subnormal=False),
    power=st.integers(-150, 20),
)
def test_scaling_up_rounds_to_subnormals_half_to_even(fraction, power):
    expected = (np.float64(fraction) * 2.0**power).astype(F32)
    if abs(fraction) >= 2.0**-100:  # smaller ones may be flushed beside what they were scaled by
        found = np.asarray(scaled_up(np.float32([fraction]), np.int32([power])))[0]
        assert found == expected


@thorough
@given(values=st.lists(st.floats(width=32), min_size=20, max_size=20), power=st.integers(-76, -62))
def test_a_square_is_correctly_rounded(values, power):
    with np.errstate(all="ignore"):
        values = np.array(values, F32)
        values = np.concatenate([values, np.ldexp(np.frexp(values)[0], power)])
        np.testing.assert_array_equal(np.asarray(square(jax.device_put(values))), values * values)


@thorough
@given(values=st.lists(st.floats(), min_size=20, max_size=20), power=st.integers(-550, -480))
def test_a_square_is_correctly_rounded_in_float64(values, power, x64):
    with np.errstate(all="ignore"):
        values = np.concatenate([values, np.ldexp(np.frexp(values)[0], power)])
        expected = values * values
    with x64(True):
        np.testing.assert_array_equal(np.asarray(square(jax.device_put(values))), expected)


def test_signalling_nans_of_numpy_are_no_zeros():
    weights = np.array([0x7F81, 0xFF81, 0x0000, 0x8000, 0x0001], np.uint16).view(jnp.bfloat16)
    assert np.asarray(nonzero(weights)).tolist() == [True, True, False, False, True]
