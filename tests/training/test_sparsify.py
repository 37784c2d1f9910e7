"""Sparse training: exact zeros after every update, the sparsity asked for, in any optimizer."""

import functools
from typing import NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp

RNG = np.random.default_rng(0)
PARAMS = {
    "down": {"bias": jnp.zeros(12), "kernel": jnp.asarray(RNG.normal(size=(16, 12)), jnp.float32)},
    "up": {"bias": jnp.zeros(8), "kernel": jnp.asarray(RNG.normal(size=(12, 8)), jnp.float32)},
}
DATA = jnp.asarray(RNG.normal(size=(40, 5, 16)), jnp.float32)


def loss(params, x):
    hidden = jnp.tanh(x @ params["down"]["kernel"] + params["down"]["bias"])
    return jnp.mean((hidden @ params["up"]["kernel"] + params["up"]["bias"] - 1) ** 2)


def fit(tx, steps=14, params=PARAMS, loss=loss):
    """Trains, and yields what there is after every update; one compilation for all of them."""
    state = tx.init(params)
    traces = []

    @jax.jit
    def step(params, state, x):
        traces.append(1)
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    for count in range(1, steps + 1):
        params, state = step(params, state, DATA[count - 1])
        yield count, params, state
    assert len(traces) == 1


def kernels(tree):
    return {name: np.asarray(tree[name]["kernel"]) for name in ("down", "up")}


def zeros(params):
    return {name: int((kernel == 0).sum()) for name, kernel in kernels(params).items()}


def lost(sparsity, size):
    return int(np.floor(np.float32(sparsity) * np.float32(size)))


class SlowState(NamedTuple):
    memory: optax.Params


def homemade():
    """A transformation that no library knows: a momentum that starts at one."""

    def init(params):
        return SlowState(jax.tree.map(jnp.ones_like, params))

    def update(updates, state, params=None):
        del params
        memory = jax.tree.map(lambda m, g: 0.5 * m + g, state.memory, updates)
        return jax.tree.map(lambda m: -0.05 * m, memory), SlowState(memory)

    return optax.GradientTransformation(init, update)


def labels(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)


OPTIMIZERS = {
    "momentum": optax.sgd(0.05, momentum=0.9),
    "adam": optax.adam(0.02),
    "adamw": optax.adamw(0.02, weight_decay=0.1),
    "lion": optax.lion(0.005),
    "rmsprop": optax.rmsprop(0.01),
    "adagrad": optax.adagrad(0.05),
    "adafactor": optax.adafactor(0.02, min_dim_size_to_factor=2),
    "MultiSteps": optax.MultiSteps(optax.adam(0.02), 2),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(learning_rate=0.02),
    "masked": optax.masked(
        optax.adam(0.02), lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    ),
    "partition": optax.partition({"kernel": optax.adam(0.02), "bias": optax.sgd(0.02)}, labels),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.02)),
    "schedule-free": optax.contrib.schedule_free_adamw(0.02),
    "homemade": homemade(),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)

GRADUAL = jp.gradual(begin=3, end=11, every=4)


# --- exact zeros, exact counts ------------------------------------------------------------------


@every_optimizer
def test_weights_only_go_and_as_many_as_the_schedule_says(name):
    tx = jp.sparsify(OPTIMIZERS[name], 0.8, schedule=GRADUAL)
    before = None
    for count, params, state in fit(tx):
        fired = max((c for c in (3, 7, 11) if c <= count), default=0)
        sparsity = float(GRADUAL.sparsity(fired, 0.8)) if fired else 0.0
        mask = kernels(jp.current(state).mask)
        for leaf, kernel in kernels(params).items():
            assert (kernel[~mask[leaf]] == 0).all()
            assert (~mask[leaf]).sum() == lost(sparsity, kernel.size)
            assert before is None or not (mask[leaf] & ~before[leaf]).any()
        before = mask
        assert int(jp.current(state).count) == count
    assert zeros(params) == {"down": lost(0.8, 192), "up": lost(0.8, 96)}


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


