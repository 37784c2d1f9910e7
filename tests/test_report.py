"""Reports count in integers what is there; statistics and the highest scores against NumPy."""

import dataclasses
import json
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jaxprune as jp
from tests import oracle

F32, BF16, F16 = (np.dtype(t) for t in (np.float32, jnp.bfloat16, np.float16))

# Two of eight weights are zero in the first kernel, one of four in the second.
PARAMS = {
    "a": {"kernel": jnp.array([[1.0, 0, 3, 4], [5, 6, 0, 8]]), "bias": jnp.zeros(4)},
    "b": {"kernel": jnp.array([[0, 1.0], [2, 3]], jnp.bfloat16)},
    "step": jnp.int32(7),
}


def rows_of(report):
    return {row.path: row for row in report.rows}


def only(array, **kwargs):
    """The count of a bare array."""
    return jp.report(jax.device_put(array), **kwargs).rows[0].count


# --- what is counted ----------------------------------------------------------------------------


def test_a_small_model_by_hand():
    report = jp.report(PARAMS)
    found = [
        (
            r.path,
            r.shape,
            r.dtype,
            r.count and (r.count.total, r.count.nonzero),
            r.in_scope,
            r.reason,
        )
        for r in report.rows
    ]
    assert found == [
        ("a/bias", (4,), "float32", (4, 0), False, "rank 1"),
        ("a/kernel", (2, 4), "float32", (8, 6), True, ""),
        ("b/kernel", (2, 2), "bfloat16", (4, 3), True, ""),
        ("step", (), "int32", None, False, "dtype int32"),
    ]
    assert (report.pruned.total, report.pruned.nonzero) == (12, 9)
    assert (report.all.total, report.all.nonzero) == (16, 9)


def test_both_denominators():
    report = jp.report(PARAMS)
    assert report.pruned.sparsity == report.pruned.zero_fraction == 3 / 12
    assert report.all.sparsity == report.sparsity == report.zero_fraction == 7 / 16
    assert (report.pruned.density, report.density) == (9 / 12, 9 / 16)


def test_bytes():
    rows = rows_of(jp.report(PARAMS))
    kernel, half, bias = (rows[p].count for p in ("a/kernel", "b/kernel", "a/bias"))
    assert (kernel.bytes_dense, kernel.bytes_packed) == (8 * 4, 6 * 4 + 1)
    assert (half.bytes_dense, half.bytes_packed) == (4 * 2, 3 * 2 + 1)
    assert (bias.bytes_dense, bias.bytes_packed) == (16, 16)  # out of scope: kept dense
    report = jp.report(PARAMS)
    assert (report.pruned.bytes_dense, report.pruned.bytes_packed) == (40, 32)
    assert (report.all.bytes_dense, report.all.bytes_packed) == (56, 48)


def test_packed_is_never_more_than_dense():
    count = only(np.ones((3, 3)))
    assert count.bytes_packed == count.bytes_dense == 36


def test_counts_are_python_integers():
    for count in (jp.report(PARAMS).all, jp.report(PARAMS).pruned, only(np.ones((3, 3)))):
        assert {type(value) for value in dataclasses.astuple(count)} == {int}


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
def test_what_is_zero(dtype):
    """Both zeros are; subnormal numbers, infinities and NaN are not."""
    smallest = np.array(1, f"uint{8 * dtype.itemsize}").view(dtype)
    values = [0.0, -0.0, smallest, -smallest, np.nan, np.inf, -np.inf, 1.0, 0.0, -0.0]
    assert only(np.array(values, dtype)).nonzero == 6


def test_what_is_zero_in_float64(x64):
    with x64(True):
        assert only(np.array([0.0, -0.0, 5e-324, np.nan, 1e-300])).nonzero == 3


