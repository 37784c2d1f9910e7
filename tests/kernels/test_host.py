"""The host's kernel: the oracle's masks, from NumPy alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprune._kernels import host
from jaxprune._kernels.floats import keys as device_keys
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.shares import find_shares
from tests import oracle

F32, BF16, F16, F64 = (np.dtype(t) for t in (np.float32, jnp.bfloat16, np.float16, np.float64))
DTYPES = st.sampled_from([F32, BF16, F16, F64])

kinds, seeds = st.sampled_from(list(oracle.KINDS)), st.integers(0, 2**32 - 1)
# Beyond a sample, and beyond a piece of keys.
SHAPES = [(0,), (1,), (5, 7), (3, 40, 50), (300, 801)]


def draw_count(data, size):
    return data.draw(st.sampled_from([0, 1, size - 1, size]) | st.integers(0, size), label="count")


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
@given(kind=kinds, seed=seeds)
def test_keys_are_those_of_the_device(dtype, kind, seed):
    scores = oracle.hard_scores(kind, seed, (5, 7), dtype)
    lowest = int(np.iinfo(f"int{8 * dtype.itemsize}").min)
    places = np.asarray(device_keys(jax.device_put(scores))).astype(np.int64) - lowest
    np.testing.assert_array_equal(host.keys(scores).astype(np.int64), places)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(kind=kinds, seed=seeds, dtype=DTYPES, data=st.data())
def test_all_but_the_count_lowest_survive(shape, kind, seed, dtype, data):
    scores = oracle.hard_scores(kind, seed, shape, dtype)
    count = draw_count(data, scores.size) if scores.size else 0
    found = host.survivors(Ranked(scores), count)
    np.testing.assert_array_equal(found, oracle.survivors(scores, count))


@pytest.mark.parametrize("axis", [0, 1, -1])
@given(kind=kinds, seed=seeds, dtype=DTYPES, data=st.data())
def test_every_index_of_an_axis_loses_its_lowest(axis, kind, seed, dtype, data):
    scores = oracle.hard_scores(kind, seed, (6, 5, 8), dtype)
    size = scores.size // scores.shape[axis]
    count = draw_count(data, size)
    groups = [1, 1, 1]
    groups[axis] = scores.shape[axis]
    others = tuple(other for other in range(3) if other != axis % 3)
    expected = oracle.survivors_by_group(scores, np.full(groups, count), others)
    np.testing.assert_array_equal(host.survivors_along(Ranked(scores), count, axis), expected)


@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=str)
@given(seed=seeds, data=st.data())
def test_a_pool_loses_its_lowest_and_every_leaf_keeps_some(dtype, seed, data):
    shapes = [(13,), (5, 7), (40, 1000)]
    scores = [
        oracle.hard_scores(data.draw(kinds), seed + i, shape, dtype)
        for i, shape in enumerate(shapes)
    ]
    held = data.draw(st.integers(0, 13))
    most = [s.size - held for s in scores]
    budget = draw_count(data, sum(most))
    found = host.pool_survivors([Ranked(s) for s in scores], budget, most)
    for mask, score, count in zip(found, scores, oracle.shares(scores, budget, most), strict=True):
        np.testing.assert_array_equal(mask, oracle.survivors(score, count))


@pytest.mark.parametrize("m", [4, 32])
@given(kind=kinds, seed=seeds, dtype=DTYPES, data=st.data())
def test_the_n_highest_of_every_group_stay(m, kind, seed, dtype, data):
    scores = oracle.hard_scores(kind, seed, (3, m, 2), dtype)
    n = data.draw(st.integers(1, m))
    found = host.highest_of_groups(Ranked(scores), n, 1)
    flipped = oracle.survivors_by_group(scores[:, ::-1], np.full((3, 1, 2), m - n), (1,))
    np.testing.assert_array_equal(found, flipped[:, ::-1])


@given(kind=kinds, seed=seeds, dtype=DTYPES, data=st.data())
def test_what_is_gone_goes_first_and_what_is_held_last(kind, seed, dtype, data):
    scores = oracle.hard_scores(kind, seed, (5, 7), dtype)
    gone, held = np.random.default_rng(seed).random((2, 5, 7)) < 0.3
    held &= ~gone
    count = draw_count(data, scores.size)
    rank = np.where(gone | held, 0, np.argsort(oracle.lowest_first(scores)).reshape(5, 7)).ravel()
    order = np.lexsort((np.arange(35), rank, held.ravel(), ~gone.ravel()))
    expected = np.ones(35, bool)
    expected[order[:count]] = False
    found = host.survivors(Ranked(scores, alive=~gone, held=held), count)
    np.testing.assert_array_equal(found, expected.reshape(5, 7))


@given(kind=kinds, seed=seeds, dtype=DTYPES, data=st.data())
def test_the_highest_are_those_that_the_others_leave(kind, seed, dtype, data):
    scores = oracle.hard_scores(kind, seed, (35,), dtype)
    count = draw_count(data, 35)
    places = host.highest(host.all_keys(Ranked(scores)), count)
    kept = np.zeros(35, bool)
    kept[places] = True
    expected = np.flip(oracle.survivors(np.flip(scores), 35 - count))
    np.testing.assert_array_equal(kept, expected)


@given(seed=seeds, data=st.data())
def test_leaves_beside_the_cut_are_read_once(seed, data):
    """A leaf of which all or nothing goes by its first digits has nothing more to tell."""
    scores = {
        "low": oracle.hard_scores("normal", seed, (300,), F32) * np.float32(1e-6),
        "across": np.random.default_rng(seed).uniform(1, 2, 300).astype(np.float32),
        "high": np.full(300, 1e6, np.float32),
    }
    reads = dict.fromkeys(scores, 0)

    def pieces(name):
        reads[name] += 1
        yield from host.key_pieces(Ranked(np.abs(scores[name])))

    count = data.draw(st.integers(301, 598))
    found = find_shares(list(scores), pieces, count, held=1, width=32)
    assert found == {"low": 299, "across": count - 299, "high": 0}
    assert reads == {"low": 1, "across": 2, "high": 1}


@given(count=st.integers(1, 9))
def test_what_lies_on_the_cut_is_given_in_the_order_asked_for(count):
    ones = host.keys(np.ones(3, np.float32))
    found = find_shares("abc", lambda _: iter([ones]), count, held=0, width=32, order="cab")
    assert found == {"c": min(count, 3), "a": max(min(count - 3, 3), 0), "b": max(count - 6, 0)}


@given(data=st.data(), width=st.sampled_from([16, 32]))
def test_leaves_that_are_stacked_give_what_each_gives_alone(data, width):
    size = 5
    values = data.draw(st.lists(st.integers(0, 3), min_size=6 * size, max_size=6 * size))
    rows = host.keys(np.array(values, f"float{width}").reshape(6, size))
    held = data.draw(st.integers(0, 3))
    count = data.draw(st.integers(1, 6 * (size - held)))
    order = data.draw(st.permutations(range(6)))
    choices = {"held": held, "width": width, "order": order}

    def alone(i):
        return iter([rows[i]])

    stacks = [([2, 3], rows[2:4]), ([4, 5], rows[4:])]
    found = find_shares([0, 1], alone, count, **choices, stacks=lambda: stacks)
    assert found == find_shares(range(6), alone, count, **choices)
    assert sum(found.values()) == count


@given(data=st.data())
def test_each_group_along_an_axis_loses_a_number_of_its_own(data):
    values = data.draw(st.lists(st.integers(0, 3), min_size=24, max_size=24))
    scores = np.array(values, np.float32).reshape(4, 2, 3)
    counts = np.array(data.draw(st.lists(st.integers(0, 6), min_size=4, max_size=4)))
    expected = [host.survivors(Ranked(scores[i]), int(counts[i])) for i in range(4)]
    np.testing.assert_array_equal(host.survivors_along(Ranked(scores), counts, 0), expected)