@every_optimizer
@pytest.mark.parametrize("rule", ["rigl", "sparse_evolution"])
def test_weights_that_move_stay_as_many_and_start_clean(name, rule):
    tx = jp.sparsify(
        OPTIMIZERS[name],
        0.75,
        schedule=jp.constant(0, 12, every=3),
        rule=getattr(jp, rule)(0.4),
        key=jax.random.key(1),
    )
    sizes = before = None
    moved = 0
    fresh = optax.with_extra_args_support(OPTIMIZERS[name])
    for count, params, state in fit(tx):
        mask = kernels(jp.current(state).mask)
        sizes = sizes or {leaf: int(m.sum()) for leaf, m in mask.items()}
        for leaf, kernel in kernels(params).items():
            assert (kernel[~mask[leaf]] == 0).all()
            assert mask[leaf].sum() == sizes[leaf]
            if before is not None:
                grown = mask[leaf] & ~before[leaf]
                moved += grown.sum()
                assert (kernel[grown] == 0).all()
                new = fresh.init(params)
                for memory, clean in zip(
                    like(leaf, kernel.shape, jp.current(state).inner),
                    like(leaf, kernel.shape, new),
                    strict=True,
                ):
                    np.testing.assert_array_equal(memory[grown], clean[grown])
        before = mask
    assert moved
    assert sum(sizes.values()) == 288 - lost(0.75, 288)


def like(leaf, shape, state):
    """The parts of an optimizer state that remember a kernel, found by another way: by shape."""
    return [np.asarray(x) for x in jax.tree.leaves(state) if getattr(x, "shape", ()) == shape]


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


@pytest.mark.parametrize("reduce", ["sum", "mean", "l2", "max"])
@pytest.mark.parametrize("metric", [jp.L1(), jp.averaged(jp.Movement)], ids=["L1", "movement"])
@pytest.mark.parametrize("rule", [jp.Rule(), jp.rigl()], ids=["only go", "rigl"])
def test_whole_units_go_and_stay_gone(reduce, metric, rule):
    tx = jp.sparsify(
        optax.adam(0.05),
        {"down": jp.Columns(0.5, reduce=reduce), "up": jp.Block(0.5, (2, 4), reduce=reduce)},
        schedule=GRADUAL,
        metric=metric,
        rule=rule,
    )
    before = None
    for count, params, state in fit(tx):
        sparsity = float(
            GRADUAL.sparsity(max((c for c in (3, 7, 11) if c <= count), default=0), 0.5)
        )
        mask = kernels(jp.current(state).mask)
        assert (~mask["down"]).sum() == 16 * lost(sparsity, 12)
        assert (~mask["up"]).sum() == 8 * lost(sparsity, 12)
        assert jp.report(mask_as_weights(mask["down"])).rows[0].pattern in ("dense", "columns")
        if before and rule.grow is None:
            assert not any((mask[leaf] & ~before[leaf]).any() for leaf in mask)
        before = mask


def mask_as_weights(mask):
    return jnp.asarray(mask, jnp.float32)


def test_a_unit_with_zeros_in_it_is_scored_by_what_is_left():
    weights = jnp.array([[1.0, 1.0], [9.0, 9.0], [5.0, 5.0], [2.0, 2.0]])
    mask = jnp.array([[True, True], [False, True], [True, True], [True, False]])
    spec = jp.Rows(0.5)
    tx = jp.sparsify(optax.sgd(0.0), spec, schedule=jp.one_shot(), mask=mask)
    kept = jp.current(tx.init(weights)).mask
    chex.assert_trees_all_equal(kept, mask & jnp.array([[False], [True], [True], [False]]))


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


