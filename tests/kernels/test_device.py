"""The compiled kernel: exactly the lowest, whatever the values, the shape and the path taken."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune._kernels.counting import fold
from jaxprune._kernels.device import group_survivors, n_of_m, nth_lowest, pool_survivors
from jaxprune._kernels.limbs import limbs
from jaxprune._kernels.parts import parts_of
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.samples import group_guesses, pool_guesses
from jaxprune._specs.unstructured import pool_masks
from tests import oracle

F32, BF16, F16, F64 = (np.dtype(t) for t in (np.float32, jnp.bfloat16, np.float16, np.float64))
HALVES = [BF16, F16]

kinds, seeds = st.sampled_from(list(oracle.KINDS)), st.integers(0, 2**32 - 1)
brief = settings(max_examples=15)


def draw_count(data, size):
    return data.draw(st.sampled_from([0, 1, size - 1, size]) | st.integers(0, size), label="count")


def ranked(scores):
    return [Ranked(jax.device_put(s)) for s in scores]


def vectors(budgets):
    return tuple(jnp.stack(limb) for limb in zip(*budgets, strict=True))


def survivors(scores, count, axes=None, ties="first"):
    axes = tuple(range(scores.ndim)) if axes is None else axes
    return group_survivors(
        Ranked(jax.device_put(scores)), jax.device_put(count), axes=axes, ties=ties
    )


# --- pools of leaves ----------------------------------------------------------------------------

# The first is large enough for a sample, and folds into runs even if eight devices share an axis.
TREES = {
    "small": [(5, 7), (1,), (13,), (3, 4, 5)],
    "sampled": [(256, 600), (64, 1024), (5, 7)],
    "odd": [(70_001,), (2047, 33)],
}


def draw_leaves(shapes, dtypes, data, seed):
    drawn = [data.draw(kinds, label="kind") for _ in shapes]
    scores = [
        oracle.hard_scores(kind, seed + i, shape, dtypes[i % len(dtypes)])
        for i, (kind, shape) in enumerate(zip(drawn, shapes, strict=True))
    ]
    if seed % 2:  # arrays of different scale: some are at their limit long before others
        with np.errstate(over="ignore", invalid="ignore"):
            scores = [(s * s.dtype.type(2.0**i)).astype(s.dtype) for i, s in enumerate(scores)]
    return scores


def check_masks(found, scores, expected):
    for mask, score, count in zip(found, scores, expected, strict=True):
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, oracle.survivors(score, count))


@pytest.mark.parametrize("shapes", TREES.values(), ids=TREES)
@brief
@given(seed=seeds, data=st.data())
def test_every_leaf_with_a_budget_of_its_own_loses_its_lowest(shapes, seed, data):
    scores = draw_leaves(shapes, [F32, BF16, F16], data, seed)
    counts = [draw_count(data, s.size) for s in scores]
    found = pool_survivors(
        ranked(scores),
        range(len(scores)),
        vectors([limbs(count, 2**31) for count in counts]),
        [s.size for s in scores],
    )
    check_masks(found, scores, counts)


@pytest.mark.parametrize("shapes", TREES.values(), ids=TREES)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@brief
@given(seed=seeds, data=st.data())
def test_a_pool_loses_its_lowest_within_each_limit(shapes, dtype, seed, data):
    scores = draw_leaves(shapes, [dtype], data, seed)
    most = [draw_count(data, s.size) for s in scores]
    budget = draw_count(data, sum(most))
    found = pool_survivors(
        ranked(scores), [0] * len(scores), vectors([limbs(budget, sum(most))]), most
    )
    check_masks(found, scores, oracle.shares(scores, budget, most))


@brief
@given(seed=seeds, data=st.data())
def test_several_pools_are_searched_together(seed, data):
    shapes, pools = TREES["small"], [1, 0, 1, 0]
    scores = draw_leaves(shapes, [F32], data, seed)
    most = [s.size for s in scores]
    sizes = [sum(m for m, p in zip(most, pools, strict=True) if p == q) for q in (0, 1)]
    budgets = [draw_count(data, size) for size in sizes]
    found = pool_survivors(ranked(scores), pools, vectors([limbs(b, 2**31) for b in budgets]), most)
    for pool, budget in enumerate(budgets):
        at = [i for i, p in enumerate(pools) if p == pool]
        mine = [scores[i] for i in at]
        check_masks(
            [found[i] for i in at], mine, oracle.shares(mine, budget, [most[i] for i in at])
        )


@brief
@given(seed=seeds, data=st.data())
def test_float64_is_searched_beside_narrower_leaves(seed, data, x64):
    scores = draw_leaves([(5, 7), (13,)], [F64, F32], data, seed)
    counts = [draw_count(data, s.size) for s in scores]
    with x64(True):
        found = pool_survivors(
            ranked(scores),
            [0, 1],
            vectors([limbs(c, 2**31) for c in counts]),
            [s.size for s in scores],
        )
    check_masks(found, scores, counts)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("kind", oracle.KINDS)
def test_every_count_there_is(kind, dtype):
    scores = oracle.hard_scores(kind, 7, (5, 7), dtype)
    for count in range(scores.size + 1):
        (found,) = pool_survivors(ranked([scores]), [0], vectors([limbs(count, 35)]), [35])
        np.testing.assert_array_equal(found, oracle.survivors(scores, count))


@brief
@given(seed=seeds, data=st.data())
def test_a_leaf_too_large_to_count_is_a_pool_of_its_parts(seed, data):
    scores = draw_leaves([(6, 4, 5), (7,), (1, 3, 9)], [F32], data, seed)
    counts = [draw_count(data, s.size) for s in scores]
    found = pool_masks(
        ranked(scores),
        [0, 1, 2],
        vectors([limbs(c, 2**31) for c in counts]),
        [120, 7, 27],
        largest=8,
    )
    check_masks(found, scores, counts)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@given(kind=kinds, seed=seeds, data=st.data())
def test_what_is_gone_goes_first_and_what_is_held_last(dtype, kind, seed, data):
    scores = oracle.hard_scores(kind, seed, (5, 7), dtype)
    gone, held = np.random.default_rng(seed).random((2, 5, 7)) < 0.3
    held &= ~gone
    count = draw_count(data, scores.size)
    leaf = Ranked(jax.device_put(scores), alive=jax.device_put(~gone), held=jax.device_put(held))
    (found,) = pool_survivors([leaf], [0], vectors([limbs(count, 35)]), [35])
    # Among what is gone, and among what is held, the lower index goes first.
    rank = np.where(gone | held, 0, np.argsort(oracle.lowest_first(scores)).reshape(5, 7)).ravel()
    order = np.lexsort((np.arange(35), rank, held.ravel(), ~gone.ravel()))
    expected = np.ones(35, bool)
    expected[order[:count]] = False
    np.testing.assert_array_equal(found, expected.reshape(5, 7))


# --- groups of one leaf -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((5, 7), (0,)),
        ((5, 7), (1,)),
        ((5, 7), ()),
        ((5, 7), None),
        ((3, 4, 5), (0, 2)),
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
    axes = tuple(range(len(shape))) if axes is None else axes
    groups = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    size = scores.size // int(np.prod(groups))
    counts = np.random.default_rng(seed).integers(0, size + 1, groups, np.int32)
    counts[data.draw(st.sampled_from(list(np.ndindex(groups))))] = draw_count(data, size)
    found = survivors(scores, counts, axes=axes)
    np.testing.assert_array_equal(found, oracle.survivors_by_group(scores, counts, axes))


@pytest.mark.parametrize("shape", [(13,), (5, 7), (2, 1024), (3, 128, 2)], ids=str)
@given(kind=kinds, seed=seeds, data=st.data())
def test_with_last_ties_the_higher_index_goes_first(shape, kind, seed, data):
    scores = oracle.hard_scores(kind, seed, shape, F32)
    count = draw_count(data, scores.size)
    found = survivors(scores, count, ties="last")
    np.testing.assert_array_equal(found, np.flip(oracle.survivors(np.flip(scores), count)))


@given(kind=kinds, seed=seeds, data=st.data())
def test_one_count_serves_all_groups_of_half_precision(kind, seed, data):
    scores = oracle.hard_scores(kind, seed, (2, 1024), BF16)
    count = draw_count(data, 1024)
    counts = np.full((2, 1), count)
    found = survivors(scores, count, axes=(1,))
    np.testing.assert_array_equal(found, oracle.survivors_by_group(scores, counts, (1,)))


SAMPLED = [((256, 600), None), ((1024, 3), (0,)), ((3, 600), (1,)), ((4, 128, 64), (1, 2))]


@pytest.mark.parametrize(("shape", "axes"), SAMPLED, ids=str)
@brief
@given(kind=kinds, seed=seeds, data=st.data())
def test_a_sample_of_each_group_never_changes_the_result(shape, axes, kind, seed, data):
    scores = oracle.hard_scores(kind, seed, shape, F32)
    axes = tuple(range(len(shape))) if axes is None else axes
    groups = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    count = draw_count(data, scores.size // int(np.prod(groups)))
    found = survivors(scores, count, axes=axes)
    expected = oracle.survivors_by_group(scores, np.full(groups, count), axes)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("shape", "axes"), SAMPLED, ids=str)
def test_the_leaves_called_sampled_are(shape, axes):
    def of_groups(scores):
        grid = fold(Ranked(scores).keys(), axes)
        return group_guesses(grid, grid.tally(grid.keys == 0).astype(jnp.float32))

    def of_pools(scores):
        return pool_guesses(parts_of([Ranked(scores)]), [0], jnp.zeros(1), jnp.uint32)

    described = jax.ShapeDtypeStruct(shape, F32)
    assert len(jax.eval_shape(of_groups, described)) == 2
    assert axes is not None or len(jax.eval_shape(of_pools, described)) == 2


# --- n of m -------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [4, 8, 40])
@given(kind=kinds, seed=seeds, data=st.data())
def test_the_n_highest_of_every_group_stay(m, kind, seed, data):
    scores = oracle.hard_scores(kind, seed, (3, 2, m), F32)
    n = data.draw(st.integers(0, m))
    found = n_of_m(Ranked(jax.device_put(scores)), jnp.int32(n), view=(3, 2, m), axis=2)
    flipped = oracle.survivors_by_group(scores[..., ::-1], np.full((3, 2, 1), m - n), (2,))
    np.testing.assert_array_equal(found, flipped[..., ::-1])


# --- ranks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", oracle.KINDS)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_nth_lowest_is_the_score_of_every_rank(kind, dtype):
    scores = [oracle.hard_scores(kind, seed, s, dtype) for seed, s in enumerate([(5, 7), (13,)])]
    flat = np.concatenate([s.ravel() for s in scores])
    for rank, index in enumerate(oracle.lowest_first(flat), 1):
        found = nth_lowest(ranked(scores), limbs(rank, 48))
        assert found.dtype == dtype
        assert found.shape == ()
        np.testing.assert_array_equal(oracle.exact(found), oracle.exact(flat[index]))


def test_a_leaf_of_more_than_two_to_the_24_weights_loses_the_exact_count():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 2**15, (4099, 4096), np.uint16).view(BF16)  # 2**24 + 12,288 of them
    for count in (2**24 + 1, 2**24 + 3):
        (found,) = pool_survivors(
            ranked([scores]), [0], vectors([limbs(count, 2**31)]), [scores.size]
        )
        assert scores.size - np.count_nonzero(found) == count


# --- the same bits everywhere -------------------------------------------------------------------


@given(seed=seeds)
def test_vmap_over_scores_and_counts_gives_the_bits_of_each_alone(seed):
    rng = np.random.default_rng(seed)
    batch = [
        oracle.hard_scores(kind, seed, (5, 7), F32) for kind in rng.choice(list(oracle.KINDS), 6)
    ]
    counts = rng.integers(0, 36, 6).astype(np.int32)
    found, grouped = _vmapped(jax.device_put(np.stack(batch)), jax.device_put(counts))
    expected = [oracle.survivors(s, k) for s, k in zip(batch, counts, strict=True)]
    chex.assert_trees_all_equal(np.asarray(found), np.stack(expected))
    chex.assert_trees_all_equal(np.asarray(grouped), np.stack(expected))


@jax.jit
@jax.vmap
def _vmapped(scores, count):
    (found,) = pool_survivors(
        [Ranked(scores)], [0], vectors([limbs(count.astype(jnp.float32), 35)]), [35]
    )
    return found, group_survivors(Ranked(scores), count, axes=(0, 1))
