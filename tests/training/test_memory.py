"""What an optimizer remembers of weights that grow."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.training.model import OPTIMIZERS, PARAMS, fit, kernels, lost


@pytest.mark.parametrize(
    ("name", "rule"),
    [*((name, "rigl") for name in OPTIMIZERS), ("adam", "sparse_evolution")],
)
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
    no_grads = jax.tree.map(jnp.zeros_like, PARAMS)
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
                # As the optimizer leaves new memory after a gradient of zero.
                _, new = fresh.update(no_grads, fresh.init(params), params)
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


def first_growth(inner):
    """A state of RigL in which some weights have just come back, and which of them."""
    weights = {"kernel": jnp.asarray(np.random.default_rng(7).normal(size=(16, 12)), jnp.float32)}
    tx = jp.sparsify(inner, 0.5, schedule=jp.constant(0, 90, every=4), rule=jp.rigl(0.5))
    state, params = tx.init(weights), weights
    for i in range(4):
        old = state.mask["kernel"]
        grads = jax.tree.map(lambda w, i=i: jnp.sin(9 * w + i), weights)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    grown = np.asarray(state.mask["kernel"] & ~old)
    assert grown.any()
    return tx, state, params, grown


def test_counters_go_on_where_weights_grow():
    _, state, _, grown = first_growth(optax.adam(0.1))
    moments = state.inner[0]
    assert moments.count == 4
    assert (np.asarray(moments.mu["kernel"])[grown] == 0).all()
    assert (np.asarray(moments.nu["kernel"])[grown] == 0).all()
    assert (np.asarray(moments.nu["kernel"])[state.mask["kernel"] & ~grown] > 0).any()


def test_what_divides_by_new_memory_takes_too_large_a_step():
    # AdaBelief adds to the variance before it divides by it; ACProp divides first.
    steps = {}
    for name, inner in {
        "adabelief": optax.adabelief(0.1),
        "acprop": optax.contrib.acprop(0.1),
    }.items():
        tx, state, params, grown = first_growth(inner)
        updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        steps[name] = float(abs(np.asarray(updates["kernel"]))[grown].max())
    assert steps["adabelief"] < 1
    assert steps["acprop"] > 1e5


def test_labels_that_are_a_tree():
    parts = {"a": optax.adam(0.1), "b": optax.sgd(0.1, momentum=0.9)}
    _, state, _, grown = first_growth(optax.partition(parts, {"kernel": "a"}))
    moments = jax.tree.leaves(state.inner.inner_states["a"])
    assert all((np.asarray(m)[grown] == 0).all() for m in moments if m.shape == grown.shape)


def test_an_optimizer_that_takes_one_tree_only_is_refused():
    plain = optax.sgd(0.1, momentum=0.9)
    narrow = optax.GradientTransformation(
        lambda params: plain.init({"kernel": params["kernel"]}), plain.update
    )
    with pytest.raises(jp.PruningError, match="init must work on any tree"):
        first_growth(narrow)
