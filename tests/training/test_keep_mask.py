"""A mask that stays as it is."""

import chex
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp
from tests.training.model import ONE, OPTIMIZERS, PARAMS, every_optimizer, fit, zeros


@every_optimizer
def test_a_kept_mask_stays(name):
    sparse, mask = jp.prune(PARAMS, 0.5)
    tx = optax.chain(OPTIMIZERS[name], jp.keep_mask(mask))
    for _, params, state in fit(tx, 4, sparse):
        assert zeros(params) == {"down": 96, "up": 48}
    chex.assert_trees_all_equal(jp.current(state).mask, mask)


@pytest.mark.parametrize(
    ("leaf", "words"), [(None, "it is not an array"), (jnp.ones((1, 4)), r"it has shape \(1, 4\)")]
)
def test_updates_that_do_not_fit_are_told(leaf, words):
    updates = {**PARAMS, "up": {**PARAMS["up"], "kernel": leaf}}
    for tx in (ONE, jp.keep_mask(jp.prune(PARAMS, 0.5)[1])):
        with pytest.raises(jp.StructureMismatch, match=f"`up/kernel` has shape .* {words}"):
            tx.update(updates, tx.init(PARAMS), PARAMS)


def test_params_are_needed():
    for tx in (ONE, jp.keep_mask(jp.prune(PARAMS, 0.5)[1])):
        with pytest.raises(jp.PruningError, match=r"call tx.update\(grads, state, params\)"):
            tx.update(PARAMS, tx.init(PARAMS))