def test_a_numpy_array_of_float64_is_reported_as_what_it_is():
    row = jp.report(np.array([[1e-300, 0.0], [1.0, 2.0]])).rows[0]
    assert row.count.nonzero == 3
    assert row.count.bytes_dense == row.count.total * np.dtype(row.dtype).itemsize


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_large_leaves_are_counted_exactly(dtype):
    """bfloat16 cannot count beyond 256, float32 sums of ones lose none only up to 2**24."""
    ones = np.ones((1025, 1031), dtype)
    assert only(ones).nonzero == 1025 * 1031
    ones[3, 5] = ones[1024, 1030] = 0
    assert only(ones).nonzero == 1025 * 1031 - 2


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(sorted(oracle.KINDS)),
    shape=st.sampled_from([(7,), (8, 12), (3, 4, 5)]),
    dtype=st.sampled_from([F32, BF16, F16]),
)
def test_counts_against_numpy(seed, kind, shape, dtype):
    weights = oracle.hard_scores(kind, seed, shape, dtype)
    count = only(weights)
    assert (count.total, count.nonzero) == (weights.size, np.count_nonzero(oracle.exact(weights)))


def test_leaves_of_every_shape():
    params = {"kernel": jnp.ones((2, 2)), "empty": jnp.ones((0, 3)), "scalar": jnp.float32(0)}
    rows = rows_of(jp.report(params))
    assert (rows["empty"].count.total, rows["empty"].count.sparsity) == (0, 0.0)
    assert (rows["scalar"].shape, rows["scalar"].count.total, rows["scalar"].count.nonzero) == (
        (),
        1,
        0,
    )
    assert jp.report(params).all.total == 5


def test_holes_and_what_is_no_array_have_no_row():
    params = {"kernel": jnp.ones((2, 2)), "hole": None, "name": "net", "key": jax.random.key(0)}
    kernel, key = jp.report(params).rows
    assert (kernel.path, kernel.count.total) == ("kernel", 4)
    assert (key.path, key.count, key.reason) == ("key", None, "dtype key<fry>")


def test_nothing_has_no_sparsity():
    nothing = jp.Count(0, 0, 0, 0)
    assert nothing.sparsity == nothing.density == nothing.zero_fraction == 0.0


# --- an array that stands in the tree twice -----------------------------------------------------

SHARED = jax.device_put(np.float32(np.random.default_rng(0).normal(size=(8, 12))))


def test_an_array_that_stands_twice_counts_twice():
    report = jp.report({"a": {"kernel": SHARED}, "b": {"kernel": SHARED}})
    assert report.all.total == 2 * 96
    assert report == jp.report({"a": {"kernel": SHARED}, "b": {"kernel": jnp.array(SHARED)}})


# --- with a mask --------------------------------------------------------------------------------

MASK = {
    "a": {"kernel": jnp.array([[1, 0, 1, 0], [1, 0, 0, 1]], bool), "bias": None},
    "b": {"kernel": None},
    "step": None,
}


def test_the_mask_says_what_is_in_scope():
    rows = rows_of(jp.report(PARAMS, MASK))
    assert [path for path, row in rows.items() if row.in_scope] == ["a/kernel"]
    assert rows["a/bias"].reason == "rank 1"
    assert rows["b/kernel"].reason == "no mask"
    bias_masked = {**MASK, "a": {"kernel": None, "bias": jnp.zeros(4, bool)}}
    assert jp.report(PARAMS, bias_masked).pruned.total == 4


def test_stray_weights():
    """Not zero although the mask does not keep them: 4 and 6 of the kernel."""
    report = jp.report(PARAMS, MASK)
    assert rows_of(report)["a/kernel"].stray == report.stray == 2
    assert jp.report(PARAMS).stray == 0
    assert "2 weights that the mask does not keep are not zero: call apply_mask" in str(report)
    applied = jp.report(jp.apply_mask(PARAMS, MASK), MASK)
    assert applied.stray == 0
    assert "apply_mask" not in str(applied)


def test_a_stray_nan_is_stray():
    weights = jnp.array([[1.0, jnp.nan], [jnp.inf, 1e-45]])
    assert jp.report(weights, jnp.zeros((2, 2), bool)).stray == 4


@pytest.mark.parametrize("spec", [0.5, jp.NM(2, 4), jp.Rows(0.5), jp.Block(0.3, (4, 4))], ids=str)
def test_what_was_achieved_is_what_the_mask_says(spec):
    weights = {"kernel": SHARED, "bias": jnp.ones(3)}
    pruned, mask = jp.prune(weights, spec)
    report = jp.report(pruned, mask)
    assert report.pruned.nonzero == int(mask["kernel"].sum())
    assert report.all.nonzero == report.pruned.nonzero + 3
    assert report.stray == 0
    assert jp.report(pruned) == report


