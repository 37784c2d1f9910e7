"""What is dropped, what grows, and what averages follow."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.training.model import DATA, PARAMS, RNG, fit, kernels, loss, lost, zeros


def test_rigl_grows_where_gradients_are_largest():
    tx = jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.constant(0, 100, every=2), rule=jp.rigl(0.5))
    weights = {"kernel": jnp.asarray(RNG.normal(size=(20, 10)), jnp.float32)}
    state = tx.init(weights)
    old = np.asarray(jp.current(state).mask["kernel"])
    params = weights
    for _ in range(2):
        before = np.asarray(params["kernel"])
        grads = {"kernel": jnp.asarray(RNG.normal(size=(20, 10)), jnp.float32)}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    exchanged = 0.25 * (1 + np.cos(np.pi * 2 / 100))
    stay = np.zeros(200, bool)
    keep = 200 - lost(np.float32(0.5 + exchanged * 0.5), 200)
    stay[np.argsort(np.where(old, abs(before), -1).ravel(), kind="stable")[200 - keep :]] = True
    growth = np.where(stay, np.inf, abs(np.asarray(grads["kernel"])).ravel())
    expected = np.zeros(200, bool)
    expected[np.argsort(growth, kind="stable")[100:]] = True
    found = np.asarray(jp.current(state).mask["kernel"]).ravel()
    np.testing.assert_array_equal(found, expected)
    assert (found & ~old.ravel()).sum() > 0


@pytest.mark.parametrize("rule", [jp.rigl(0.5), jp.sparse_evolution(0.5), jp.acdc()])
def test_nothing_grows_before_the_first_update(rule):
    weights = {"kernel": jnp.asarray(RNG.normal(size=(20, 10)), jnp.float32)}
    start = {"schedule": jp.constant(0, 9, every=3), "rule": rule, "key": jax.random.key(0)}
    state = jp.sparsify(optax.sgd(0.1), 0.5, **start).init(weights)
    chex.assert_trees_all_equal(jp.current(state).mask, jp.prune(weights, 0.5)[1])
    given = jp.prune(weights, 0.5, metric=jp.Random(jax.random.key(1)))[1]
    state = jp.sparsify(optax.sgd(0.1), 0.5, mask=given, **start).init(weights)
    chex.assert_trees_all_equal(jp.current(state).mask, given)


def test_gradients_are_not_averaged_before_there_are_any():
    taylor = jp.averaged(jp.Taylor)
    for schedule in (jp.one_shot(), jp.constant(0, 9)):
        with pytest.raises(jp.PruningError, match="has seen no gradients: begin later"):
            jp.sparsify(optax.sgd(0.1), 0.5, schedule=schedule, metric=taylor)
    tx = jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.gradual(0, 9), metric=taylor)
    assert all(mask.all() for mask in kernels(tx.init(PARAMS).mask).values())


def test_rigl_may_grow_by_gradients_averaged_over_updates():
    decay = 0.75
    tx = jp.sparsify(
        optax.set_to_zero(),
        0.5,
        schedule=jp.constant(0, 8, every=4),
        rule=jp.rigl(0.5, decay=decay),
    )
    params = {"kernel": jnp.asarray(RNG.normal(size=(20, 10)), jnp.float32)}
    state = tx.init(params)
    average, old = 0.0, np.asarray(jp.current(state).mask["kernel"])
    for i in range(4):
        grads = RNG.normal(size=(20, 10)).astype(np.float32)
        if i == 1:
            grads[0, 0] = np.nan  # leaves its average as it is
        grown = np.where(np.isfinite(grads), decay * average + (1 - decay) * grads, average)
        average = grown.astype(np.float32)
        before = abs(np.asarray(params["kernel"]))
        updates, state = tx.update({"kernel": jnp.asarray(grads)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(jp.current(state).growth["kernel"], average, rtol=1e-5, atol=1e-7)
    exchanged = 0.25 * (1 + np.cos(np.pi * 4 / 8))
    keep = 200 - lost(np.float32(0.5 + exchanged * 0.5), 200)
    stay = np.zeros(200, bool)
    stay[np.argsort(np.where(old, before, -1).ravel(), kind="stable")[200 - keep :]] = True
    growth = np.where(stay, np.inf, abs(average).ravel())
    expected = np.zeros(200, bool)
    expected[np.argsort(growth, kind="stable")[100:]] = True
    np.testing.assert_array_equal(jp.current(state).mask["kernel"].ravel(), expected)


def test_random_growth_needs_a_key_and_follows_it():
    def last(key):
        tx = jp.sparsify(
            optax.sgd(0.1),
            0.5,
            schedule=jp.constant(0, 9, every=3),
            rule=jp.sparse_evolution(),
            key=key,
        )
        return kernels(jp.current(list(fit(tx, 9))[-1][2]).mask)

    with pytest.raises(jp.PruningError, match="give sparsify a key="):
        last(None)
    chex.assert_trees_all_equal(last(jax.random.key(0)), last(jax.random.key(0)))
    one, other = last(jax.random.key(0)), last(jax.random.PRNGKey(7))
    assert any((one[leaf] != other[leaf]).any() for leaf in one)


def test_acdc_is_dense_in_between_and_sparse_at_the_end():
    schedule = jp.periodic(2, 10, sparse=2, dense=2)
    tx = jp.sparsify(optax.adam(0.05), 0.5, schedule=schedule, rule=jp.acdc())
    for count, params, state in fit(tx, 12):
        sparse = count in (2, 3, 6, 7) or count >= 10
        expected = {"down": 96, "up": 48} if sparse else {"down": 0, "up": 0}
        found = {leaf: int((~m).sum()) for leaf, m in kernels(jp.current(state).mask).items()}
        assert found == expected
        if not sparse and count not in (4, 8):  # there what came back is still zero
            assert zeros(params) == expected


def test_averages_follow_the_gradients():
    tx = jp.sparsify(
        optax.sgd(0.1), 0.5, schedule=jp.one_shot(4), metric=jp.averaged(jp.Taylor, 0.75)
    )
    average, params = 0.0, PARAMS
    state = tx.init(params)
    for x in DATA[:4]:
        grads = jax.grad(loss)(params, x)
        weights, slopes = kernels(params)["down"], kernels(grads)["down"]
        average = 0.75 * average + 0.25 * abs(weights * slopes)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    found = np.asarray(jp.current(state).average["down"]["kernel"])
    np.testing.assert_allclose(found, average, rtol=1e-5, atol=1e-8)
    order = np.argsort(found.ravel(), kind="stable")
    assert (kernels(params)["down"].ravel()[order[:96]] == 0).all()


def test_averages_of_bfloat16_are_float32():
    scores = jnp.array([0.6, 0.7, 0.8, 0.9, 1.0, 0.65, 0.75, 0.85], jnp.bfloat16)
    params = {"kernel": jnp.ones((1, 8), jnp.bfloat16)}
    tx = jp.sparsify(
        optax.set_to_zero(),
        0.5,
        schedule=jp.one_shot(2000),
        metric=jp.averaged(jp.Taylor, 0.999),
        rule=jp.rigl(decay=0.99),
    )
    state = tx.init(params)
    assert state.growth["kernel"].dtype == jnp.float32

    def step(state, _):
        return tx.update({"kernel": scores[None]}, state, params)[1], None

    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, None, length=1999))(state)
    found = np.asarray(state.average["kernel"][0])
    np.testing.assert_allclose(found / found[4], np.asarray(scores, np.float32), rtol=1e-3)


def test_what_is_no_rule_or_metric():
    for drop in (0, 1.5, -1, "a"):
        with pytest.raises(jp.PruningError, match="drop is a part"):
            jp.rigl(drop)
    for decay in (-0.1, 1.0, "a"):
        with pytest.raises(jp.PruningError, match="decay is a part"):
            jp.rigl(decay=decay)
    with pytest.raises(jp.PruningError, match="0 <= decay < 1"):
        jp.averaged(jp.Taylor, 1.0)
    with pytest.raises(jp.PruningError, match="what makes a metric of gradients"):
        jp.averaged("taylor")
