"""The reference mode: recorded answers to the bit, and fresh cases against a plain statement."""

import gzip
import itertools
import json
import math
import pathlib
from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxprune as jp
from jaxprune import compat

METRICS = ("l1_magnitude", "l2_magnitude", "taylor_proxy", "random")
GRANULARITIES = ("unstructured", "structured_row", "structured_column")

# --- the recorded cases -------------------------------------------------------------------------

GOLDEN = pathlib.Path(__file__).parent / "golden" / "reference_pruning.jsonl.gz"


def bits(values):
    """The hex of float32 bits, so that -0.0 is not 0.0 and NaN is NaN."""
    values = np.asarray(values)
    assert values.dtype == np.float32
    return values.astype(">f4").tobytes().hex()


def floats(text, shape=(-1,)):
    return np.frombuffer(bytes.fromhex(text), ">f4").astype(np.float32).reshape(shape)


def recorded():
    with gzip.open(GOLDEN, "rt") as lines:
        return [json.loads(line) for line in lines]


CASES = recorded()
ANSWERED = [case for case in CASES if "mask" in case]
x64_off_and_on = pytest.mark.parametrize("wide", [False, True], ids=["x64 off", "x64 on"])


def arguments(case):
    named = {name: case[name] for name in ("metric", "granularity", "min_nonzero")}
    return named | {"sparsity": floats(case["sparsity"])[0], "seed": int(case["seed"])}


def wrong(cases, check):
    """The cases in which a check found something, in a form that a person can look into."""
    found = []
    for number, case in enumerate(cases):
        complaint = check(case)
        if complaint:
            short = {k: v for k, v in case.items() if k not in ("data", "scores", "pruned", "mask")}
            found.append(f"case {number}: {complaint}\n{short}")
    return "\n".join(found)


def test_all_the_recorded_cases_are_here():
    assert len(CASES) == 401
    assert Counter(case.get("error", "mask").split("(")[0] for case in CASES) == {
        "mask": 278,
        "NotTwoDimensional": 56,
        "BelowMinNonzero": 47,
        "InvalidSparsity": 19,
        "EmptyTensor": 1,
    }


@x64_off_and_on
def test_recorded_scores(wide, x64):
    def check(case):
        data = floats(case["data"], case["shape"])
        scores = compat.importance(data, case["metric"], int(case["seed"]))
        return bits(scores) != case["scores"] and "scores"

    with x64(wide):
        assert not wrong(CASES, check)


@x64_off_and_on
def test_recorded_masks_and_weights(wide, x64):
    def check(case):
        data = floats(case["data"], case["shape"])
        pruned, mask = compat.prune(data, **arguments(case))
        assert mask.dtype == jnp.float32
        if pruned.shape != data.shape or mask.shape != data.shape:
            return "shape"
        if "".join(str(int(kept)) for kept in np.asarray(mask).ravel()) != case["mask"]:
            return "mask"
        return bits(pruned) != case["pruned"] and "weights"

    with x64(wide):
        assert not wrong(ANSWERED, check)


@x64_off_and_on
def test_recorded_errors(wide, x64):
    def check(case):
        name = case["error"].split("(")[0]
        try:
            compat.prune(floats(case["data"], case["shape"]), **arguments(case))
        except jp.PruningError as error:
            return type(error).__name__ != name and f"{type(error).__name__}, not {name}"
        return "no error"

    with x64(wide):
        assert not wrong([case for case in CASES if "error" in case], check)


def of_sizes(*sizes):
    """The recorded cases of few sizes: each takes a compilation."""
    return [case for case in CASES if math.prod(case["shape"]) in sizes]


def test_recorded_statistics():
    """Of the sizes that occur most, even and odd, and of the smallest."""
    _compare_statistics(of_sizes(1, 2, 3, 6, 12, 24, 27, 42, 120))


def test_recorded_statistics_under_x64(x64):
    with x64(True):
        _compare_statistics(of_sizes(24, 27))


