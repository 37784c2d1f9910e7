"""Metrics: what a weight scores, to the bit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxprune as jp
from tests import oracle

F32, BF16, F16, F64 = (np.dtype(t) for t in (np.float32, jnp.bfloat16, np.float16, np.float64))

kinds, seeds = st.sampled_from(list(oracle.KINDS)), st.integers(0, 2**32 - 1)
squares = pytest.mark.parametrize(
    "metric", [jp.L2(), jp.TaylorProxy()], ids=lambda m: type(m).__name__
)


def assert_same_bits(found, expected):
    """Equal dtypes and bits; of a NaN only that it is one."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    broken = np.isnan(oracle.exact(expected))
    np.testing.assert_array_equal(np.isnan(oracle.exact(found)), broken)
    bits = f"uint{8 * found.dtype.itemsize}"
    np.testing.assert_array_equal(found.view(bits)[~broken], expected.view(bits)[~broken])


def every_half(dtype):
    return np.arange(2**16, dtype=np.uint16).view(dtype)


def every_exponent():
    """float32 of both signs: each of the 256 exponents with 64 mantissas, odd ones among them."""
    rng = np.random.default_rng(0)
    mantissas = rng.integers(0, 2**23, (256, 64), np.uint32)
    mantissas[:, :6] = [0, 1, 2, 2**22, 2**23 - 1, 0x3504F3]  # the last: the square root of two
    bits = (np.arange(256, dtype=np.uint32)[:, None] << 23) | mantissas
    return np.concatenate([bits, bits | np.uint32(2**31)]).view(F32)


def squared(values, dtype):
    with np.errstate(all="ignore"):
        wide = values.astype(dtype)
        return wide * wide


# --- magnitude ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_l1_of_every_half_precision_float_is_its_magnitude(dtype):
    values = every_half(dtype)
    expected = (values.view(np.uint16) & 0x7FFF).view(dtype)
    assert_same_bits(jp.importance(jax.device_put(values), jp.L1()), expected)


def test_l1_of_every_float32_exponent_is_its_magnitude():
    values = every_exponent()
    expected = (values.view(np.uint32) & 0x7FFFFFFF).view(F32)
    assert_same_bits(jp.importance(jax.device_put(values), jp.L1()), expected)


def test_l1_keeps_float64(x64):
    with x64(True):
        found = jp.importance(jnp.array([-1e-310, 2.0]), jp.L1())
        assert_same_bits(found, np.array([1e-310, 2.0]))


# --- squares ------------------------------------------------------------------------------------


@squares
def test_the_square_of_every_float32_exponent_is_the_rounded_one(metric):
    values = every_exponent()
    expected = squared(values, F32)
    subnormal = (expected > 0) & (expected < np.finfo(F32).tiny)
    assert subnormal.sum() > 1000  # what a backend that flushes would lose
    assert_same_bits(jp.importance(jax.device_put(values), metric), expected)


@given(kind=kinds, seed=seeds)
def test_the_square_of_a_float32_is_the_rounded_one(kind, seed):
    values = oracle.hard_scores(kind, seed, (40,), F32)
    assert_same_bits(jp.importance(jax.device_put(values), jp.L2()), squared(values, F32))


@given(exponent=st.integers(-76, -62), seed=seeds)
def test_a_subnormal_square_rounds_half_to_even(exponent, seed):
    # Mantissas of few bits have squares that lie halfway between two subnormal numbers.
    mantissas = np.random.default_rng(seed).integers(0, 2**12, 40) * 2.0**-12 + 1
    values = (mantissas * 2.0**exponent).astype(F32)
    assert_same_bits(jp.importance(jax.device_put(values), jp.L2()), squared(values, F32))


@squares
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_the_square_of_every_half_precision_float_is_taken_in_float32(dtype, metric):
    values = every_half(dtype)
    assert_same_bits(jp.importance(jax.device_put(values), metric), squared(values, F32))


