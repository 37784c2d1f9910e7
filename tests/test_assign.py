"""The one decision: what axis words mean, by name, by layout, and by what a model does."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests import oracle


def weights(*shape, seed=0):
    return jax.device_put(np.float32(np.random.default_rng(seed).normal(size=shape)))


PARAMS = {
    "embedding": weights(16, 8),
    "query": weights(8, 2, 4, seed=1),
    "out": weights(2, 4, 8, seed=2),
    "up": weights(12, 8, seed=3),  # [out, in]
    "scale": weights(1, 12, seed=4),
}


def model(params, tokens):
    x = params["embedding"][tokens]
    heads = jnp.einsum("td,dhk->thk", x, params["query"])
    x = x + jnp.einsum("thk,hkd->td", heads, params["out"])
    return jax.nn.relu(x @ params["up"].T) * params["scale"]


USES = jp.trace(model, PARAMS, jax.ShapeDtypeStruct((5,), jnp.int32))


# --- without a trace ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "shape", "axis"),
    [("kernel", (8, 16), -2), ("a/kernel", (3, 3, 8, 16), -2), ("", (8, 16), -2)],
    ids=str,
)
def test_words_are_answered_where_the_layout_is_certain(path, shape, axis):
    scores = weights(*shape)
    tree = scores
    for name in reversed(path.split("/") if path else []):
        tree = {name: tree}
    (word,) = jax.tree.leaves(jp.make_mask(tree, jp.NM(2, 4, axis="input")))
    (number,) = jax.tree.leaves(jp.make_mask(tree, jp.NM(2, 4, axis=axis)))
    np.testing.assert_array_equal(word, number)


@pytest.mark.parametrize(
    "spec",
    [jp.NM(2, 4, axis="input"), jp.Channels(0.5, axis="output"), jp.Unstructured(0.5, per="input")],
    ids=str,
)
@pytest.mark.parametrize(
    "tree",
    [{"query": {"kernel": weights(8, 2, 4)}}, {"weight": weights(8, 8)}, [weights(8, 8)]],
    ids=["rank 3", "weight", "no name"],
)
def test_words_are_refused_where_it_is_not(spec, tree):
    for function in (jp.make_mask, jp.plan, jp.prune):
        with pytest.raises(jp.InvalidPattern, match=r"cannot be told .* pass uses=jp\.trace"):
            function(tree, spec)


def test_all_leaves_of_uncertain_layout_are_named_in_one_error():
    tree = {"a": {"weight": weights(8, 8)}, "b": {"kernel": weights(8, 2, 4)}}
    with pytest.raises(jp.InvalidPattern, match=r"2 problems[\s\S]*`a/weight`[\s\S]*`b/kernel`"):
        jp.make_mask(tree, jp.NM(2, 4, axis="input"))


def test_an_integer_axis_is_echoed_as_it_was_written():
    with pytest.raises(jp.InvalidPattern, match="6 entries along axis 0"):
        jp.make_mask({"w": weights(6, 8)}, jp.NM(2, 4, axis=0))


# --- by what the model does ---------------------------------------------------------------------


def test_what_products_read_is_pruned_and_the_plan_says_the_rest():
    plan = jp.plan(PARAMS, jp.NM(2, 4, axis="input"), uses=USES)
    found = {row.path: row.spec.axis if row.spec else row.reason for row in plan.rows}
    assert found == {
        "embedding": "used for lookup",
        "out": (0, 1),
        "query": 0,
        "scale": "used for elementwise (mul)",
        "up": 1,
    }
    by_path = {row.path: row for row in plan.rows}
    assert by_path["up"].multiply_adds == 5 * 12 * 8
    assert by_path["up"].multiply_adds_left == 5 * 12 * 8 // 2
    assert "multiply-adds" in str(plan)


def test_words_mean_the_axes_of_the_use():
    mask = jp.make_mask(PARAMS, jp.NM(2, 4, axis="input"), uses=USES)
    assert mask["embedding"] is None
    expected = oracle.mask(jp.NM(2, 4, axis=0), np.asarray(PARAMS["out"]).reshape(8, 8))
    np.testing.assert_array_equal(mask["out"], expected.reshape(2, 4, 8))
    np.testing.assert_array_equal(mask["query"], oracle.mask(jp.NM(2, 4, axis=0), PARAMS["query"]))
    np.testing.assert_array_equal(mask["up"], oracle.mask(jp.NM(2, 4, axis=1), PARAMS["up"]))


@pytest.mark.parametrize(
    "make",
    [
        lambda axis: jp.Unstructured(0.5, per=axis),
        lambda axis: jp.Channels(0.5, axis=axis),
        lambda axis: jp.NM(1, 4, axis=axis),
    ],
    ids=["per", "channels", "n:m"],
)
def test_several_axes_are_taken_as_one(make):
    query, spec = PARAMS["query"], make("output")
    merged = oracle.mask(make(-1), np.asarray(query).reshape(8, 8)).reshape(8, 2, 4)
    for mask in (jp.make_mask, jax.jit(jp.make_mask, static_argnames="where")):
        np.testing.assert_array_equal(mask({"query": query}, {"*": make((1, 2))})["query"], merged)
    found = jp.make_mask(PARAMS, {"query": spec}, uses=USES)
    np.testing.assert_array_equal(found["query"], merged)


def test_axes_need_not_be_neighbours():
    scores = weights(4, 6, 2)
    found = jp.make_mask(scores, jp.NM(2, 4, axis=(2, 0)))
    moved = np.asarray(scores).transpose(2, 0, 1).reshape(8, 6)
    expected = oracle.mask(jp.NM(2, 4, axis=0), moved).reshape(2, 4, 6).transpose(1, 2, 0)
    np.testing.assert_array_equal(found, expected)


def test_erk_counts_fan_in_and_fan_out():
    found = jp.allocate(PARAMS, 0.5, uses=USES)
    flat = {"query": PARAMS["query"].reshape(8, 8), "out": PARAMS["out"].reshape(8, 8)}
    expected = jp.allocate(flat | {"up": PARAMS["up"]}, 0.5)
    assert {k: v for k, v in found.items() if v is not None} == expected


def test_a_report_shows_multiply_adds_and_patterns_that_no_product_can_use():
    pruned, mask = jp.prune(PARAMS, jp.NM(2, 4, axis=-1), uses=USES)
    report = jp.report(pruned, mask, uses=USES)
    rows = {row.path: row for row in report.rows}
    assert rows["up"].multiply_adds_left == 5 * 12 * 8 // 2
    assert "no product sums over axis -1" in rows["query"].note
    assert not rows["up"].note
    assert "multiply-adds" in str(report)
    assert "no product sums over axis -1" in str(report)


def test_leaves_that_were_not_traced_are_named():
    with pytest.raises(jp.NoMatch, match="`down` was traced"):
        jp.make_mask(PARAMS | {"down": weights(8, 8)}, 0.5, uses=USES)


def test_attention_in_linen_is_grouped_along_what_its_products_sum_over():
    net = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=16)
    x = jnp.ones((1, 4, 8))
    params = net.init(jax.random.key(0), x)["params"]
    uses = jp.trace(lambda p, x: net.apply({"params": p}, x), params, x)
    plan = jp.plan(params, jp.NM(2, 4, axis="input"), uses=uses)
    axes = {row.path: row.spec.axis for row in plan.rows if row.spec}
    assert axes == {
        "key/kernel": 0,
        "out/kernel": (0, 1),
        "query/kernel": 0,
        "value/kernel": 0,
    }


def test_training_and_the_forward_pass_go_by_the_same_uses():
    spec = jp.NM(2, 4, axis="input")
    _, expected = jp.prune(PARAMS, spec, uses=USES)
    tx = jp.sparsify(optax.sgd(0.1), spec, schedule=jp.one_shot(), uses=USES)
    chex.assert_trees_all_equal(jp.current(tx.init(PARAMS)).mask, expected)
    passed = jp.straight_through(PARAMS, spec, uses=USES)
    chex.assert_trees_all_equal(passed, jp.apply_mask(PARAMS, expected))