# --- as text ------------------------------------------------------------------------------------


def test_the_table():
    lines = str(jp.report(PARAMS)).splitlines()
    cells = [re.split(r"  +", line) for line in lines]
    assert cells[0] == ["leaf", "shape", "dtype", "weights", "nonzero", "sparsity", "pattern"]
    assert set(lines[1]) == set(lines[6]) == {"-"}
    assert cells[2] == [
        "a/bias",
        "4",
        "float32",
        "4",
        "0",
        "100.00%",
        "all zero; left dense: rank 1",
    ]
    assert cells[3][:6] == ["a/kernel", "2x4", "float32", "8", "6", "25.00%"]
    assert cells[4][:6] == ["b/kernel", "2x2", "bfloat16", "4", "3", "25.00%"]
    assert cells[5] == ["step", "()", "int32", "-", "-", "-", "left dense: dtype int32"]
    assert cells[7] == ["pruned leaves", "12", "9", "25.00%", "40 bytes, packed 32"]
    assert cells[8] == ["all parameters", "16", "9", "43.75%", "56 bytes, packed 48"]
    assert all(line == line.rstrip() for line in lines)


def test_the_table_says_that_a_mask_makes_nothing_faster():
    last = str(jp.report(PARAMS)).splitlines()[-1]
    assert "mask by itself makes nothing smaller or faster" in last


def test_the_table_sets_thousands_apart_and_names_a_bare_array():
    table = str(jp.report(jnp.ones((1024, 2))))
    assert "2,048" in table
    assert "(array)" in table


def test_to_dict_is_json_and_says_what_the_report_says():
    report = jp.report(PARAMS, MASK)
    data = json.loads(json.dumps(report.to_dict()))
    assert data == report.to_dict()
    assert [row["path"] for row in data["rows"]] == [row.path for row in report.rows]
    for row, ours in zip(data["rows"], report.rows, strict=True):
        for field in ("dtype", "pattern", "in_scope", "reason", "stray"):
            assert row[field] == getattr(ours, field)
        assert row["shape"] == list(ours.shape)
        _same_count(row["count"], ours.count)
    _same_count(data["pruned"], report.pruned)
    _same_count(data["all"], report.all)
    assert data["stray"] == 2


def _same_count(data, count):
    if count is None:
        assert data is None
        return
    for field in ("total", "nonzero", "bytes_dense", "bytes_packed", "sparsity"):
        assert data[field] == getattr(count, field)


def test_the_reference_s_summaries():
    report = jp.report(PARAMS)
    assert rows_of(report)["a/kernel"].summary == (
        "tensor='a/kernel' shape=[2, 4] total=8 nonzero=6 sparsity=0.2500"
    )
    assert report.summary == "layers=3 total_params=16 total_nonzero=9 overall_sparsity=0.4375"


def test_a_summary_rounds_to_four_digits():
    weights = jnp.zeros((2, 3)).at[0, 0].set(1.0)
    assert jp.report({"w": weights}).rows[0].summary.endswith("total=6 nonzero=1 sparsity=0.8333")


def test_reports_are_values():
    report = jp.report(PARAMS)
    assert report == jp.report(PARAMS)
    assert report != jp.report(PARAMS, MASK)
    for value in (report, report.rows[0], report.all):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, dataclasses.fields(value)[0].name, None)


def test_a_report_of_a_sharded_model_is_that_of_one_device():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(
        jp.prune(SHARED, jp.NM(2, 4))[0], jax.NamedSharding(mesh, jax.P("x", None))
    )
    assert jp.report(spread) == jp.report(jax.device_get(spread))


# --- stats --------------------------------------------------------------------------------------


def check_stats(scores, rtol=2e-6):
    """Against NumPy's in float64: the order statistics exactly, the sums closely."""
    flat = np.concatenate(
        [np.asarray(s).astype(np.float64).ravel() for s in jax.tree.leaves(scores)]
    )
    found = jp.stats(scores)
    assert all(field.shape == () for field in found)
    assert (float(found.min), float(found.max)) == (flat.min(), flat.max())
    assert float(found.median) == np.median(flat).astype(found.median.dtype)
    # Subnormal numbers lie 2^-149 apart.
    close = max(rtol * np.abs(flat).max(), 2.0**-149)
    assert abs(float(found.mean) - flat.mean()) <= close
    assert abs(float(found.std) - flat.std()) <= close
    return found