def test_packed_is_one_bit_a_weight_and_the_same():
    plain, packed = (
        list(fit(jp.sparsify(optax.adam(0.05), 0.75, schedule=GRADUAL, packed=p)))[-1]
        for p in (False, True)
    )
    chex.assert_trees_all_equal(plain[1], packed[1])
    mask = jp.current(packed[2]).mask
    assert mask["down"]["kernel"].shape == (16, 2)
    assert mask["down"]["bias"] is None
    chex.assert_trees_all_equal(jp.unpack(mask, packed[1]), jp.current(plain[2]).mask)


def test_a_sparse_model_goes_on_where_it_is():
    sparse, mask = jp.prune(PARAMS, 0.5)
    tx = jp.sparsify(optax.adam(0.05), 0.75, schedule=GRADUAL, mask=jp.mask_from_zeros(sparse))
    for count, params, _ in fit(tx, params=sparse):
        for leaf, kernel in kernels(params).items():
            assert (kernel[~np.asarray(mask[leaf]["kernel"])] == 0).all(), count
    assert zeros(params) == {"down": 144, "up": 72}


# --- keep_mask ----------------------------------------------------------------------------------


@every_optimizer
def test_a_kept_mask_stays(name):
    sparse, mask = jp.prune(PARAMS, 0.5)
    tx = optax.chain(OPTIMIZERS[name], jp.keep_mask(mask))
    for _, params, state in fit(tx, 4, sparse):
        assert zeros(params) == {"down": 96, "up": 48}
    chex.assert_trees_all_equal(jp.current(state).mask, mask)


# --- what goes wrong ----------------------------------------------------------------------------


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


EARLY_OR_LATE = [jp.one_shot(0), jp.one_shot(1), GRADUAL]


@pytest.mark.parametrize("schedule", EARLY_OR_LATE, ids=lambda s: s.name)
def test_a_transformation_after_it_that_moves_zeros_is_told(schedule):
    tx = optax.chain(jp.sparsify(optax.sgd(0.1), 0.5, schedule=schedule), optax.scale(0.5))
    *_, (_, _, state) = fit(tx, 9)
    with pytest.warns(UserWarning, match="sparsify must be the outermost transformation"):
        jp.current(state)


def test_zeros_that_stay_are_not_told():
    for schedule in (jp.one_shot(0), jp.one_shot(1), GRADUAL):
        for _, _, state in fit(jp.sparsify(optax.sgd(0.1), 0.5, schedule=schedule), 12):
            assert jp.current(state).strays == 0


ONE = jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.one_shot())


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


def test_what_a_user_gave_survives_donation():
    params, mask = jp.prune(PARAMS, 0.5)
    key = jax.random.key(0)
    how = {"schedule": jp.constant(1, 9, 2), "metric": jp.averaged(jp.Taylor, 0.9)}
    for tx in (
        optax.chain(optax.sgd(0.1), jp.keep_mask(mask)),
        jp.sparsify(optax.adam(0.1), 0.5, mask=mask, key=key, rule=jp.rigl(decay=0.9), **how),
    ):
        mine = jax.tree.map(jnp.copy, params)
        jax.jit(tx.update, donate_argnums=(0, 1))(
            jax.tree.map(jnp.ones_like, params), tx.init(mine), mine
        )
    assert jp.report(params, mask).stray == 0
    assert key.shape == ()
    jax.random.bits(key)


def test_a_given_mask_out_of_scope_is_refused():
    mask = jax.tree.map(lambda w: jnp.ones_like(w, bool), PARAMS)
    with pytest.raises(jp.StructureMismatch, match=r"`up/bias` has a mask, and .* left dense"):
        jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.one_shot(), mask=mask).init(PARAMS)


@pytest.mark.parametrize(
    ("leaf", "words"), [(None, "it is not an array"), (jnp.ones((1, 4)), r"it has shape \(1, 4\)")]
)
def test_updates_that_do_not_fit_are_told(leaf, words):
    updates = {**PARAMS, "up": {**PARAMS["up"], "kernel": leaf}}
    for tx in (ONE, jp.keep_mask(jp.prune(PARAMS, 0.5)[1])):
        with pytest.raises(jp.StructureMismatch, match=f"`up/kernel` has shape .* {words}"):
            tx.update(updates, tx.init(PARAMS), PARAMS)


