"""Masks: every spec against the oracle, the leaves a rule reaches, and what is done with masks."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import jaxprune as jp
from tests import oracle

F32, BF16, F16, F64 = (np.dtype(t) for t in (np.float32, jnp.bfloat16, np.float16, np.float64))

kinds, seeds = st.sampled_from(list(oracle.KINDS)), st.integers(0, 2**32 - 1)
sparsities = st.floats(0, 1, width=32, exclude_max=True) | st.sampled_from([0.0, 0.1, 0.5, 0.9])


def check(spec, scores):
    """The mask of a bare array is the oracle's."""
    found = jp.make_mask(jax.device_put(scores), spec)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, oracle.mask(spec, scores))


def whole_numbers(seed, shape, dtype=F32):
    """Scores whose sums are exact in any order, with ties among them."""
    return np.random.default_rng(seed).integers(-4, 9, shape).astype(dtype)


# --- one weight at a time -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
@pytest.mark.parametrize("shape", [(), (7,), (6, 9), (4, 3, 5)], ids=str)
@settings(max_examples=25)
@given(kind=kinds, seed=seeds, sparsity=sparsities, floor=st.integers(0, 7))
def test_unstructured_leaf(shape, dtype, *, kind, seed, sparsity, floor):
    scores = oracle.hard_scores(kind, seed, shape, dtype)
    check(jp.Unstructured(sparsity, min_nonzero=min(floor, scores.size)), scores)


@pytest.mark.parametrize(
    ("shape", "per"),
    [
        ((6, 9), 0),
        ((6, 9), 1),
        ((6, 9), -1),
        ((6, 9), "output"),
        ((6, 9), "input"),
        ((4, 3, 5), 0),
        ((4, 3, 5), -2),
        ((4, 3, 5), -1),
        ((7,), 0),
    ],
    ids=str,
)
@settings(max_examples=25)
@given(kind=kinds, seed=seeds, sparsity=sparsities, floor=st.integers(0, 6))
def test_unstructured_per_axis(shape, per, *, kind, seed, sparsity, floor):
    scores = oracle.hard_scores(kind, seed, shape, F32)
    group = scores.size // shape[{"input": -2, "output": -1}.get(per, per)]
    check(jp.Unstructured(sparsity, per=per, min_nonzero=min(floor, group)), scores)


@given(seed=seeds, sparsity=sparsities)
def test_unstructured_float64(seed, sparsity, x64):
    scores = oracle.hard_scores("neighbours", seed, (6, 9), F64)
    with x64(True):
        for per in ("leaf", "global", 0):
            check(jp.Unstructured(sparsity, per=per), scores)
        check(jp.NM(1, 3), scores)


@pytest.mark.parametrize(
    ("n", "m", "axis"),
    [
        (2, 4, -1),
        (2, 4, -2),
        (2, 4, 0),
        (2, 4, None),
        (1, 1, -1),
        (4, 4, -1),
        (1, 4, -1),
        (3, 4, 1),
        (5, 8, None),
        (8, 16, None),
        (3, 32, None),
    ],
)
@settings(max_examples=25)
@given(kind=kinds, seed=seeds)
def test_n_of_m(n, m, axis, kind, seed):
    check(jp.NM(n, m, axis=axis), oracle.hard_scores(kind, seed, (4, 8, 12), F32))


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@given(kind=kinds, seed=seeds)
def test_n_of_m_in_half_precision(dtype, kind, seed):
    check(jp.NM(2, 4), oracle.hard_scores(kind, seed, (4, 8), dtype))


