"""What a mask keeps of the one before it, and what broken numbers do to it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.training.model import (
    DATA,
    GRADUAL,
    PARAMS,
    RNG,
    fit,
    kernels,
    loss,
    lost,
    zeros,
)


def test_the_lowest_go_by_the_weights_before_the_update():
    tx = jp.sparsify(optax.adam(0.05), 0.5, schedule=jp.gradual(2, 8, 2))
    previous = PARAMS
    alive = jax.tree.map(lambda k: np.ones(k.shape, bool), kernels(PARAMS))
    for count, params, state in fit(tx, 8):
        if count in (2, 4, 6, 8):
            sparsity = float(jp.gradual(2, 8, 2).sparsity(count, 0.5))
            for leaf, kernel in kernels(previous).items():
                order = np.argsort(np.where(alive[leaf], abs(kernel), -1).ravel(), kind="stable")
                expected = np.ones(kernel.size, bool)
                expected[order[: lost(sparsity, kernel.size)]] = False
                alive[leaf] = expected.reshape(kernel.shape)
        chex.assert_trees_all_equal(kernels(jp.current(state).mask), alive)
        previous = params


def test_n_of_m_gets_there_by_steps():
    tx = jp.sparsify(optax.adam(0.05), jp.NM(1, 4, axis=0), schedule=jp.gradual(2, 8, 2, power=1))
    kept = {}
    for count, params, state in fit(tx, 9):
        mask = kernels(jp.current(state).mask)["down"].reshape(4, 4, 12).sum(1)
        assert (mask == mask[0, 0]).all()
        kept[count] = int(mask[0, 0])
    assert kept == {1: 4, 2: 4, 3: 4, 4: 3, 5: 3, 6: 2, 7: 2, 8: 1, 9: 1}
    assert jp.report(params).rows[1].pattern == "1:4 along axis -2"


def test_specs_by_pattern_and_a_global_budget():
    spec = {"down": jp.Columns(0.5), "up": jp.Unstructured(0.75)}
    *_, (_, params, _) = fit(jp.sparsify(optax.adam(0.05), spec, schedule=GRADUAL))
    assert zeros(params) == {"down": 96, "up": 72}
    assert jp.report(params).rows[1].pattern == "columns"
    spec = jp.Unstructured(0.75, per="global")
    *_, (_, params, _) = fit(jp.sparsify(optax.adam(0.05), spec, schedule=GRADUAL))
    assert sum(zeros(params).values()) == 216


@pytest.mark.parametrize(
    "metric",
    [jp.L2(), jp.Random(jax.random.key(0)), jnp.abs]
    + [jp.averaged(of, 0.5) for of in (jp.Taylor, jp.Fisher, jp.Movement)],
    ids=["L2", "Random", "function", "taylor", "fisher", "movement"],
)
def test_any_metric(metric):
    tx = jp.sparsify(optax.adam(0.05), 0.75, schedule=GRADUAL, metric=metric)
    before = None
    for _, params, state in fit(tx):
        mask = kernels(jp.current(state).mask)
        for leaf in mask:
            assert before is None or not (mask[leaf] & ~before[leaf]).any()
        before = mask
    assert zeros(params) == {"down": 144, "up": 72}


REDUCTIONS = ("sum", "mean", "l2", "max")
UNITS = {
    **{f"columns_{reduce}": jp.Columns(0.5, reduce=reduce) for reduce in REDUCTIONS},
    **{f"block_{reduce}": jp.Block(0.5, (2, 4), reduce=reduce) for reduce in REDUCTIONS},
}


@pytest.mark.parametrize("metric", [jp.L1(), jp.averaged(jp.Movement)], ids=["L1", "movement"])
@pytest.mark.parametrize("rule", [jp.Rule(), jp.rigl()], ids=["only go", "rigl"])
def test_whole_units_go_and_stay_gone(metric, rule):
    tx = jp.sparsify(optax.adam(0.05), UNITS, schedule=GRADUAL, metric=metric, rule=rule)
    kernel = PARAMS["down"]["kernel"]
    params = {name: {"kernel": jnp.roll(kernel, i)} for i, name in enumerate(UNITS)}
    state, before = tx.init(params), None
    step = jax.jit(tx.update)
    for count in range(1, 13):
        grads = jax.tree.map(lambda w, count=count: jnp.sin(9 * w + count), params)
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        fired = max((c for c in (3, 7, 11) if c <= count), default=None)
        sparsity = 0.0 if fired is None else float(GRADUAL.sparsity(fired, 0.5))
        mask = {name: np.asarray(layer["kernel"]) for name, layer in state.mask.items()}
        for name, kept in mask.items():
            blocks = kept.reshape(8, 2, 3, 4) if "block" in name else kept[None, :, :, None]
            units = blocks.all((1, 3))
            assert (units == blocks.any((1, 3))).all()
            assert (~units).sum() == lost(sparsity, units.size)
            if before and rule.grow is None:
                assert not (kept & ~before[name]).any()
        before = mask


def test_a_unit_with_zeros_in_it_is_scored_by_what_is_left():
    weights = jnp.array([[1.0, 1.0], [9.0, 9.0], [5.0, 5.0], [2.0, 2.0]])
    mask = jnp.array([[True, True], [False, True], [True, True], [True, False]])
    spec = jp.Rows(0.5)
    tx = jp.sparsify(optax.sgd(0.0), spec, schedule=jp.one_shot(), mask=mask)
    kept = jp.current(tx.init(weights)).mask
    chex.assert_trees_all_equal(kept, mask & jnp.array([[False], [True], [True], [False]]))


def test_a_gradient_that_is_no_number_destroys_no_mask():
    tx = jp.sparsify(
        optax.apply_if_finite(optax.adam(0.05), 100),
        0.5,
        schedule=jp.constant(1, 10),
        rule=jp.rigl(),
        metric=jp.averaged(jp.Taylor),
    )
    state, params = tx.init(PARAMS), PARAMS
    for x in DATA[:3]:
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        params = optax.apply_updates(params, updates)
    mask = kernels(jp.current(state).mask)
    bad = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), params)
    updates, state = tx.update(bad, state, params)
    params = optax.apply_updates(params, updates)
    chex.assert_tree_all_finite(params)
    chex.assert_tree_all_finite(jp.current(state).average)
    chex.assert_trees_all_equal(kernels(jp.current(state).mask), mask)


@pytest.mark.parametrize("rule", [jp.rigl(), jp.acdc()], ids=["RigL", "AC/DC"])
def test_a_broken_gradient_when_a_mask_is_due_does_not_put_it_off(rule):
    tx = jp.sparsify(optax.set_to_zero(), 0.5, schedule=jp.constant(2, 6, every=2), rule=rule)
    params = {"kernel": jnp.asarray(RNG.normal(size=(16, 8)), jnp.float32)}
    state = tx.init(params)
    for i in range(6):
        grads = jnp.full((16, 8), jnp.inf if i in (1, 5) else 1.0)
        before = np.asarray(jp.current(state).mask["kernel"])
        updates, state = tx.update({"kernel": grads}, state, params)
        params = optax.apply_updates(params, updates)
        mask = np.asarray(jp.current(state).mask["kernel"])
        assert mask.sum() == (128 if i == 0 else 64)
        if i == 5:
            np.testing.assert_array_equal(mask, before)  # nothing grew, and nothing was dropped
    assert (params["kernel"] != 0).sum() <= 64


def test_weights_that_are_no_numbers_leave_the_mask_as_it_was():
    tx = jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.constant(0, 10))
    state = tx.init(PARAMS)
    mask = kernels(jp.current(state).mask)
    broken = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), PARAMS)
    _, state = tx.update(PARAMS, state, broken)
    chex.assert_trees_all_equal(kernels(jp.current(state).mask), mask)


def test_scores_of_minus_infinity_are_not_gone():
    # The logarithm of the first 7 weights is -inf, as low as a score can be.
    weights = {"kernel": jnp.maximum(jnp.arange(16.0) - 6, 0).reshape(4, 4)}
    tx = jp.sparsify(
        optax.set_to_zero(),
        0.5,
        schedule=jp.gradual(0, 4, power=1),
        metric=lambda w: jnp.log(jnp.abs(w)),
    )
    state, pruned = tx.init(weights), []
    for _ in range(4):
        _, state = tx.update(weights, state, weights)
        pruned.append(int((~state.mask["kernel"]).sum()))
    assert pruned == [2, 4, 6, 8]
    assert not state.mask["kernel"].ravel()[:8].any()