def test_the_statistics_of_nothing_are_an_error_and_zeros_in_compat():
    (empty,) = [case for case in CASES if case["shape"] == [0]]
    values = floats(empty["scores"])
    with pytest.raises(jp.NoMatch, match="there are no scores"):
        jp.stats(jax.device_put(values))
    found = compat.scores(values).stats()
    assert {name: bits(value) for name, value in zip(empty["stats"], found, strict=True)} == (
        empty["stats"]
    )


def _compare_statistics(cases):
    """The cases of equal size at once: statistics do not look at the shape."""
    by_size = {}
    for case in cases:
        by_size.setdefault(math.prod(case["shape"]), []).append(case)
    for size in sorted(by_size.keys() - {0}):
        scores = np.stack([floats(case["scores"]) for case in by_size[size]])
        ours = jax.device_get(jax.jit(jax.vmap(jp.stats))(scores))
        for i, case in enumerate(by_size[size]):
            _compare(case, jax.tree.map(lambda field, i=i: field[i], ours))


def _compare(case, ours):
    theirs = {name: floats(text)[0] for name, text in case["stats"].items()}
    for name in ("min", "max", "median"):
        assert bits(getattr(ours, name)) == case["stats"][name], (name, case)
    # The reference adds up float32 in order, which loses more; what overflows there need not here.
    exact = floats(case["scores"]).astype(np.float64)
    close = 1e-5 * theirs["mean"] + np.finfo(np.float32).tiny
    if np.isfinite(theirs["mean"]):
        assert abs(ours.mean - theirs["mean"]) <= close, case
    else:
        assert np.isinf(ours.mean), case
    if np.isfinite(theirs["std_dev"]):
        assert abs(ours.std - theirs["std_dev"]) <= close, case
    elif np.isfinite(ours.std):
        np.testing.assert_allclose(ours.std, exact.std(), rtol=1e-5, err_msg=str(case))


def test_recorded_summaries():
    def check(case):
        pruned = jax.device_put(floats(case["pruned"], case["shape"]))
        (row,) = jp.report({"w": pruned}, where=jp.any_leaf).rows
        return row.summary != case["summary"] and row.summary

    # Each shape takes a compilation.
    assert not wrong(ANSWERED[::4], check)


# --- the reference, stated slowly ---------------------------------------------------------------


def stream(seed):
    """float32(state >> 32) / 2**32 of every state after the seed."""
    while True:
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        yield np.float32(seed >> 32) / np.float32(2**32)


def in_order(values):
    total = np.float32(0)
    for value in values:
        total = np.float32(total + value)
    return total


def element_scores(array, metric, seed):
    if metric == "random":
        drawn = list(itertools.islice(stream(seed), array.size))
        return np.array(drawn, np.float32).reshape(array.shape)
    return np.abs(array) if metric == "l1_magnitude" else array * array


def unit_scores(array, metric, seed):
    """One score for each row of `array`."""
    if metric == "random":
        return [next(stream(seed + unit)) for unit in range(len(array))]
    if metric == "l1_magnitude":
        return [in_order(np.abs(row)) for row in array]
    return [np.sqrt(in_order(row * row)) for row in array]


def lowest(scores, count):
    """The places of the `count` lowest scores, the lower place first among equals."""
    return sorted(range(len(scores)), key=lambda place: scores[place])[: max(0, count)]


def reference(array, *, sparsity, metric, granularity, min_nonzero, seed):
    """The pruned weights and the mask, or the name of the error."""
    sparsity = np.float32(sparsity)
    if not 0 <= sparsity < 1:
        return "InvalidSparsity"
    if not array.size:
        return "EmptyTensor"
    if granularity != "unstructured" and array.ndim != 2:
        return "NotTwoDimensional"
    if min_nonzero > array.size:
        return "BelowMinNonzero"
    if granularity == "unstructured":
        mask, units = np.ones(array.size, np.float32), array.size
        scores, held = element_scores(array, metric, seed).ravel(), min_nonzero
    else:
        across = array if granularity == "structured_row" else array.T
        mask, units = np.ones(across.shape, np.float32), len(across)
        scores, held = unit_scores(across, metric, seed), math.ceil(min_nonzero / across.shape[1])
    count = min(int(np.floor(sparsity * np.float32(units))), units - held)
    mask[lowest(scores, count)] = 0
    mask = mask.T if granularity == "structured_column" else mask.reshape(array.shape)
    return np.where(mask == 1, array, np.float32(0)), mask