@pytest.mark.parametrize("m", [64, 128, 200])
def test_n_of_m_of_wide_groups(m):
    for kind in ("ties", "any bits", "half zeros"):
        check(jp.NM(m // 2, m), oracle.hard_scores(kind, m, (3, 2 * m), F32))


def test_n_of_m_keeps_the_lower_index_of_equals_where_budgets_prune_it():
    equal = jnp.ones(4)
    np.testing.assert_array_equal(jp.make_mask(equal, jp.NM(2, 4)), [1, 1, 0, 0])
    np.testing.assert_array_equal(jp.make_mask(equal, jp.Unstructured(0.5)), [0, 0, 1, 1])
    np.testing.assert_array_equal(jp.make_mask(equal, jp.Channels(0.5)), [0, 0, 1, 1])


# --- whole units --------------------------------------------------------------------------------

REDUCES = ("sum", "mean", "l2", "max")
UNITS = [
    ("Rows", (6, 9), {}),
    ("Columns", (6, 9), {}),
    ("Channels", (6, 9), {"axis": -2}),
    ("Channels", (4, 3, 5), {"axis": 0}),
    ("Channels", (4, 3, 5), {"axis": 1}),
    ("Channels", (7,), {}),
    ("Block", (6, 12), {"shape": (2, 3)}),
    ("Block", (6, 12), {"shape": (1, 12)}),
    ("Block", (2, 3, 4, 6), {"shape": (2, 2)}),
]


# Each shape with two ways to score its units, and each kind of spec with all four.
@pytest.mark.parametrize(
    ("name", "shape", "options", "reduce"),
    [(*unit, reduce) for i, unit in enumerate(UNITS) for reduce in REDUCES[i % 2 :: 2]],
    ids=str,
)
@settings(max_examples=20)
@given(seed=seeds, sparsity=sparsities, floor=st.integers(0, 7))
def test_whole_units(name, shape, options, reduce, *, seed, sparsity, floor):
    spec = getattr(jp, name)(sparsity, reduce=reduce, min_nonzero=floor, **options)
    check(spec, whole_numbers(seed, shape))


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("reduce", REDUCES)
@settings(max_examples=15)
@given(seed=seeds)
def test_units_of_half_precision_are_summed_in_float32(reduce, dtype, seed):
    # 300 ones: bfloat16 would lose count at 256, and float16 could not square 400.
    scores = np.ones((4, 300), dtype)
    scores[:, 0] = np.random.default_rng(seed).permutation([1, 2, 3, 400])
    check(jp.Rows(0.5, reduce=reduce), scores)


@pytest.mark.parametrize("name", ["Rows", "Columns"])
@example(kind="subnormal", seed=1, sparsity=0.5)
@given(kind=kinds, seed=seeds, sparsity=sparsities)
def test_the_highest_score_of_a_unit_ranks_it_to_the_bit(name, kind, seed, sparsity):
    check(getattr(jp, name)(sparsity, reduce="max"), oracle.hard_scores(kind, seed, (6, 9), F32))


@pytest.mark.parametrize("reduce", REDUCES)
def test_a_unit_that_holds_a_nan_is_kept(reduce):
    scores = np.full((4, 6), 100, F32)
    scores[2, 3] = np.nan
    for spec in (jp.Rows(0.75, reduce=reduce), jp.Block(0.8, (2, 3), reduce=reduce)):
        mask = jp.make_mask(jax.device_put(scores), spec)
        assert mask[2, 3]
        check(spec, scores)


@pytest.mark.parametrize("reduce", REDUCES)
def test_a_unit_of_subnormal_scores_outranks_one_of_zeros(reduce):
    scores = np.zeros((4, 1), F32)
    scores[1] = 1e-44
    mask = jp.make_mask(jax.device_put(scores), jp.Rows(0.75, reduce=reduce))
    np.testing.assert_array_equal(mask[:, 0], [False, True, False, False])


# --- one budget over a tree ---------------------------------------------------------------------

SHAPES = [(6, 9), (1, 4), (4, 3, 5)]


def check_tree(spec, scores):
    total = sum(s.size for s in scores)
    if oracle.pruned_count(spec.sparsity, total) > total - spec.min_nonzero * len(scores):
        with pytest.raises(jp.BelowMinNonzero, match=r"global budget .* cannot be met"):
            jp.make_mask([jax.device_put(s) for s in scores], spec)
        return
    found = jp.make_mask([jax.device_put(s) for s in scores], spec)
    chex.assert_trees_all_equal([np.asarray(m) for m in found], oracle.masks(spec, scores))


@given(kind=kinds, seed=seeds, sparsity=sparsities, floor=st.integers(0, 4))
def test_a_global_budget_takes_the_lowest_and_respects_the_floor(kind, seed, sparsity, floor):
    scores = [oracle.hard_scores(kind, seed + i, s, F32) for i, s in enumerate(SHAPES)]
    check_tree(jp.Unstructured(sparsity, per="global", min_nonzero=floor), scores)


@given(seed=seeds, sparsity=sparsities, floor=st.integers(0, 4))
def test_a_global_budget_hands_on_what_a_leaf_at_its_floor_cannot_give(seed, sparsity, floor):
    scores = [
        oracle.hard_scores("normal", seed, s, F32) ** 2 * 100.0**i for i, s in enumerate(SHAPES)
    ]
    scores = [s.astype(F32) for s in scores]
    spec = jp.Unstructured(sparsity, per="global", min_nonzero=floor)
    check_tree(spec, scores)
    total = sum(s.size for s in scores)
    assume(oracle.pruned_count(sparsity, total) <= total - floor * len(scores))
    kept = [int(np.sum(m)) for m in jp.make_mask([jax.device_put(s) for s in scores], spec)]
    assert min(kept) >= floor
    assert total - sum(kept) == oracle.pruned_count(sparsity, total, floor * len(scores))


@pytest.mark.parametrize("dtypes", [(BF16, F16, F32), (BF16, F16, BF16)], ids=str)
@given(kind=kinds, seed=seeds, sparsity=sparsities)
def test_a_global_budget_compares_dtypes_by_value(dtypes, kind, seed, sparsity):
    shapes_and_dtypes = enumerate(zip(SHAPES, dtypes, strict=True))
    scores = [oracle.hard_scores(kind, seed + i, s, t) for i, (s, t) in shapes_and_dtypes]
    check_tree(jp.Unstructured(sparsity, per="global"), scores)


def test_equals_under_a_global_budget_go_leaf_by_leaf():
    tree = {"b": jnp.ones((2, 2)), "a": jnp.ones((2, 2)), "c": jnp.ones((2, 2))}
    mask = jp.make_mask(tree, jp.Unstructured(0.5, per="global"))
    assert {name: int(m.sum()) for name, m in mask.items()} == {"a": 1, "b": 1, "c": 4}


def test_rules_with_a_global_budget_do_not_share_it():
    tree = {"low": jnp.ones((4, 4)), "high": jnp.full((4, 4), 9.0)}
    each = jp.Unstructured(0.5, per="global")
    mask = jp.make_mask(tree, {"low": each, "high": each})
    assert {name: int(m.sum()) for name, m in mask.items()} == {"low": 8, "high": 8}


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.7, 0.9, 0.99, 1 / 3, 0.9999999])
@pytest.mark.parametrize("size", [1, 2, 3, 10, 100, 1000])
def test_the_count_is_the_floor_of_a_float32_product(sparsity, size):
    mask = jp.make_mask(jnp.arange(float(size)), jp.Unstructured(sparsity))
    expected = min(int(np.floor(np.float32(sparsity) * np.float32(size))), size - 1)
    assert size - int(mask.sum()) == expected


