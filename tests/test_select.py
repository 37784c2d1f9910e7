"""The kernel: exactly the k lowest, whatever the values, the shape and the path taken."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import _select
from jaxprune._select import limbs, nth_lowest, shares, survivors
from tests import oracle

F32, BF16, F16, F64 = (np.dtype(t) for t in (np.float32, jnp.bfloat16, np.float16, np.float64))
HALVES = [BF16, F16]

kinds, seeds = st.sampled_from(list(oracle.KINDS)), st.integers(0, 2**32 - 1)
thorough = settings(max_examples=100)
brief = settings(max_examples=15)


def draw_count(data, size):
    return data.draw(st.sampled_from([0, 1, size - 1, size]) | st.integers(0, size), label="count")


# --- one group ----------------------------------------------------------------------------------

# Folded in runs even if eight devices share the axis: a last one of 1024, another one of 128.
FOLDED = [(1024,), (2, 1024), (128, 3), (3, 128, 2)]
PLAIN = [(), (1,), (2,), (13,), (1, 1), (5, 7), (3, 4, 5), (2, 0)]


@pytest.mark.parametrize("shape", FOLDED, ids=str)
def test_the_shapes_called_folded_are(shape):
    assert _select._grid(jnp.zeros(shape), None).runs is not None


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, F32) for shape in PLAIN + FOLDED]
    + [(shape, dtype) for shape in [(13,), (5, 7), (2, 1024)] for dtype in HALVES],
    ids=str,
)
@given(kind=kinds, seed=seeds, data=st.data())
def test_survivors_are_all_but_the_count_lowest(shape, dtype, kind, seed, data):
    scores = oracle.hard_scores(kind, seed, shape, dtype)
    count = draw_count(data, scores.size)
    found = survivors(jnp.asarray(scores), jnp.int32(count))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, oracle.survivors(scores, count))


@pytest.mark.parametrize("shape", [(5, 7), (2, 1024)], ids=str)
@given(kind=kinds, seed=seeds, data=st.data())
def test_survivors_of_float64_are_all_but_the_count_lowest(shape, kind, seed, data, x64):
    scores = oracle.hard_scores(kind, seed, shape, F64)
    count = draw_count(data, scores.size)
    with x64(True):
        found = survivors(jnp.asarray(scores), jnp.int32(count))
    np.testing.assert_array_equal(found, oracle.survivors(scores, count))


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("kind", oracle.KINDS)
def test_survivors_of_every_count_there_is(kind, dtype):
    scores = oracle.hard_scores(kind, 7, (5, 7), dtype)
    for count in range(scores.size + 1):
        found = survivors(jnp.asarray(scores), jnp.int32(count))
        np.testing.assert_array_equal(found, oracle.survivors(scores, count))


@pytest.mark.parametrize("shape", [(13,), (5, 7), (2, 1024), (3, 128, 2)], ids=str)
@given(kind=kinds, seed=seeds, data=st.data())
def test_survivors_with_last_ties_prune_the_higher_index_first(shape, kind, seed, data):
    scores = oracle.hard_scores(kind, seed, shape, F32)
    count = draw_count(data, scores.size)
    found = survivors(jnp.asarray(scores), jnp.int32(count), ties="last")
    np.testing.assert_array_equal(found, np.flip(oracle.survivors(np.flip(scores), count)))


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@given(kind=kinds, seed=seeds, data=st.data(), near=st.integers(0, 2**16 - 1))
def test_a_hint_where_the_cut_lies_changes_nothing(dtype, kind, seed, data, near):
    scores = oracle.hard_scores(kind, seed, (5, 7), dtype)
    count = draw_count(data, scores.size)
    place = near * (2**16 + 1) if dtype == F32 else near
    found = survivors(jnp.asarray(scores), jnp.int32(count), near=jnp.uint32(place))
    np.testing.assert_array_equal(found, oracle.survivors(scores, count))


# --- many groups --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((5, 7), (0,)),
        ((5, 7), (1,)),
        ((5, 7), ()),
        ((3, 4, 5), (0, 2)),
        ((3, 4, 5), (1,)),
        ((128, 3), (0,)),
        ((2, 1024), (1,)),
        ((2, 128, 3), (1, 2)),
        ((3, 2, 1024), (0, 2)),
    ],
    ids=str,
)
@given(kind=kinds, seed=seeds, data=st.data())
def test_every_group_loses_its_own_count(shape, axes, kind, seed, data):
    scores = oracle.hard_scores(kind, seed, shape, F32)
    groups = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    size = scores.size // int(np.prod(groups))
    counts = np.random.default_rng(seed).integers(0, size + 1, groups, np.int32)
    counts[data.draw(st.sampled_from(list(np.ndindex(groups))))] = draw_count(data, size)
    found = survivors(jnp.asarray(scores), jnp.asarray(counts), axes=axes)
    np.testing.assert_array_equal(found, oracle.survivors_by_group(scores, counts, axes))


@pytest.mark.parametrize(("shape", "axes"), [((5, 7), (0,)), ((2, 1024), (1,))], ids=str)
@given(kind=kinds, seed=seeds, data=st.data())
def test_one_count_serves_all_groups(shape, axes, kind, seed, data):
    scores = oracle.hard_scores(kind, seed, shape, BF16)
    count = draw_count(data, shape[axes[0]])
    counts = np.full([1 if axis in axes else n for axis, n in enumerate(shape)], count)
    found = survivors(jnp.asarray(scores), jnp.int32(count), axes=axes)
    np.testing.assert_array_equal(found, oracle.survivors_by_group(scores, counts, axes))


# --- guided by a sample -------------------------------------------------------------------------

SAMPLED = [
    ((512, 600), None, F32),
    ((256, 1024), None, F32),  # folded too
    ((270_000,), None, F32),
    ((512, 1024), None, BF16),
    ((1024, 3), (0,), F32),
    ((4, 1024), (1,), F32),
    ((3, 600), (1,), F32),
    ((4, 128, 64), (1, 2), BF16),
]


@pytest.mark.parametrize(("shape", "axes", "dtype"), SAMPLED, ids=str)
def test_the_arrays_called_sampled_are(shape, axes, dtype):
    def guesses(scores):
        grid = _select._grid(scores, axes)
        return _select._bracket([grid], grid.tally(grid.keys == 0))

    assert len(jax.eval_shape(guesses, jax.ShapeDtypeStruct(shape, dtype))) == 2


@pytest.mark.parametrize(("shape", "axes", "dtype"), SAMPLED, ids=str)
@brief
@given(kind=kinds, seed=seeds, data=st.data())
def test_a_sample_that_guides_the_search_never_changes_its_result(
    shape, axes, dtype, *, kind, seed, data
):
    scores = oracle.hard_scores(kind, seed, shape, dtype)
    axes = tuple(range(len(shape))) if axes is None else axes
    groups = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    count = draw_count(data, scores.size // int(np.prod(groups)))
    found = survivors(jnp.asarray(scores), jnp.int32(count), axes=axes)
    counts = np.full(groups, count)
    np.testing.assert_array_equal(found, oracle.survivors_by_group(scores, counts, axes))


@pytest.mark.parametrize("shape", [(2047, 2049), (3000, 1400), (4_194_303,), (50_257, 83)], ids=str)
def test_a_sample_of_an_array_of_any_shape_is_a_small_part_of_it(shape):
    def sample(scores):
        grid = _select._grid(scores, None)
        guesses = _select._bracket([grid], grid.tally(grid.keys == 0))
        return _select._thinned(grid, scores.size // 2**15).keys if guesses else ()

    scores = jax.ShapeDtypeStruct(shape, F32)
    part = jax.eval_shape(sample, scores)
    assert part == () or part.size <= scores.size // 8


# --- one budget over arrays ---------------------------------------------------------------------


def check_shares(shapes, dtype, kind, seed, data):
    scores = [oracle.hard_scores(kind, seed + i, s, dtype) for i, s in enumerate(shapes)]
    if seed % 2:  # arrays of different scale: some are at their limit long before others
        with np.errstate(over="ignore", invalid="ignore"):
            scores = [(s * dtype.type(2.0**i)).astype(dtype) for i, s in enumerate(scores)]
    most = [draw_count(data, s.size) for s in scores]
    budget = draw_count(data, sum(most))
    arrays = [jnp.asarray(s) for s in scores]
    given, near = shares(arrays, limbs(budget), [jnp.int32(m) for m in most])
    expected = oracle.shares(scores, budget, most)
    assert [int(g) for g in given] == expected
    for array, score, count in zip(arrays, scores, expected, strict=True):
        found = survivors(array, jnp.int32(count), near=near)
        np.testing.assert_array_equal(found, oracle.survivors(score, count))


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("shapes", [[(13,)], [(5, 7), (1,), (13,)], [(2, 1024), (128, 3)]], ids=str)
@given(kind=kinds, seed=seeds, data=st.data())
def test_shares_go_to_the_lowest_within_each_limit(shapes, dtype, kind, seed, data):
    check_shares(shapes, dtype, kind, seed, data)


@given(kind=kinds, seed=seeds, data=st.data())
def test_shares_of_float64_go_to_the_lowest_within_each_limit(kind, seed, data, x64):
    with x64(True):
        check_shares([(5, 7), (13,)], F64, kind, seed, data)


@settings(max_examples=8)
@given(kind=kinds, seed=seeds, data=st.data())
def test_shares_guided_by_a_sample_go_to_the_lowest_within_each_limit(kind, seed, data):
    check_shares([(512, 600), (64, 1024), (5, 7)], F32, kind, seed, data)


@pytest.mark.parametrize("kind", oracle.KINDS)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_nth_lowest_is_the_score_of_every_rank(kind, dtype):
    scores = [oracle.hard_scores(kind, seed, s, dtype) for seed, s in enumerate([(5, 7), (13,)])]
    flat = np.concatenate([s.ravel() for s in scores])
    arrays = [jnp.asarray(s) for s in scores]
    for rank, index in enumerate(oracle.lowest_first(flat), 1):
        found = nth_lowest(arrays, limbs(rank))
        assert found.dtype == dtype
        assert found.shape == ()
        np.testing.assert_array_equal(oracle.exact(found), oracle.exact(flat[index]))


@brief
@given(kind=kinds, seed=seeds, data=st.data())
def test_nth_lowest_of_a_sampled_array_is_the_score_of_its_rank(kind, seed, data):
    scores = oracle.hard_scores(kind, seed, (512, 600), F32)
    rank = max(1, draw_count(data, scores.size))
    found = nth_lowest([jnp.asarray(scores)], limbs(rank))
    expected = scores.ravel()[oracle.lowest_first(scores)[rank - 1]]
    np.testing.assert_array_equal(oracle.exact(found), oracle.exact(expected))


# --- budgets beyond 32 bits ---------------------------------------------------------------------


@thorough
@given(count=st.integers(0, 2**46))
def test_limbs_hold_integers_beyond_32_bits(count):
    high, low = limbs(count)
    assert high.dtype == low.dtype == jnp.int32
    assert int(high) * 2**16 + int(low) == count


@thorough
@given(
    count=st.floats(0, 2.0**46, width=32).map(np.floor),
    most=st.sampled_from([None, 5, 2**16, 2**31 - 1, 2**31, 2**32 + 1, 2**40]),
)
def test_limbs_hold_traced_float_counts_beyond_32_bits(count, most):
    high, low = jax.jit(limbs, static_argnums=1)(jnp.float32(count), most)
    assert high.dtype == low.dtype == jnp.int32
    expected = int(count) if most is None else min(int(count), most)
    assert int(high) * 2**16 + int(low) == expected
    assert 0 <= int(low) < 2**16


_jitted_surplus = jax.jit(_select._surplus)
int32s = st.integers(0, 2**31 - 1) | st.sampled_from([0, 2**16 - 1, 2**16, 2**31 - 1])


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
    found = _jitted_surplus(jnp.array(counts, jnp.int32), limbs(wanted))
    assert int(found) == min(max(total - wanted, -(2**31)), 2**31 - 1)


def test_the_surplus_of_two_hundred_full_arrays_is_exact():
    counts = jnp.full(200, _select.LARGEST, jnp.int32)
    total = 200 * _select.LARGEST
    for wanted in (total - 5, total, total + 5, total - 2**31, total - 2**31 + 1):
        found = _jitted_surplus(counts, limbs(wanted))
        assert int(found) == min(total - wanted, 2**31 - 1)


def test_a_leaf_of_more_than_two_to_the_24_weights_loses_the_exact_count():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 2**15, (4099, 4096), np.uint16).view(BF16)  # 2**24 + 12,288 of them
    for count in (2**24 + 1, 2**24 + 3):
        found = survivors(jnp.asarray(scores), jnp.int32(count))
        assert scores.size - np.count_nonzero(found) == count


# --- the same bits everywhere -------------------------------------------------------------------


@given(seed=seeds)
def test_vmap_over_scores_and_counts_gives_the_bits_of_each_alone(seed):
    rng = np.random.default_rng(seed)
    batch = [
        oracle.hard_scores(kind, seed, (5, 7), F32) for kind in rng.choice(list(oracle.KINDS), 6)
    ]
    counts = rng.integers(0, 36, 6).astype(np.int32)
    found = _vmapped(jnp.asarray(np.stack(batch)), jnp.asarray(counts))
    expected = [oracle.survivors(s, k) for s, k in zip(batch, counts, strict=True)]
    chex.assert_trees_all_equal(np.asarray(found), np.stack(expected))


_vmapped = jax.jit(jax.vmap(survivors))