def test_a_key_that_is_none_is_refused():
    for key in (3, jax.random.split(jax.random.key(0))):
        tx = jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.one_shot(), key=key)
        with pytest.raises(jp.PruningError, match="expected one PRNG key"):
            tx.init(PARAMS)


def test_a_parameter_may_be_called_as_a_field_of_the_state():
    def masks(name):
        weights = jnp.asarray(np.random.default_rng(5).normal(size=(2, 8, 8)), jnp.float32)
        params = {"w": weights[0], name: {"w": weights[1]}}
        tx = jp.sparsify(optax.adam(0.1), 0.5, schedule=jp.constant(0, 9, 2), rule=jp.rigl(0.5))
        state = tx.init(params)
        for i in range(4):
            grads = jax.tree.map(lambda w, i=i: jnp.sin(9 * w + i), params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        moments = state.inner[0]
        return [moments.mu["w"], moments.mu[name]["w"], moments.nu["w"], moments.nu[name]["w"]]

    chex.assert_trees_all_equal(masks("mu"), masks("zz"))


def test_sparsities_where_the_state_sees_a_part_of_the_parameters():
    part = {"up": {"kernel": True, "bias": False}, "down": {"kernel": False, "bias": False}}
    for packed in (False, True):
        tx = jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.one_shot(), packed=packed)
        state = optax.masked(tx, part).init(PARAMS)
        found = jp.sparsities(state, PARAMS)
        assert found["up"]["kernel"] == 0.5
        assert found["down"]["kernel"] is None
        with pytest.raises(jp.StructureMismatch, match="which these parameters lack"):
            jp.sparsities(state, {"other": jnp.ones((4, 4))})


def test_strays_of_several_models_are_told_together():
    tx = optax.chain(jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.one_shot()), optax.scale(0.5))
    params = {"kernel": jnp.ones((3, 4, 4))}

    def train(params):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(params, state, params)
            params = optax.apply_updates(params, updates)
        return state

    with pytest.warns(UserWarning, match="24 weights"):
        jp.current(jax.vmap(train)(params))


def test_params_are_needed():
    for tx in (ONE, jp.keep_mask(jp.prune(PARAMS, 0.5)[1])):
        with pytest.raises(jp.PruningError, match=r"call tx.update\(grads, state, params\)"):
            tx.update(PARAMS, tx.init(PARAMS))


def test_updates_of_another_structure():
    with pytest.raises(jp.StructureMismatch, match="updates does not have the leaves"):
        ONE.update({"down": PARAMS["down"]}, ONE.init(PARAMS), PARAMS)


def test_one_in_another():
    tx = jp.sparsify(optax.chain(ONE), 0.5, schedule=jp.one_shot())
    with pytest.raises(jp.PruningError, match="wrap the plain optimizer, once"):
        tx.init(PARAMS)


@pytest.mark.parametrize("params", [{"n": 3}, {"gone": None}, {"n": np.arange(4)}], ids=str)
def test_a_tree_without_weights_is_refused_at_once(params):
    with pytest.raises(jp.NoMatch):
        ONE.init(params)


def test_an_empty_tree_is_refused_when_it_is_trained():
    with pytest.raises(jp.NoMatch, match="the tree has no leaves"):
        ONE.update({}, ONE.init({}), {})


def test_a_spec_that_fits_no_leaf():
    tx = jp.sparsify(optax.sgd(0.1), {"sideways": 0.5}, schedule=jp.one_shot())
    with pytest.raises(jp.NoMatch, match="'sideways' matches no leaf"):
        tx.init(PARAMS)
    tx = jp.sparsify(optax.sgd(0.1), jp.NM(2, 7), schedule=jp.one_shot())
    with pytest.raises(jp.InvalidPattern, match="not divisible by m=7"):
        tx.init(PARAMS)