def test_a_leaf_of_more_than_two_to_the_24_weights_loses_the_float32_count():
    scores = jnp.broadcast_to(jnp.arange(4099, dtype=jnp.bfloat16)[:, None], (4099, 4096))
    mask = jp.make_mask(scores, jp.Unstructured(0.7))
    expected = oracle.pruned_count(0.7, 4099 * 4096)
    assert 4099 * 4096 - np.count_nonzero(mask) == expected


# --- which leaves, by which rule ----------------------------------------------------------------


def model():
    def layer(start):
        kernel = (start + jnp.arange(32.0)).reshape(4, 8)
        return {"kernel": kernel, "bias": jnp.zeros(8), "step": jnp.int32(3)}

    return {
        "encoder": {"dense_0": layer(0.0), "dense_1": layer(10.0)},
        "head": layer(-5.0),
    }


def removed(mask):
    """{path: weights removed} of the leaves that have a mask."""
    found, _ = jax.tree_util.tree_flatten_with_path(mask)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): int((~m).sum()) for path, m in found
    }


HALF, MOST, ONE_OF_FOUR = jp.Unstructured(0.5), jp.Unstructured(0.75), jp.NM(1, 4)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param(
            {"*/kernel": HALF},
            {"encoder/dense_0/kernel": 16, "encoder/dense_1/kernel": 16, "head/kernel": 16},
            id="a star crosses slashes",
        ),
        pytest.param(
            {"encoder/dense_0/kernel": MOST, "*": HALF},
            {"encoder/dense_0/kernel": 24, "encoder/dense_1/kernel": 16, "head/kernel": 16},
            id="the first match wins",
        ),
        pytest.param(
            {"encoder": HALF},
            {"encoder/dense_0/kernel": 16, "encoder/dense_1/kernel": 16},
            id="a subtree is covered by its own path",
        ),
        pytest.param(
            {"*/dense_?": MOST, "head": ONE_OF_FOUR},
            {"encoder/dense_0/kernel": 24, "encoder/dense_1/kernel": 24, "head/kernel": 24},
            id="a pattern covers subtrees",
        ),
        pytest.param(
            {re.compile(r".*/dense_[1-9]\d*"): HALF},
            {"encoder/dense_1/kernel": 16},
            id="a regular expression covers subtrees",
        ),
        pytest.param(
            {re.compile(r".*kernel"): MOST},
            {"encoder/dense_0/kernel": 24, "encoder/dense_1/kernel": 24, "head/kernel": 24},
            id="a regular expression matches whole paths",
        ),
        pytest.param(
            {"head": None, "*": HALF},
            {"encoder/dense_0/kernel": 16, "encoder/dense_1/kernel": 16},
            id="None leaves dense",
        ),
        pytest.param({"head": 0.25}, {"head/kernel": 8}, id="a sparsity is short for a spec"),
        pytest.param(
            {"encoder": {"dense_1": HALF, "dense_0": None}, "head": MOST},
            {"encoder/dense_1/kernel": 16, "head/kernel": 24},
            id="a tree of specs is a prefix",
        ),
        pytest.param(
            {"encoder": HALF, "head": {"kernel": ONE_OF_FOUR, "bias": None, "step": None}},
            {"encoder/dense_0/kernel": 16, "encoder/dense_1/kernel": 16, "head/kernel": 24},
            id="a prefix may reach the leaves",
        ),
        pytest.param(
            jp.Unstructured(0.5),
            {"encoder/dense_0/kernel": 16, "encoder/dense_1/kernel": 16, "head/kernel": 16},
            id="one spec for all",
        ),
    ],
)
def test_rules(rules, expected):
    assert removed(jp.make_mask(jp.importance(model(), jp.L1()), rules)) == expected


