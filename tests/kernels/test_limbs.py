"""Counts beyond 32 bits."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune._kernels.counting import LARGEST
from jaxprune._kernels.limbs import as_float, limbs, minus, saturated, split

thorough = settings(max_examples=100)
int32s = st.integers(0, 2**31 - 1) | st.sampled_from([0, 2**16 - 1, 2**16, 2**31 - 1])


@thorough
@given(count=st.integers(0, 2**46), most=st.integers(0, 2**46))
def test_limbs_hold_integers_beyond_32_bits(count, most):
    high, low = limbs(count, most)
    assert high.dtype == low.dtype == jnp.int32
    assert int(high) * 2**16 + int(low) == min(count, most)


@thorough
@given(
    count=st.floats(0, 2.0**46, width=32).map(np.floor),
    most=st.sampled_from([5, 2**16, 2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**46]),
)
def test_limbs_hold_traced_float_counts_beyond_32_bits(count, most):
    high, low = jax.jit(limbs, static_argnums=1)(jnp.float32(count), most)
    assert high.dtype == low.dtype == jnp.int32
    assert int(high) * 2**16 + int(low) == min(int(count), most)
    assert 0 <= int(low) < 2**16


@jax.jit
def surplus(counts, wanted):
    high, low = split(counts)
    return saturated(minus((jnp.sum(high), jnp.sum(low)), wanted))


@thorough
@given(data=st.data(), counts=st.lists(int32s, min_size=5, max_size=5))
def test_the_surplus_of_billions_is_exact_near_zero_and_saturates_beyond_int32(data, counts):
    total = sum(counts)
    wanted = data.draw(
        st.integers(0, 2**40)
        | st.integers(max(0, total - 3), total + 3)
        | st.sampled_from([total + 2**31 + d for d in (-1, 0, 1)])
        | st.sampled_from([abs(total - 2**31 + d) for d in (-1, 0, 1)])
    )
    found = surplus(jnp.array(counts, jnp.int32), limbs(wanted, 2**46))
    assert int(found) == min(max(total - wanted, -(2**31)), 2**31 - 1)


def test_the_surplus_of_two_hundred_full_arrays_is_exact():
    counts = jnp.full(200, LARGEST, jnp.int32)
    total = 200 * LARGEST
    for wanted in (total - 5, total, total + 5, total - 2**31, total - 2**31 + 1):
        assert int(surplus(counts, limbs(wanted, 2**46))) == min(total - wanted, 2**31 - 1)


@thorough
@given(count=st.integers(0, 2**46))
def test_a_count_as_a_float_is_it_but_for_rounding(count):
    np.testing.assert_allclose(float(as_float(limbs(count, 2**46))), count, rtol=2**-22)