@pytest.mark.parametrize("shape", [(), (1,), (2,), (9,), (3, 4, 5), (64, 64)], ids=str)
def test_stats_of_a_leaf(shape):
    """Sizes even and odd."""
    scores = jax.device_put(np.float32(np.random.default_rng(0).normal(size=shape)))
    found = check_stats(scores)
    chex.assert_trees_all_equal_dtypes(tuple(found), (jnp.float32(0),) * 5)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=100)
@example(values=[3e38, 3e38, -3e38, 3e38] * 2, odd=3e38)
@example(values=[2.0**-149] * 3 + [2.0**-130] * 5, odd=2.0**-126)
@given(
    values=st.lists(finite, min_size=8, max_size=8),
    odd=finite,
)
def test_stats_of_any_numbers(values, odd):
    check_stats(jnp.array(values, jnp.float32))
    check_stats(jnp.array([*values, odd], jnp.float32))
    check_stats({"a": jnp.array(values, jnp.float32), "b": jnp.float32(odd)})


def test_stats_of_a_tree_are_those_of_all_its_scores():
    rng = np.random.default_rng(0)
    tree = {"a": jax.device_put(np.float32(rng.normal(size=(4, 5)))), "b": [None, jnp.arange(7.0)]}
    found = check_stats(tree)
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    chex.assert_trees_all_close(found, jp.stats(flat), rtol=1e-6)
    with_empty = {**tree, "empty": jnp.ones((0, 3)), "step": jnp.int32(10**6)}
    chex.assert_trees_all_equal(jp.stats(with_empty), found)


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_stats_of_half_precision_are_float32(dtype):
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(50, 50)), dtype)
    found = check_stats(scores)
    assert {field.dtype.name for field in found} == {"float32"}


def test_stats_of_mixed_dtypes():
    rng = np.random.default_rng(0)
    draw = {"a": (F32, (5, 5)), "b": (BF16, (4, 4)), "c": (F16, (3,))}
    check_stats({name: jnp.asarray(rng.normal(size=s), d) for name, (d, s) in draw.items()})


def test_stats_under_x64(x64):
    with x64(True):
        double = jax.device_put(np.random.default_rng(0).normal(size=(5, 4)))
        found = check_stats(double, rtol=1e-14)
        assert {field.dtype.name for field in found} == {"float64"}
        mixed = check_stats({"a": double, "b": jnp.ones(3, jnp.float32)}, rtol=1e-14)
        assert mixed.mean.dtype == jnp.float64
        single = check_stats(double.astype(jnp.float32))
        assert single.mean.dtype == jnp.float32


def test_stats_under_jit_and_vmap():
    scores = jax.device_put(np.float32(np.random.default_rng(0).normal(size=(6, 5, 4))))
    eager = [jp.stats(one) for one in scores]
    jitted = [jax.jit(jp.stats)(one) for one in scores]
    mapped = jax.vmap(jp.stats)(scores)
    for i in range(6):
        for name in ("min", "max", "median"):
            assert getattr(eager[i], name) == getattr(jitted[i], name) == getattr(mapped, name)[i]
        chex.assert_trees_all_close(eager[i], jitted[i], rtol=1e-6)
        chex.assert_trees_all_close(eager[i], jax.tree.map(lambda f, i=i: f[i], mapped), rtol=1e-6)


def test_the_median_of_an_even_number_is_the_mean_of_the_two_in_the_middle():
    assert float(jp.stats(jnp.array([4.0, 1.0, 2.0, 9.0])).median) == 3.0
    assert (
        float(jp.stats({"a": jnp.array([4.0, 9.0]), "b": jnp.array([[1.0], [2.0]])}).median) == 3.0
    )
    assert float(jp.stats(jnp.array([3.0, 3.0, 3.0, 5.0])).median) == 3.0


def test_the_median_of_subnormal_scores_is_not_flushed_to_zero():
    """Half the scores of a small model's squares can be so small."""
    smallest = 2.0**-149
    scores = jax.device_put(np.array([2, 4, 6, 900], np.float32) * np.float32(smallest))
    found = jp.stats(scores)
    as_units = [int(np.asarray(f).view(np.int32)) for f in (found.min, found.median, found.max)]
    assert as_units == [2, 5, 900]
    assert int(np.asarray(jp.stats(scores[:3]).median).view(np.int32)) == 4