def test_a_list_of_specs_is_a_tree_of_specs():
    tree = [jnp.ones((4, 4)), (jnp.ones((4, 4)), jnp.ones((2, 4)))]
    mask = jp.make_mask(tree, [jp.Unstructured(0.5), (None, jp.NM(1, 4))])
    assert removed(mask) == {"0": 8, "1/1": 6}
    mask = jp.make_mask(tree, [None, jp.Unstructured(0.25)])
    assert removed(mask) == {"1/0": 4, "1/1": 2}


def test_a_full_match_is_needed():
    with pytest.raises(jp.NoMatch, match="the pattern 'kernel' matches no leaf and no subtree"):
        jp.make_mask(model(), {"kernel": HALF})
    with pytest.raises(jp.NoMatch, match="'dense_0' matches no leaf"):
        jp.make_mask(model(), {re.compile("dense_0"): HALF, "*": HALF})


def test_a_rule_that_earlier_ones_leave_nothing_is_refused():
    words = "the rule 'head' changes none .*taken by an earlier rule.*Write it before the rules"
    with pytest.raises(jp.NoMatch, match=words):
        jp.make_mask(model(), {"*": HALF, "head": MOST})


def test_all_idle_rules_are_named_in_one_error():
    with pytest.raises(jp.NoMatch) as caught:
        jp.make_mask(model(), {"decoder": HALF, "*": HALF, "tail": MOST})
    assert "'decoder'" in str(caught.value)
    assert "'tail'" in str(caught.value)