def test_a_state_of_another_spec():
    state = ONE.init(PARAMS)
    other = jp.sparsify(optax.sgd(0.1), {"up": 0.5}, schedule=jp.one_shot())
    with pytest.raises(jp.StructureMismatch, match="`down/kernel` has a mask, and is to have none"):
        other.update(PARAMS, state, PARAMS)
    with pytest.raises(jp.StructureMismatch, match="`down/kernel` has no mask"):
        ONE.update(PARAMS, other.init(PARAMS), PARAMS)


def test_a_state_of_other_parameters():
    smaller = jax.tree.map(lambda p: p[:4], PARAMS)
    with pytest.raises(jp.StructureMismatch, match="`down/kernel` has shape"):
        ONE.update(PARAMS, ONE.init(smaller), PARAMS)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"schedule": jp.one_shot}, "schedule is one of .* called"),
        ({"schedule": jp.periodic(0, 9, sparse=1, dense=1)}, "falls, and the rule grows no"),
        ({"schedule": jp.gradual(0, 90), "steps": 80}, "after 90 updates, .* makes 80"),
        ({"schedule": jp.one_shot(), "steps": "9"}, "steps counts updates.*'9'"),
        ({"schedule": jp.one_shot(), "rule": jp.rigl}, "rule is .* called: got"),
    ],
)
def test_arguments_that_do_not_go_together(kwargs, words):
    with pytest.raises(jp.PruningError, match=words):
        jp.sparsify(optax.sgd(0.1), 0.5, **kwargs)


def test_what_is_no_optimizer():
    with pytest.raises(jp.PruningError, match="inner is an Optax optimizer, called"):
        jp.sparsify(optax.adam, 0.5, schedule=jp.one_shot())


@pytest.mark.parametrize("spec", [0.2, jp.NM(3, 4)], ids=repr)
def test_a_sparsity_that_would_fall(spec):
    schedule = jp.gradual(1, 5, initial=0.5)
    with pytest.raises(jp.InvalidSparsity, match=r"begins at a sparsity of 0.5 and falls"):
        jp.sparsify(optax.sgd(0.1), spec, schedule=schedule).init(PARAMS)
    jp.sparsify(optax.sgd(0.1), spec, schedule=schedule, rule=jp.Rule(grow=jp.by_gradient)).init(
        PARAMS
    )


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


@pytest.mark.parametrize("packed", [False, True])
def test_sparsities_are_those_of_the_mask_under_jit_too(packed):
    tx = optax.chain(jp.sparsify(optax.sgd(0.1), 0.75, schedule=GRADUAL, packed=packed))
    for _, params, state in fit(tx):
        mask = jp.current(state[0]).mask
        kept = kernels(jp.unpack(mask, params) if packed else mask)
        for found in (jp.sparsities(state, params), jax.jit(jp.sparsities)(state, params)):
            assert found["up"]["bias"] is None
            for leaf in kept:
                expected = np.float32((~kept[leaf]).sum()) / np.float32(kept[leaf].size)
                assert found[leaf]["kernel"] == expected


def test_no_state_to_be_found():
    with pytest.raises(jp.NoMatch, match="found 0"):
        jp.current(optax.adam(0.1).init(PARAMS))
    with pytest.raises(jp.NoMatch, match="found 2"):
        jp.current((ONE.init(PARAMS), ONE.init(PARAMS)))


# --- loops --------------------------------------------------------------------------------------

TX = jp.sparsify(optax.adam(0.05), 0.75, schedule=GRADUAL)


def plainly(steps=14):
    return list(fit(TX, steps))[-1]


def test_scan_over_steps():
    @jax.jit
    def train(params):
        def step(carry, x):
            params, state = carry
            updates, state = TX.update(jax.grad(loss)(params, x), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, TX.init(params)), DATA[:14])[0]

    params, state = train(PARAMS)
    _, expected, _ = plainly()
    chex.assert_trees_all_close(params, expected, rtol=1e-5)
    assert zeros(params) == zeros(expected)
    assert int(jp.current(state).count) == 14