@np.errstate(over="ignore", under="ignore")
def check(array, **case):
    expected = reference(array, **case)
    if isinstance(expected, str):
        with pytest.raises(getattr(jp, expected)):
            compat.prune(array, **case)
        return
    scores = compat.importance(array, case["metric"], case["seed"])
    assert bits(scores) == bits(element_scores(array, case["metric"], case["seed"]))
    pruned, mask = compat.prune(array, **case)
    np.testing.assert_array_equal(mask, expected[1])
    assert bits(pruned) == bits(expected[0])


# The statement itself must be right before anything is held against it.
@np.errstate(over="ignore", under="ignore")
def test_the_statement_agrees_with_the_recorded_cases():
    for case in CASES:
        answer = reference(floats(case["data"], case["shape"]), **arguments(case))
        if "error" in case:
            assert answer == case["error"].split("(")[0]
        else:
            assert (bits(answer[0]), "".join(str(int(kept)) for kept in answer[1].ravel())) == (
                case["pruned"],
                case["mask"],
            )


# --- fresh cases --------------------------------------------------------------------------------

# Few shapes: each is compiled once, and hundreds of cases run on it.
SHAPES = [(13,), (1, 9), (9, 1), (8, 12), (12, 8), (3, 4, 5)]


KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "ties": lambda rng, shape: rng.integers(-4, 5, shape) / 2,
    "zeros": lambda rng, shape: rng.choice([0.0, -0.0, 1.5, -0.5, 3.0], shape),
    # Subnormal numbers, and numbers whose squares are subnormal or nothing at all.
    "tiny": lambda rng, shape: rng.normal(size=shape) * 10.0 ** rng.integers(-45, -18, shape),
    # Numbers whose squares, or whose sums, overflow.
    "huge": lambda rng, shape: rng.normal(size=shape) * 10.0 ** rng.integers(15, 38, shape),
    "equal": lambda rng, shape: np.full(shape, rng.normal()),
    # Numbers apart by the last bit.
    "neighbours": lambda rng, shape: 1 + rng.integers(-2, 3, shape) * 2.0**-23,
}


def drawn(kind, seed, shape):
    return KINDS[kind](np.random.default_rng(seed), shape).astype(np.float32)


good_sparsities = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 0.95]) | st.floats(
    0, 1, width=32, exclude_max=True
)
bad_sparsities = st.sampled_from([-0.1, 1.0, 1.5, 0.99999999, math.nan, math.inf, -math.inf])
seeds = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**32, 2**63, 2**64 - 1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=60)
@given(
    kind=st.sampled_from(list(KINDS)),
    numpy_seed=st.integers(0, 2**32 - 1),
    sparsity=good_sparsities | good_sparsities | bad_sparsities,
    metric=st.sampled_from(METRICS),
    granularity=st.sampled_from(GRANULARITIES),
    min_nonzero=st.integers(0, 5) | st.integers(0, 100),
    seed=seeds,
)
def test_fresh_cases(shape, kind, numpy_seed, **case):
    check(drawn(kind, numpy_seed, shape), **case)


@settings(max_examples=20)
@given(
    kind=st.sampled_from(list(KINDS)),
    numpy_seed=st.integers(0, 2**32 - 1),
    sparsity=good_sparsities,
    metric=st.sampled_from(METRICS),
    granularity=st.sampled_from(GRANULARITIES),
    min_nonzero=st.integers(0, 5),
    seed=seeds,
)
def test_fresh_cases_under_x64(x64, kind, numpy_seed, **case):
    with x64(True):
        check(drawn(kind, numpy_seed, (8, 12)), **case)