def test_where_and_rules_both_choose():
    rules = {"encoder": HALF, "head": MOST}
    mask = jp.make_mask(model(), rules, where=["*/dense_1", "head/kernel"])
    assert removed(mask) == {
        "encoder/dense_1/kernel": 16,
        "encoder/dense_1/bias": 4,
        "head/kernel": 24,
    }
    mask = jp.make_mask(model(), HALF, where=lambda path, leaf: path.endswith("bias"))
    assert removed(mask) == {
        "encoder/dense_0/bias": 4,
        "encoder/dense_1/bias": 4,
        "head/bias": 4,
    }


def test_a_mask_has_the_tree_of_its_scores_and_none_where_a_leaf_is_dense():
    mask = jp.make_mask(model(), HALF)
    hole = {"kernel": True, "bias": None, "step": None}
    is_mask = jax.tree.map(lambda m: m.dtype == bool, mask)
    assert is_mask == {"encoder": {"dense_0": hole, "dense_1": hole}, "head": hole}


# --- applying -----------------------------------------------------------------------------------


# The backend may rewrite the payload of a bfloat16 NaN: bfloat16 is compared as values below.
@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
@given(kind=kinds, seed=seeds)
def test_apply_mask_zeroes_what_is_not_kept_and_no_other_bit(dtype, kind, seed):
    bits = np.dtype(f"uint{8 * dtype.itemsize}")
    weights = oracle.hard_scores(kind, seed, (5, 7), dtype)
    mask = np.random.default_rng(seed).random((5, 7)) < 0.5
    found = jp.apply_mask(jax.device_put(weights), jax.device_put(mask))
    assert found.dtype == dtype
    expected = np.where(mask, weights.view(bits), bits.type(0))  # the bits of 0.0, not of -0.0
    np.testing.assert_array_equal(np.asarray(found).view(bits), expected)


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_apply_mask_keeps_every_half_precision_float_to_the_bit(dtype):
    weights = np.arange(2**16, dtype=np.uint16).view(dtype)
    found = jp.apply_mask(jax.device_put(weights), jnp.ones(2**16, bool))
    same = np.asarray(found).view(np.uint16) == weights.view(np.uint16)
    assert (same | np.isnan(weights.astype(np.float32))).all()


def test_apply_mask_keeps_float64(x64):
    with x64(True):
        found = jp.apply_mask(jnp.array([[1e-310, -2.0]]), jnp.array([[True, False]]))
        assert found.dtype == F64
        assert np.asarray(found).tolist() == [[1e-310, 0.0]]


def test_apply_mask_keeps_the_type_of_a_weakly_typed_array():
    weak = jax.lax.broadcast(jnp.asarray(3.0), (2, 2))
    assert weak.weak_type
    pruned = jp.apply_mask(weak, jnp.array([[True, False]] * 2))
    assert (pruned.dtype, pruned.weak_type) == (weak.dtype, weak.weak_type)
    assert (pruned + jnp.ones((2, 2), jnp.bfloat16)).dtype == jnp.bfloat16


def test_apply_mask_leaves_holes_alone_and_takes_numpy_arrays():
    bias = np.ones(3, F32)
    params = {"kernel": np.array([[1, np.nan], [-3, 4]], F32), "bias": bias, "step": 7}
    mask = {"kernel": np.array([[True, False], [False, True]]), "bias": None, "step": None}
    found = jp.apply_mask(params, mask)
    assert found["bias"] is bias
    assert found["step"] == 7
    np.testing.assert_array_equal(found["kernel"], [[1, 0], [0, 4]])
    assert not np.signbit(found["kernel"]).any()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"kernel": np.ones((2, 2), bool)}, "missing `bias`, unexpected none"),
        (
            {"kernel": np.ones((2, 2), bool), "bias": None, "scale": None},
            "missing none, unexpected `scale`",
        ),
        (
            {"kernel": np.ones((2, 3), bool), "bias": None},
            r"`kernel` has shape \(2, 2\), and its mask \(2, 3\)",
        ),
        ({"kernel": np.ones((2, 2), F32), "bias": None}, "`kernel` has a mask of dtype float32"),
        ({"kernel": True, "bias": None}, "`kernel` has a mask of bool, expected bool"),
    ],
    ids=["missing", "unexpected", "shape", "dtype", "scalar"],
)
def test_a_mask_that_does_not_fit_is_refused(mask, words):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    with pytest.raises(jp.StructureMismatch, match=words):
        jp.apply_mask(params, mask)