def test_the_square_of_a_float16_is_exact():
    values = every_half(F16)
    values = values[np.isfinite(values)]
    found = np.asarray(jp.importance(jax.device_put(values), jp.L2()))
    np.testing.assert_array_equal(found.astype(F64), values.astype(F64) ** 2)


def test_the_square_of_a_float64_is_the_rounded_one(x64):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(64, 41)) * 2.0 ** np.arange(-500, 525, 25)
    with x64(True):
        assert_same_bits(jp.importance(jax.device_put(values), jp.L2()), squared(values, F64))


def test_subnormal_squares_of_float64_keep_their_order(x64):
    values = np.array([1e-158, 2e-160, 0.0, 3e-161, 1e-157])
    with x64(True):
        assert_same_bits(jp.importance(jax.device_put(values), jp.L2()), squared(values, F64))


def test_squares_have_the_same_bits_under_x64(x64):
    values = every_exponent()
    with x64(True):
        found = jp.importance(jax.device_put(values), jp.L2())
        assert_same_bits(found, squared(values, F32))


@pytest.mark.parametrize("metric", [jp.L1(), jp.L2()], ids=["L1", "L2"])
def test_scores_have_the_same_bits_under_jit_beside_other_work(metric):
    values = jax.device_put(every_exponent())

    @jax.jit
    def fused(values):
        scores = jp.importance(values, metric)
        return scores, jnp.sum(scores), scores + values * values

    assert_same_bits(fused(values)[0], jp.importance(values, metric))


# --- random -------------------------------------------------------------------------------------


def layers(*names):
    return {name: {"kernel": jnp.ones((16, 8)), "bias": jnp.ones(8)} for name in names}


def test_random_scores_are_independent_of_each_other_between_leaves():
    scores = jp.importance(layers("a", "b"), jp.Random(jax.random.key(0)))
    flat = np.concatenate([np.ravel(s) for s in jax.tree.leaves(scores)])
    assert flat.size == 2 * (16 * 8 + 8)
    assert np.unique(flat).size == flat.size
    correlation = np.corrcoef(np.ravel(scores["a"]["kernel"]), np.ravel(scores["b"]["kernel"]))[
        0, 1
    ]
    assert abs(correlation) < 0.3


def test_random_scores_stay_when_leaves_are_added_around_them():
    metric = jp.Random(jax.random.key(0))
    few, many = layers("b"), layers("a", "b", "c")
    chex.assert_trees_all_equal(jp.importance(few, metric)["b"], jp.importance(many, metric)["b"])


def test_random_scores_depend_on_the_path_and_the_key_alone():
    metric = jp.Random(jax.random.key(0))
    ones = {"kernel": jnp.ones((16, 8))}
    expected = jp.importance(ones, metric)
    chex.assert_trees_all_equal(
        jp.importance({"kernel": jnp.zeros((16, 8), jnp.bfloat16)}, metric), expected
    )
    other = jp.importance(ones, jp.Random(jax.random.key(1)))
    assert np.mean(np.asarray(other["kernel"]) == np.asarray(expected["kernel"])) < 0.1


def test_random_scores_are_uniform_float32():
    scores = jp.importance(jnp.ones((100, 100), jnp.float16), jp.Random(jax.random.key(3)))
    assert scores.dtype == F32
    assert float(scores.min()) >= 0
    assert float(scores.max()) < 1
    counts, _ = np.histogram(scores, 10, (0, 1))
    assert np.abs(counts - 1000).max() < 200  # more than six standard deviations


def test_legacy_and_typed_keys_give_the_same_scores():
    tree = layers("a")
    typed = jp.importance(tree, jp.Random(jax.random.key(7)))
    legacy = jp.importance(tree, jp.Random(jax.random.PRNGKey(7)))
    chex.assert_trees_all_equal(typed, legacy)