@pytest.mark.parametrize("width", [12, 1000])
@pytest.mark.parametrize("metric", ["l1_magnitude", "l2_magnitude"])
@settings(max_examples=20)
@given(
    numpy_seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 1.0, 6.0]),
    sparsity=st.sampled_from([0.25, 0.5, 0.75]),
    columns=st.booleans(),
)
def test_structured_near_ties_are_told_apart_by_the_order_of_the_sum(
    width, metric, *, numpy_seed, spread, sparsity, columns
):
    """Units of the same weights in another order: only how their sums round on the way differs."""
    rng = np.random.default_rng(numpy_seed)
    weights = (rng.normal(size=width) * np.exp(spread * rng.normal(size=width))).astype(np.float32)
    rows = np.stack([rng.permutation(weights) for _ in range(8)])
    check(
        rows.T if columns else rows,
        sparsity=sparsity,
        metric=metric,
        granularity="structured_column" if columns else "structured_row",
        min_nonzero=1,
        seed=0,
    )


def test_near_ties_are_near():
    """What the test above draws: sums that differ, by a few units in the last place."""
    rng = np.random.default_rng(0)
    weights = np.abs(rng.normal(size=1000)).astype(np.float32)
    sums = [in_order(rng.permutation(weights)) for _ in range(8)]
    assert len(set(sums)) > 4
    assert np.ptp(sums) < 1e-5 * sums[0]


# --- what comes first, of several things that are wrong -----------------------------------------