def test_a_train_state():
    state = TrainState.create(apply_fn=None, params=PARAMS, tx=TX)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, x):
        return state.apply_gradients(grads=jax.grad(loss)(state.params, x))

    state = jax.tree.map(jnp.copy, state)
    for x in DATA[:14]:
        state = step(state, x)
    assert zeros(state.params) == zeros(plainly()[1])
    assert int(jp.current(state.opt_state).count) == 14


def test_an_nnx_optimizer():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.down, self.up = nnx.Linear(16, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)

        def __call__(self, x):
            return self.up(jnp.tanh(self.down(x)))

    for rule in (jp.Rule(), jp.rigl()):
        tx = jp.sparsify(optax.adam(0.05), jp.Unstructured(0.75), schedule=GRADUAL, rule=rule)
        model = Net(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x):
            grads = nnx.grad(lambda model: jnp.mean((model(x) - 1) ** 2))(model)
            optimizer.update(model, grads)

        for x in DATA[:14]:
            step(model, optimizer, x)
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        found = zeros(params)
        assert found == {"down": 144, "up": 72}
        assert int(np.asarray(jax.tree.leaves(jp.current(optimizer.opt_state).count)[0])) == 14
    moving = optax.chain(tx, optax.scale(0.5))
    optimizer = nnx.Optimizer(model, moving, wrt=nnx.Param)
    for x in DATA[:9]:
        step(model, optimizer, x)
    with pytest.warns(UserWarning, match="sparsify must be the outermost transformation"):
        jp.current(optimizer.opt_state)


def test_an_equinox_module():
    model = eqx.nn.MLP(16, 8, 12, 1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, x):
        return jnp.mean((jax.vmap(eqx.combine(params, static))(x) - 1) ** 2)

    *_, (_, params, _) = fit(TX, params=params, loss=loss)
    assert int((params.layers[0].weight == 0).sum()) == 144
    assert int((params.layers[1].weight == 0).sum()) == 72


def test_boxed_parameters():
    model = nn.Dense(
        8, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
    )
    params = model.init(jax.random.key(0), DATA[0])["params"]
    *_, (_, params, _) = fit(
        TX, params=params, loss=lambda p, x: jnp.mean((model.apply({"params": p}, x) - 1) ** 2)
    )
    assert int((params["kernel"].value == 0).sum()) == 96


@pytest.mark.parametrize("outside", [False, True], ids=["sparsify outside", "MultiSteps outside"])
def test_gradient_accumulation_both_ways_round(outside):
    if outside:
        tx = optax.MultiSteps(jp.sparsify(optax.adam(0.05), 0.75, schedule=jp.gradual(1, 4)), 3)
    else:
        tx = jp.sparsify(optax.MultiSteps(optax.adam(0.05), 3), 0.75, schedule=GRADUAL)
    for _, params, state in fit(tx, 14):
        for leaf, mask in kernels(jp.current(state).mask).items():
            assert (kernels(params)[leaf][~mask] == 0).all()
    assert zeros(params) == {"down": 144, "up": 72}
    assert int(jp.current(state).count) == (4 if outside else 14)