def test_stats_do_not_hide_a_nan():
    found = jp.stats(jnp.array([1.0, jnp.nan, -1.0]))
    assert float(found.min) == -1.0
    assert math.isnan(found.max)
    assert math.isnan(found.mean)
    assert math.isnan(found.std)


def test_stats_of_infinite_scores():
    found = jp.stats(jnp.array([-jnp.inf, jnp.inf, 2.0]))
    assert (float(found.min), float(found.median), float(found.max)) == (-math.inf, 2.0, math.inf)


def test_the_mean_of_many_scores_is_close():
    """A million numbers near one, added in a row in float32, would be off by a percent."""
    scores = 1 + np.random.default_rng(0).random((1000, 1000), np.float32) / 1000
    check_stats(jax.device_put(scores), rtol=1e-5)  # sums of 1000 that JAX 0.7 adds in a row


# --- top_scores ---------------------------------------------------------------------------------


def highest(scores, k):
    """By a stable sort in NumPy: NaN first, then the highest; among equals as they stand."""
    listed = [
        (path, index, float(value))
        for path, leaf in scores.items()
        for index, value in np.ndenumerate(oracle.exact(leaf))
    ]
    values = np.array([value for *_, value in listed])
    broken = np.isnan(values)
    order = np.lexsort((-np.where(broken, 0, values), ~broken))
    return [listed[i] for i in order[:k]]


def check_top(scores, k):
    found = jp.top_scores(scores, k)
    expected = highest(scores, k)
    assert [(top.path, top.index) for top in found] == [
        (path, index) for path, index, _ in expected
    ]
    np.testing.assert_array_equal([t.score for t in found], [value for *_, value in expected])


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
@settings(max_examples=25)
@given(
    kinds=st.tuples(*[st.sampled_from(sorted(oracle.KINDS))] * 2),
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 45),
)
def test_top_scores(dtype, kinds, seed, k):
    shapes = {"a": (5, 6), "b": (7,)}
    scores = {
        name: jax.device_put(oracle.hard_scores(kind, seed + i, shape, dtype))
        for i, (kind, (name, shape)) in enumerate(zip(kinds, shapes.items(), strict=True))
    }
    check_top(scores, k)


def test_top_scores_of_mixed_dtypes():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-5, 6, (4, 5)) for _ in range(2))
    for k in (1, 3, 20, 40):
        check_top(
            {"a": jnp.asarray(a, BF16), "b": jnp.asarray(b, F32), "c": jnp.asarray(a, F16)}, k
        )


def test_top_scores_among_equals_come_as_they_stand():
    found = jp.top_scores({"b": jnp.ones((2, 2)), "a": jnp.ones(2)}, 4)
    assert [(top.path, top.index) for top in found] == [
        ("a", (0,)),
        ("a", (1,)),
        ("b", (0, 0)),
        ("b", (0, 1)),
    ]
    zeros = jp.top_scores(jnp.array([-1.0, -0.0, 0.0, -0.0]), 3)
    assert [top.index for top in zeros] == [(1,), (2,), (3,)]


def test_more_top_scores_than_there_are():
    assert len(jp.top_scores(jnp.arange(6.0).reshape(2, 3), 100)) == 6
    assert len(jp.top_scores({"a": jnp.arange(3.0), "b": None, "c": jnp.arange(2)}, 100)) == 3


def test_top_scores_are_plain_values():
    (top,) = jp.top_scores({"w": jnp.float32(2.5)}, 1)
    assert top == jp.TopScore("w", (), 2.5)
    (top,) = jp.top_scores(jnp.array([[1.0, 2.0]], jnp.bfloat16), 1)
    assert (top.path, top.index, top.score) == ("", (0, 1), 2.0)
    assert {type(i) for i in top.index} == {int}
    assert type(top.score) is float


def test_what_survives_is_what_scores_highest():
    scores = jax.device_put(np.float32(np.random.default_rng(0).normal(size=(8, 12))))
    mask = np.asarray(jp.make_mask(scores, 0.75))
    assert {top.index for top in jp.top_scores(scores, 24)} == set(
        zip(*np.nonzero(mask), strict=True)
    )