SPARSITY, EMPTY, RANK, FLOOR = (
    "InvalidSparsity",
    "EmptyTensor",
    "NotTwoDimensional",
    "BelowMinNonzero",
)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("shape", [(0,), (3,), (0, 3), (2, 3), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("sparsity", [0.5, 1.0])
@pytest.mark.parametrize("min_nonzero", [1, 99])
def test_precedence_of_errors(granularity, shape, sparsity, min_nonzero):
    wrongs = [
        (SPARSITY, sparsity == 1),
        (EMPTY, 0 in shape),
        (RANK, len(shape) != 2 and granularity != "unstructured"),
        (FLOOR, min_nonzero == 99),
    ]
    first = next((name for name, applies in wrongs if applies), None)
    case = {"sparsity": sparsity, "granularity": granularity, "min_nonzero": min_nonzero}
    if first is None:
        pruned, mask = compat.prune(np.ones(shape, np.float32), **case)
        assert pruned.shape == mask.shape == shape
        return
    with pytest.raises(jp.PruningError) as caught:
        compat.prune(np.ones(shape, np.float32), **case)
    assert type(caught.value).__name__ == first


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ({"sparsity": 1.5}, jp.InvalidSparsity, r"fraction removed.*in \[0, 1\).*got 1\.5.*0\.9"),
        ({"sparsity": "0.5"}, jp.InvalidSparsity, "got '0.5'"),
        ({"array": np.ones((0, 3))}, jp.EmptyTensor, r"shape \(0, 3\).*no weights"),
        (
            {"array": np.ones(3), "granularity": "structured_row"},
            jp.NotTwoDimensional,
            r"structured_row needs a matrix.*\(3,\)",
        ),
        ({"min_nonzero": 7}, jp.BelowMinNonzero, r"min_nonzero=7.*6 weights"),
        ({"min_nonzero": -1}, jp.BelowMinNonzero, "integer of 0 or more.*got -1"),
        (
            {"metric": "l1"},
            jp.PruningError,
            "'l1_magnitude', 'l2_magnitude', 'taylor_proxy', 'random', got 'l1'",
        ),
        (
            {"granularity": "row"},
            jp.PruningError,
            "'unstructured', 'structured_row' or 'structured_column', got 'row'",
        ),
        ({"seed": -1}, jp.PruningError, r"integer in \[0, 2\*\*64\).*got -1"),
        ({"seed": 2**64}, jp.PruningError, r"\[0, 2\*\*64\).*got 18446744073709551616"),
        ({"seed": 2**64, "metric": "random"}, jp.PruningError, r"\[0, 2\*\*64\)"),
        ({"seed": 1.0}, jp.PruningError, r"\[0, 2\*\*64\).*got 1\.0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_errors_in_words(case, kind, words):
    with pytest.raises(kind, match=words) as caught:
        compat.prune(**{"array": np.ones((2, 3)), "sparsity": 0.5} | case)
    assert type(caught.value) is kind


# --- eager only, and said so --------------------------------------------------------------------


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("transform", [jax.jit, jax.vmap], ids=["jit", "vmap"])
def test_a_traced_tensor_is_refused_in_words(granularity, transform):
    def pruned(array):
        return compat.prune(array, sparsity=0.5, granularity=granularity)

    with pytest.raises(
        jp.PruningError, match=r"tracer.*call .*compat.* outside jit, vmap and scan"
    ):
        transform(pruned)(jnp.ones((2, 3, 4)))


@pytest.mark.parametrize("argument", ["sparsity", "min_nonzero", "seed"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_traced_number_is_refused_in_words(granularity, argument):
    def pruned(value):
        case = {"sparsity": 0.5, "granularity": granularity} | {argument: value}
        return compat.prune(np.ones((3, 4), np.float32), **case)

    value = 0.5 if argument == "sparsity" else 1
    with pytest.raises(jp.PruningError, match=r"tracer|known (before|when)"):
        jax.jit(pruned)(value)


def test_traced_scores_are_refused_in_words():
    with pytest.raises(jp.PruningError, match="tracer"):
        jax.jit(compat.importance)(jnp.ones(3))


# --- what comes in and what goes out ------------------------------------------------------------


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    "weights",
    [
        np.arange(-6.0, 6.0).reshape(3, 4),
        np.arange(-6, 6).reshape(3, 4),
        np.arange(-6.0, 6.0).reshape(4, 3).T,
        jnp.arange(-6.0, 6.0, dtype=jnp.bfloat16).reshape(3, 4),
        np.arange(-6.0, 6.0).reshape(3, 4).tolist(),
        np.arange(-12.0, 12.0)[::2].reshape(3, 4) / 3,
    ],
    ids=["float64", "integers", "transposed", "bfloat16", "lists", "needs rounding"],
)
def test_whatever_comes_is_taken_as_float32(granularity, weights):
    single = np.array(weights, np.float32, order="C")
    case = {"sparsity": 0.5, "granularity": granularity}
    found, expected = compat.prune(weights, **case), compat.prune(single, **case)
    chex.assert_trees_all_equal(found, expected)
    assert found[0].dtype == found[1].dtype == jnp.float32


def test_float64_weights_are_taken_as_float32_under_x64_too(x64):
    weights = np.random.default_rng(0).normal(size=(3, 4))
    with x64(True):
        pruned, mask = compat.prune(weights, sparsity=0.5)
    assert pruned.dtype == mask.dtype == jnp.float32
    assert bits(pruned) == bits(compat.prune(weights, sparsity=0.5)[0])


def test_defaults_are_the_reference_s():
    weights = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    check(
        weights,
        sparsity=0.5,
        metric="l1_magnitude",
        granularity="unstructured",
        min_nonzero=1,
        seed=0,
    )
    chex.assert_trees_all_equal(
        compat.prune(weights, sparsity=0.5),
        compat.prune(
            weights,
            sparsity=0.5,
            metric="l1_magnitude",
            granularity="unstructured",
            min_nonzero=1,
            seed=0,
        ),
    )
    assert bits(compat.importance(weights)) == bits(np.abs(weights))


def test_the_mask_has_no_third_value_and_pruned_weights_no_sign():
    weights = -np.ones((4, 6), np.float32)
    pruned, mask = compat.prune(weights, sparsity=0.5)
    assert set(np.asarray(mask).ravel().tolist()) == {0.0, 1.0}
    assert not np.signbit(np.asarray(pruned)[np.asarray(mask) == 0]).any()


def test_taylor_proxy_is_l2():
    weights = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    assert bits(compat.importance(weights, "taylor_proxy")) == bits(
        compat.importance(weights, "l2_magnitude")
    )


@settings(max_examples=30)
@given(seed=seeds, n=st.sampled_from([0, 1, 7, 64]))
def test_lcg(seed, n):
    values = np.array(list(itertools.islice(stream(seed), n)), np.float32)
    assert bits(compat.lcg(seed, n)) == bits(values)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", None])
def test_lcg_refuses_a_seed_outside_64_bits(seed):
    with pytest.raises(jp.PruningError, match=r"integer in \[0, 2\*\*64\)"):
        compat.lcg(seed, 3)


@pytest.mark.parametrize("n", [-1, 1.5, "3", None])
def test_lcg_refuses_a_number_of_values_that_is_none(n):
    with pytest.raises(jp.PruningError, match=f"got {n!r}"):
        compat.lcg(0, n)


@pytest.mark.parametrize("array", [None, "w", ["a", "b"], [[1.0], [1.0, 2.0]], {}], ids=repr)
def test_what_is_no_tensor_is_refused(array):
    with pytest.raises(jp.PruningError, match="expected one tensor of numbers, got"):
        compat.prune(array, sparsity=0.5)
    with pytest.raises(jp.PruningError, match="expected one tensor of numbers, got"):
        compat.importance(array)


# --- scores as an object, presets, reports ------------------------------------------------------


def test_scores_remember_their_metric_and_seed():
    scores = compat.scores([[1.0, -2.0]], "random", seed=7)
    assert (scores.metric, scores.seed) == ("random", 7)
    assert bits(scores.values) == bits(compat.importance([[1.0, -2.0]], "random", seed=7))
    assert compat.scores([1.0]).metric == "l1_magnitude"


@pytest.mark.parametrize(
    ("weights", "threshold", "fraction"),
    [
        ([0.0, -0.0, 1.0, -2.0], 0.0, 0.5),
        ([0.5, -1.0, 2.0, 4.0], 1.0, 0.5),
        ([0.5, -1.0, 2.0, 4.0], 0.99, 0.25),
        ([0.1, 0.2], 0.1, 0.5),  # which float64 and float32 round apart
        ([np.nan, np.inf, 1.0, 1.0], 9.0, 0.5),
        ([1.0, 2.0], -1.0, 0.0),
        ([1.0, 2.0], np.inf, 1.0),
        ([], 1.0, 0.0),
    ],
)
def test_the_fraction_of_scores_at_or_below_a_threshold(weights, threshold, fraction):
    assert compat.scores(np.array(weights)).sparsity(threshold) == fraction


def test_the_fraction_at_or_below_zero_is_the_default():
    assert compat.scores([0.0, 1.0, 2.0, 3.0]).sparsity() == 0.25


def test_top_k_of_scores():
    scores = compat.scores([[1.0, -5.0], [5.0, 2.0]])
    assert [(top.index, top.score) for top in scores.top_k(3)] == [
        ((0, 1), 5.0),
        ((1, 0), 5.0),
        ((1, 1), 2.0),
    ]
    assert len(scores.top_k(99)) == 4
    assert scores.top_k(0) == []
    assert compat.scores(np.zeros((0, 3))).top_k(2) == []
    with pytest.raises(jp.PruningError, match=r"k is a Python integer of 0 or more.*got -1"):
        scores.top_k(-1)


def test_statistics_of_scores():
    assert [float(number) for number in compat.scores([1.0, -3.0]).stats()] == [1, 3, 2, 2, 1]


def test_presets_are_arguments_of_prune():
    weights = np.array([[3.0, -1.0, 2.5], [0.5, -4.0, 1.0]])
    for preset, metric, granularity in (
        (compat.unstructured_l1(0.5), "l1_magnitude", "unstructured"),
        (compat.structured_row_l2(0.5), "l2_magnitude", "structured_row"),
    ):
        expected = compat.prune(weights, sparsity=0.5, metric=metric, granularity=granularity)
        chex.assert_trees_all_equal(compat.prune(weights, **preset), expected)


@pytest.mark.parametrize("preset", [compat.unstructured_l1, compat.structured_row_l2])
def test_presets_refuse_what_is_not_a_sparsity(preset):
    with pytest.raises(jp.InvalidSparsity, match=r"got 1\.0"):
        preset(1.0)


def test_a_report_counts_vectors_and_biases():
    report = compat.report({"bias": jnp.zeros(3), "w": jnp.array([0.0, 2.0])})
    assert report.summary == "layers=2 total_params=5 total_nonzero=1 overall_sparsity=0.8000"
    with pytest.raises(jp.NoMatch):
        jp.report({"bias": jnp.zeros(3), "w": jnp.array([0.0, 2.0])})