@pytest.mark.parametrize(
    ("weights", "gradients"),
    [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16), (jnp.bfloat16, jnp.bfloat16)],
    ids=["bf16 weights", "bf16 gradients", "bf16"],
)
def test_zeros_are_exact_whatever_the_types(weights, gradients):
    params = jax.tree.map(lambda p: p.astype(weights), PARAMS)
    state = TX.init(params)
    for x in DATA[:14]:
        grads = jax.grad(loss)(params, x.astype(weights))
        grads = jax.tree.map(lambda g: g.astype(gradients), grads)
        updates, state = TX.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(weights)}
    assert zeros(params) == {"down": 144, "up": 72}


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
def test_sharded_parameters(axis_type):
    mesh = jax.make_mesh((4, 2), ("a", "b"), (axis_type,) * 2)
    specs = {"kernel": P("a", "b"), "bias": P()}
    spread = {
        name: {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in layer.items()}
        for name, layer in PARAMS.items()
    }
    with jax.set_mesh(mesh):
        tx = jp.sparsify(optax.adam(0.05), 0.75, schedule=jp.constant(2, 8, 3), rule=jp.rigl())
        grads = [jax.grad(loss)(PARAMS, x) for x in DATA[:6]]  # of one device: the same bits
        step = jax.jit(tx.update)
        params, state = spread, tx.init(spread)
        alone, alone_state = PARAMS, tx.init(PARAMS)
        text = step.lower(jax.tree.map(jax.device_put, grads[0]), state, params).compile().as_text()
        assert "all-gather" not in text
        for g in grads:
            here = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), g, params)
            updates, state = step(here, state, params)
            params = optax.apply_updates(params, updates)
            updates, alone_state = tx.update(g, alone_state, alone)
            alone = optax.apply_updates(alone, updates)
    chex.assert_trees_all_equal(
        kernels(jp.current(state).mask), kernels(jp.current(alone_state).mask)
    )
    kernel = params["down"]["kernel"]
    assert jp.current(state).mask["down"]["kernel"].sharding.is_equivalent_to(kernel.sharding, 2)


def test_tree_map_params_finds_the_mask():
    state = TX.init(PARAMS)
    mapped = optax.tree_utils.tree_map_params(
        TX, lambda _: "param", state, transform_non_params=lambda _: "other"
    )
    assert jp.current(mapped).mask["down"]["kernel"] == "param"
    assert jp.current(mapped).count == "other"


# --- straight through ---------------------------------------------------------------------------


def test_straight_through_prunes_forward_and_lets_gradients_through():
    weights, slopes = PARAMS["down"]["kernel"], jnp.asarray(RNG.normal(size=(16, 12)), jnp.float32)

    def forward(weights):
        return jp.straight_through({"kernel": weights}, jp.NM(2, 4))["kernel"]

    pruned, _ = jp.prune(weights, jp.NM(2, 4))
    chex.assert_trees_all_equal(jax.jit(forward)(weights), pruned)
    grads = jax.jit(jax.grad(lambda w: jnp.sum(forward(w) * slopes)))(weights)
    chex.assert_trees_all_equal(grads, slopes)


def test_sr_ste_pulls_what_is_pruned_to_zero():
    weights = PARAMS["down"]["kernel"]
    kept = jp.make_mask(jnp.abs(weights), jp.NM(2, 4))
    grads = jax.grad(lambda w: jnp.sum(jp.straight_through(w, jp.NM(2, 4), decay=0.25)))(weights)
    chex.assert_trees_all_close(grads, jnp.where(kept, 1, 1 + 0.25 * weights))
    with pytest.raises(jp.PruningError, match="decay is a number of 0 or more"):
        jp.straight_through(weights, 0.5, decay=-1)


def test_straight_through_leaves_what_is_no_array():
    model = eqx.nn.MLP(8, 8, 8, 1, key=jax.random.key(0))
    grads = eqx.filter_grad(lambda m: jnp.sum(jp.straight_through(m, 0.5)(jnp.ones(8))))(model)
    assert grads.layers[0].weight.shape == (8, 8)
    with pytest.raises(jp.PruningError, match="decay is a number"):
        jp.straight_through(model, 0.5, decay="a")


def test_straight_through_in_a_training_loop():
    def sparse_loss(params, x):
        return loss(jp.straight_through(params, jp.NM(2, 4), decay=2e-4), x)

    *_, (_, params, _) = fit(optax.adam(0.05), loss=sparse_loss)
    assert zeros(params) == {"down": 0, "up": 0}
    assert float(sparse_loss(params, DATA[0])) < float(sparse_loss(PARAMS, DATA[0]))