def test_other_key_implementations_work():
    scores = jp.importance(jnp.ones((4, 4)), jp.Random(jax.random.key(0, impl="rbg")))
    assert np.unique(scores).size == 16


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (0, "expected one PRNG key, got 0: write jp.Random"),
        (None, "expected one PRNG key, got None"),
        (jnp.zeros(2, jnp.int32), r"expected one PRNG key, got int32\[2\]"),
        (jax.ShapeDtypeStruct((3, 2), np.uint32), r"got uint32\[3, 2\].*use vmap for several keys"),
    ],
    ids=["int", "None", "int32", "several"],
)
def test_what_is_no_key_is_refused(key, words):
    with pytest.raises(jp.PruningError, match=words):
        jp.importance(jnp.ones((2, 2)), jp.Random(key))


def test_several_keys_are_refused():
    with pytest.raises(jp.PruningError, match=r"got key<fry>\[3\].*use vmap for several keys"):
        jp.importance(jnp.ones((2, 2)), jp.Random(jax.random.split(jax.random.key(0), 3)))


# --- the reference's generator ------------------------------------------------------------------


def test_every_leaf_reads_the_stream_of_the_lcg_from_its_start():
    scores = jp.importance(layers("a", "b"), jp.LCG(42))
    stream = np.asarray(jp.compat.lcg(42, 128))
    for layer in scores.values():
        np.testing.assert_array_equal(layer["kernel"], stream.reshape(16, 8))
        np.testing.assert_array_equal(layer["bias"], stream[:8])


def test_lcg_scores_are_float32_whatever_the_weights():
    scores = jp.importance(jnp.ones((3, 5), jnp.bfloat16), jp.LCG(1))
    assert scores.dtype == F32
    np.testing.assert_array_equal(np.ravel(scores), jp.compat.lcg(1, 15))


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7", None, True])
def test_an_lcg_metric_of_a_bad_seed_is_refused(seed):
    with pytest.raises(jp.PruningError, match=r"an LCG seed is a Python integer in \[0, 2\*\*64\)"):
        jp.LCG(seed)


# --- of gradients -------------------------------------------------------------------------------

OF_GRADIENTS = {
    jp.Taylor: lambda w, g: abs(w * g),
    jp.Fisher: lambda w, g: (w * g) * (w * g),
    jp.Movement: lambda w, g: -(w * g),
}
of_gradients = pytest.mark.parametrize("metric", OF_GRADIENTS, ids=lambda m: m.__name__)


@of_gradients
@given(kind=kinds, seed=seeds)
def test_scores_of_gradients_are_the_rounded_ones(metric, kind, seed):
    weights, slopes = (oracle.hard_scores(kind, seed + i, (40,), F32) for i in range(2))
    weights, slopes = (np.where(abs(v) < 1e-15, 0, v).astype(F32) for v in (weights, slopes))
    with np.errstate(all="ignore"):
        expected = OF_GRADIENTS[metric](weights, slopes)
    found = np.asarray(jp.importance(jax.device_put(weights), metric(jax.device_put(slopes))))
    # A backend may flush what is too small for a normal number.
    tiny = abs(expected) < np.finfo(F32).tiny
    np.testing.assert_array_equal(found[~tiny], expected[~tiny])
    assert (abs(found[tiny]) <= abs(expected[tiny])).all()


@of_gradients
def test_gradients_are_found_by_path_whatever_the_tree(metric):
    params = {"b": {"kernel": jnp.arange(4.0)}, "a": [jnp.ones(2), 3]}
    grads = {"a": [jnp.array([-1.0, 2.0]), None], "b": {"kernel": -jnp.arange(4.0)}}
    scores = jp.importance(params, metric(grads))
    of = OF_GRADIENTS[metric]
    np.testing.assert_array_equal(scores["a"][0], of(np.ones(2), np.array([-1.0, 2.0])))
    np.testing.assert_array_equal(scores["b"]["kernel"], of(np.arange(4.0), -np.arange(4.0)))
    assert scores["a"][1] is None


@of_gradients
def test_small_halves_keep_their_order(metric):
    weights = jnp.linspace(0.01, 0.1, 16).astype(jnp.float16)
    scores = np.asarray(jp.importance(weights, metric(jnp.full(16, 1e-3, jnp.float16))))
    assert scores.dtype == F32
    assert (np.diff(abs(scores)) > 0).all()


