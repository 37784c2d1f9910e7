"""The reference's generator, to the bit, and the 64-bit arithmetic under it."""

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxprune as jp
from jaxprune._kernels import lcg as _lcg
from jaxprune._kernels.uint64 import Wide, add, multiply, product

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "reference_lcg.json").read_text())


def stream(seed, n):
    """The definition, in Python integers."""
    values, state = np.empty(n, np.float32), seed
    for i in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values[i] = np.float32(state >> 32) / np.float32(2**32)
    return values


def from_hex(text):
    return np.frombuffer(bytes.fromhex(text), ">f4").astype(np.float32)


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide_types", [False, True], ids=["x32", "x64"])
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["seed"])
def test_the_stream_of_a_golden_seed(golden, wide_types, x64):
    with x64(wide_types):
        values = np.asarray(jp.compat.lcg(int(golden["seed"]), golden["n"]))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values[:64], from_hex(golden["first"]))
    np.testing.assert_array_equal(values[-1:], from_hex(golden["last"]))
    assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == golden["sha256"]


def test_all_nine_golden_seeds_are_there():
    assert len({golden["seed"] for golden in GOLDEN}) == 9


@given(seed=st.integers(0, 2**64 - 1) | st.sampled_from([2**32 - 1, 2**32, 2**63, 2**64 - 1]))
def test_the_stream_of_any_seed(seed):
    np.testing.assert_array_equal(jp.compat.lcg(seed, 70), stream(seed, 70))


@pytest.mark.parametrize("n", [0, 1, 2047, 2048, 2049, 4096, 5000])
def test_a_stream_of_any_length_is_a_prefix(n):
    np.testing.assert_array_equal(jp.compat.lcg(99, n), stream(99, 5000)[:n])


def test_a_shape_is_filled_in_row_major_order():
    values = _lcg.uniform(5, (3, 5, 7))
    assert values.shape == (3, 5, 7)
    np.testing.assert_array_equal(np.ravel(values), stream(5, 105))
    assert _lcg.uniform(5, ()).shape == ()
    assert _lcg.uniform(5, ()) == stream(5, 1)[0]
    assert _lcg.uniform(5, (3, 0)).shape == (3, 0)


@given(seed=st.integers(0, 2**64 - 1) | st.sampled_from([2**64 - 1, 2**64 - 2]))
def test_a_unit_takes_the_first_value_of_its_own_stream(seed):
    expected = [stream((seed + unit) % 2**64, 1)[0] for unit in range(5)]
    np.testing.assert_array_equal(_lcg.unit_values(seed, 5), expected)


def test_the_highest_states_round_up_to_one():
    # The state before the last but one: its high word is 2**32 - 1, which float32 cannot hold.
    before = (2**64 - 1 - 1442695040888963407) * pow(6364136223846793005, -1, 2**64) % 2**64
    assert jp.compat.lcg(before, 1)[0] == 1.0


# --- seeds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seed",
    [-1, 2**64, 10**30, 1.0, float("nan"), "42", None, True, np.bool_(True), [1]],
    ids=str,
)
def test_a_seed_outside_64_bits_is_refused(seed):
    words = r"an LCG seed is a Python integer in \[0, 2\*\*64\), known before compilation, got "
    with pytest.raises(jp.PruningError, match=words):
        jp.compat.lcg(seed, 3)
    with pytest.raises(jp.PruningError, match=words):
        jp.LCG(seed)
    with pytest.raises(jp.PruningError, match=words):
        jp.compat.importance(jnp.ones(3), "random", seed)


def test_a_device_array_is_no_seed():
    with pytest.raises(jp.PruningError, match="known before compilation"):
        jp.LCG(jnp.uint32(3))


@pytest.mark.parametrize("seed", [np.uint64(2**64 - 1), np.int32(7), np.uint8(255)], ids=repr)
def test_numpy_integers_are_seeds(seed):
    np.testing.assert_array_equal(jp.compat.lcg(seed, 5), stream(int(seed), 5))


# --- 64 bits in two limbs -----------------------------------------------------------------------

odd_words = [0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 1]
words = st.integers(0, 2**32 - 1) | st.sampled_from(odd_words)
longs = st.integers(0, 2**64 - 1) | st.builds(lambda h, low: h << 32 | low, words, words)
lists = st.lists(st.tuples(longs, longs), min_size=20, max_size=20)


def to_wide(values):
    return Wide(
        np.array([v >> 32 for v in values], np.uint32),
        np.array([v % 2**32 for v in values], np.uint32),
    )


def to_ints(value):
    assert value.high.dtype == value.low.dtype == jnp.uint32
    high, low = np.asarray(value.high).tolist(), np.asarray(value.low).tolist()
    return [h << 32 | x for h, x in zip(high, low, strict=True)]


@jax.jit
def arithmetic(a, b):
    return add(a, b), multiply(a, b), product(a.low, b.low)


@pytest.mark.parametrize("wide_types", [False, True], ids=["x32", "x64"])
@settings(max_examples=100)
@given(pairs=lists)
def test_wide_arithmetic_is_that_of_integers_modulo_2_to_the_64(wide_types, pairs, x64):
    with x64(wide_types):
        a, b = (to_wide(column) for column in zip(*pairs, strict=True))
        added, multiplied, of_words = map(to_ints, arithmetic(a, b))
    assert added == [(x + y) % 2**64 for x, y in pairs]
    assert multiplied == [x * y % 2**64 for x, y in pairs]
    assert of_words == [(x % 2**32) * (y % 2**32) for x, y in pairs]