def test_prune_is_importance_then_make_mask_then_apply_mask():
    params = model()
    for spec, metric in [(0.5, jp.L1()), (jp.NM(2, 4), jp.Random(jax.random.key(1)))]:
        pruned, mask = jp.prune(params, spec, metric=metric)
        expected = jp.make_mask(jp.importance(params, metric), spec)
        chex.assert_trees_all_equal(mask, expected)
        chex.assert_trees_all_equal(pruned, jp.apply_mask(params, expected))
        assert pruned["head"]["bias"] is params["head"]["bias"]
    pruned, mask = jp.prune(params, 0.5, where="head/*")
    assert removed(mask) == {"head/kernel": 16, "head/bias": 4}


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
@given(kind=kinds, seed=seeds)
def test_mask_from_zeros_keeps_all_but_zeros_of_both_signs(dtype, kind, seed):
    weights = oracle.hard_scores(kind, seed, (5, 7), dtype)
    found = jp.mask_from_zeros({"kernel": jax.device_put(weights), "bias": jnp.zeros(3)})
    assert found["bias"] is None
    np.testing.assert_array_equal(found["kernel"], oracle.exact(weights) != 0)


def test_mask_from_zeros_takes_over_the_mask_of_a_pruned_model():
    params = jax.tree.map(lambda leaf: leaf + 100, model())
    pruned, mask = jp.prune(params, {"encoder": jp.Rows(0.5), "head": jp.NM(2, 4)})
    chex.assert_trees_all_equal(jp.mask_from_zeros(pruned), mask)


# --- packing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (8,), (9,), (3, 1), (3, 13), (2, 3, 16), (5, 0), (0, 5)], ids=str
)
@settings(max_examples=10)
@given(seed=seeds)
def test_pack_and_unpack_return_the_mask(shape, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.5
    packed = jp.pack(jax.device_put(mask))
    assert packed.dtype == jnp.uint8
    *lead, last = shape or (1,)
    assert packed.shape == (*lead, -(-last // 8))
    found = jp.unpack(packed, jnp.zeros(shape))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


def test_pack_sets_a_bit_a_weight_the_first_one_highest():
    mask = jnp.array([[1, 0, 0, 0, 0, 0, 0, 1, 1, 1]], bool)
    np.testing.assert_array_equal(jp.pack(mask), [[0b10000001, 0b11000000]])


def test_pack_and_unpack_keep_holes():
    params = model()
    mask = jp.make_mask(params, HALF)
    packed = jp.pack(mask)
    assert packed["head"]["bias"] is None
    chex.assert_trees_all_equal(jp.unpack(packed, params), mask)


def test_pack_and_unpack_run_under_jit():
    params = model()
    mask = jp.make_mask(params, HALF)
    round_trip = jax.jit(lambda mask: jp.unpack(jp.pack(mask), params))
    chex.assert_trees_all_equal(round_trip(mask), mask)


def test_packing_what_is_no_mask_is_refused():
    with pytest.raises(jp.StructureMismatch, match=r"a mask of dtype uint8.*unpack it"):
        jp.pack({"kernel": jnp.ones((2, 2), jnp.uint8)})


@pytest.mark.parametrize(
    "packed",
    [jnp.ones((2, 2), jnp.uint8), jnp.ones((3, 1), jnp.uint8), jnp.ones((2, 1), bool)],
    ids=["too long", "too high", "not packed"],
)
def test_unpacking_what_does_not_fit_is_refused(packed):
    words = r"`kernel`: expected uint8 of shape \(2, 1\), got"
    with pytest.raises(jp.StructureMismatch, match=words):
        jp.unpack({"kernel": packed}, {"kernel": jnp.ones((2, 8))})