def test_fisher_keeps_the_order_of_what_is_too_small_to_square():
    scores = jp.importance(jnp.array([3e-21, 1e-21, 2e-21]), jp.Fisher(jnp.ones(3)))
    assert np.argsort(scores).tolist() == [1, 2, 0]


@of_gradients
def test_gradients_are_data(metric):
    chex.clear_trace_counter()
    weights = jnp.arange(6.0).reshape(2, 3)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def scores(metric):
        return jp.importance(weights, metric)

    for scale in (1.0, -2.0):
        grads = scale * jnp.ones((2, 3))
        np.testing.assert_array_equal(scores(metric(grads)), jp.importance(weights, metric(grads)))


def test_gradients_that_do_not_fit_are_all_named():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(2), "c": jnp.ones(2)}
    grads = {"a": jnp.ones((3, 2)), "b": None, "c": jnp.ones(2, int)}
    with pytest.raises(jp.StructureMismatch) as caught:
        jp.importance(params, jp.Taylor(grads))
    message = str(caught.value)
    for words in (
        r"3 problems",
        "`a` has shape (2, 3), and its gradients are float32[3, 2]: Taylor(grads) takes",
        "`b` has shape (2,), and its gradients are None",
        "`c` has shape (2,), and its gradients are int32[2]",
    ):
        assert words in message


# --- functions, and what is no metric -----------------------------------------------------------


def test_a_function_of_an_array_is_a_metric():
    params = {"kernel": jnp.array([[1.0, -2.0]]), "step": 3}
    scores = jp.importance(params, lambda w: jnp.exp(-w))
    np.testing.assert_array_equal(scores["kernel"], jnp.exp(-params["kernel"]))
    assert scores["step"] is None


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (jp.Taylor, r"write Taylor\(grads\), or in training jp.averaged\(jp.Taylor\)"),
        (
            jnp.sum,
            r"must return floating scores.*the array has shape \(2, 3\), and got float32\[\]",
        ),
        (lambda w: w > 0, r"must return floating scores.*got bool\[2, 3\]"),
        (lambda w: None, "must return floating scores.*got None"),
        (jp.L1, r"expected a metric such as jp\.L1\(\).*L1 is a class: write L1\(\)"),
        ("l1", r"expected a metric such as jp\.L1\(\), or a function.*got 'l1'"),
        (None, "expected a metric.*got None"),
    ],
    ids=["class of gradients", "shape", "dtype", "nothing", "class", "text", "None"],
)
def test_what_is_no_metric_is_refused(metric, words):
    with pytest.raises(jp.PruningError, match=words):
        jp.importance(jnp.ones((2, 3)), metric)


# --- which leaves are scored --------------------------------------------------------------------


def test_what_is_not_floating_is_left_alone():
    params = {
        "kernel": jnp.ones((2, 2)),
        "bias": jnp.ones(2, jnp.bfloat16),
        "scale": jnp.float32(2),
        "empty": jnp.ones((0, 3)),
        "step": jnp.int32(1),
        "flag": jnp.array([True]),
        "key": jax.random.key(0),
        "name": "model",
        "nothing": None,
    }
    scores = jp.importance(params, jp.L1())
    floats = {"kernel", "bias", "scale", "empty"}
    assert {name for name, score in scores.items() if score is not None} == floats
    for name in floats:
        assert scores[name].shape == params[name].shape


def test_numpy_arrays_are_scored():
    scores = jp.importance({"kernel": np.array([[-1.5, 2.0]], F16)}, jp.L1())
    assert_same_bits(scores["kernel"], np.array([[1.5, 2.0]], F16))


@pytest.mark.parametrize("params", [{}, {"step": jnp.int32(3)}, None, [1, "a"]], ids=str)
def test_a_tree_without_floats_is_refused(params):
    with pytest.raises(jp.NoMatch, match=r"nothing to score: none of the tree's \d leaves"):
        jp.importance(params, jp.L1())
