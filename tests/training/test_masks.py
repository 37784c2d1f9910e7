"""Masks beside parameters: the first ones, a state's, and those that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.training.model import ONE, PARAMS


def test_a_given_mask_out_of_scope_is_refused():
    mask = jax.tree.map(lambda w: jnp.ones_like(w, bool), PARAMS)
    with pytest.raises(jp.StructureMismatch, match=r"`up/bias` has a mask, and .* left dense"):
        jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.one_shot(), mask=mask).init(PARAMS)


def test_updates_of_another_structure():
    with pytest.raises(jp.StructureMismatch, match="updates does not have the leaves"):
        ONE.update({"down": PARAMS["down"]}, ONE.init(PARAMS), PARAMS)


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
