"""Metrics of data, against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def f(p, x):
    h = jnp.tanh(jnp.einsum("td,dhk->thk", x, p["q"]))
    return jnp.einsum("thk,ohk->to", h, p["o"]) + p["b"]


PARAMS = {"b": normal(6), "o": normal(6, 2, 4), "q": normal(8, 2, 4)}
X = normal(20, 8)
STATS = jp.calibrate(f, PARAMS, [(X,)])
USES = jp.trace(f, PARAMS, X)


def wanda(weights, squares):
    return np.abs(weights.astype(np.float64)) * np.sqrt(squares.astype(np.float64))


def expected():
    h = np.tanh(np.einsum("td,dhk->thk", X, PARAMS["q"]))
    return {
        "o": wanda(PARAMS["o"], (h**2).sum(0)[None]),
        "q": wanda(PARAMS["q"], (X**2).sum(0)[:, None, None]),
    }


def test_scores():
    scores = jp.importance(PARAMS, jp.Wanda(STATS))
    assert scores["b"] is None
    for name, score in expected().items():
        np.testing.assert_allclose(scores[name], score, rtol=1e-5)
    half = {name: w.astype(jnp.bfloat16) for name, w in PARAMS.items()}
    assert jp.importance(half, jp.Wanda(STATS))["q"].dtype == jnp.float32


def test_a_grams_diagonal_will_do():
    grams = jp.calibrate(f, PARAMS, [(X,)], gather="gram")
    one, two = (jp.importance(PARAMS, jp.Wanda(stats)) for stats in (STATS, grams))
    np.testing.assert_allclose(one["o"], two["o"], rtol=1e-5)


SPECS = {
    "half": jp.Unstructured(0.5),
    "global": jp.Unstructured(0.5, per="global"),
    "per output": jp.Unstructured(0.5, per="output"),
    "2:4 of inputs": jp.NM(2, 4, axis="input"),
    "channels": jp.Channels(0.5, axis="output"),
}


@pytest.mark.parametrize("name", SPECS)
def test_any_spec_takes_it(name):
    """What make_mask makes of these scores in NumPy is what prune makes of the metric."""
    options = {"uses": USES}
    pruned, mask = jp.prune(PARAMS, SPECS[name], metric=jp.Wanda(STATS), **options)
    scores = {k: v.astype(np.float32) for k, v in expected().items()} | {"b": None}
    other = jp.make_mask(scores, SPECS[name], **options)
    for key in ("o", "q"):
        np.testing.assert_array_equal(mask[key], other[key])
        np.testing.assert_array_equal(pruned[key] == 0, ~np.asarray(mask[key]))
    compiled = jax.jit(lambda p, s: jp.prune(p, SPECS[name], metric=jp.Wanda(s), **options)[1])
    for key, kept in compiled(PARAMS, STATS).items():
        np.testing.assert_array_equal(kept, mask[key]) if kept is not None else None


def test_in_training():
    tx = jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.one_shot(), metric=jp.Wanda(STATS), uses=USES)
    params = jax.tree.map(jnp.asarray, PARAMS)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    after = optax.apply_updates(params, updates)
    _, mask = jp.prune(PARAMS, 0.5, metric=jp.Wanda(STATS), uses=USES)
    np.testing.assert_array_equal(after["q"] != 0, mask["q"])


BAD = {
    "another model": ({"w": normal(3, 3)}, STATS, "there are no stats of `w`"),
    "another shape": (
        {"o": normal(6, 2, 4), "q": normal(4, 4)},
        STATS,
        r"`q` has shape \(4, 4\), and its stats are of \(8, 2, 4\)",
    ),
    "no stats": ({"q": normal(4, 4)}, {"q": 1}, r"takes what jp.calibrate\(f, params, batches\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    params, stats, words = BAD[name]
    with pytest.raises(jp.PruningError, match=words):
        jp.importance(params, jp.Wanda(stats))


def test_all_leaves_without_stats_are_named():
    params = PARAMS | {"r": normal(4, 4), "s": normal(4, 4)}
    with pytest.raises(jp.StructureMismatch, match=r"2 problems:\n.*`r`.*\n.*`s`"):
        jp.prune(params, 0.5, metric=jp.Wanda(STATS))
    with pytest.raises(jp.PruningError, match=r"Wanda is a class: write Wanda\(stats\)"):
        jp.importance(PARAMS, jp.Wanda)
