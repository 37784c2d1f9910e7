"""Dense weights, a sparse forward pass."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp
from tests.training.model import DATA, PARAMS, RNG, fit, loss, zeros


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
