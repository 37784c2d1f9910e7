"""Exact zeros after every update, the sparsity asked for, in any optimizer."""

import re

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
    ONE,
    OPTIMIZERS,
    PARAMS,
    TX,
    every_optimizer,
    fit,
    kernels,
    loss,
    lost,
    zeros,
)


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


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("rule", [jp.Rule(), jp.rigl()], ids=["loses", "grows"])
def test_no_update_copies_a_mask_or_an_array_of_the_optimizer(rule):
    params = {f"kernel{i}": jnp.ones((130, 120 + i)) for i in range(3)}
    tx = jp.sparsify(optax.adam(0.1), 0.5, schedule=GRADUAL, rule=rule)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params), params).compile()
    _, entry = compiled.as_text().split("ENTRY ")
    assert "[130,12" in entry
    assert not re.findall(r"= \w+\[130,12\S* copy\(", entry)


@pytest.mark.parametrize("spec", [jp.NM(2, 4), jp.Unstructured(0.5, per=0), 0.5], ids=str)
def test_leaves_of_more_weights_than_an_int32_counts(spec):
    params = {"kernel": jax.ShapeDtypeStruct((40, 5120, 13824), jnp.bfloat16)}
    tx = jp.sparsify(optax.sgd(0.1), spec, schedule=GRADUAL)
    state = jax.eval_shape(tx.init, params)
    updates, _ = jax.eval_shape(tx.update, params, state, params)
    chex.assert_trees_all_equal_shapes(updates, params)


def test_a_key_that_is_none_is_refused():
    for key in (3, jax.random.split(jax.random.key(0))):
        tx = jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.one_shot(), key=key)
        with pytest.raises(jp.PruningError, match="expected one PRNG key"):
            tx.init(PARAMS)


def test_one_in_another():
    tx = jp.sparsify(optax.chain(ONE), 0.5, schedule=jp.one_shot())
    with pytest.raises(jp.PruningError, match="wrap the plain optimizer, once"):
        tx.init(PARAMS)


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
