"""A training that is saved in mid-schedule and restored goes on to the bit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaxprune as jp

RNG = np.random.default_rng(0)
PARAMS = {"bias": jnp.zeros(12), "kernel": jnp.asarray(RNG.normal(size=(16, 12)), jnp.float32)}
GRADS = [
    {"bias": jnp.ones(12), "kernel": jnp.asarray(RNG.normal(size=(16, 12)), jnp.float32)}
    for _ in range(12)
]
KINDS = {
    "gradual": {"schedule": jp.gradual(1, 11, 2)},
    "packed, averaged": {
        "schedule": jp.gradual(1, 11, 2),
        "packed": True,
        "metric": jp.averaged(jp.Taylor),
    },
    "RigL, accumulated": {"schedule": jp.constant(0, 11, 2), "rule": jp.rigl(decay=0.9)},
    "SET, a typed key": {
        "schedule": jp.constant(0, 11, 2),
        "rule": jp.sparse_evolution(),
        "key": jax.random.key(3),
    },
}


def go_on(tx, params, state, grads):
    step = jax.jit(tx.update)
    for g in grads:
        updates, state = step(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def saved_and_restored(folder, tree, like):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "saved", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "saved", like)


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_to_the_bit(kind, tmp_path):
    tx = jp.sparsify(optax.adam(0.05), 0.75, **KINDS[kind])
    there = go_on(tx, PARAMS, tx.init(PARAMS), GRADS[:6])
    like = jax.eval_shape(lambda params: (params, tx.init(params)), PARAMS)
    again = saved_and_restored(tmp_path, there, like)
    chex.assert_trees_all_equal(go_on(tx, *there, GRADS[6:]), go_on(tx, *again, GRADS[6:]))


def test_what_was_made_by_another_spec_is_refused(tmp_path):
    tx = jp.sparsify(optax.adam(0.05), 0.75, **KINDS["gradual"])
    params, state = go_on(tx, PARAMS, tx.init(PARAMS), GRADS[:2])
    state = saved_and_restored(tmp_path, state, jax.eval_shape(tx.init, PARAMS))
    other = jp.sparsify(optax.adam(0.05), 0.75, where=jp.any_leaf, **KINDS["gradual"])
    with pytest.raises(jp.StructureMismatch, match="`bias` has no mask by this spec"):
        other.update(GRADS[0], state, params)
    wider = jax.tree.map(lambda p: jnp.concatenate([p, p], -1), params)
    with pytest.raises(jp.StructureMismatch, match="`kernel` has shape"):
        tx.update(wider, state, wider)
