"""What is found in an optimizer state: masks, sparsities, and zeros that were moved."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.training.model import GRADUAL, ONE, PARAMS, TX, fit, kernels, zeros

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
    with pytest.raises(jp.NoMatch, match="found no state of sparsify"):
        jp.current(optax.adam(0.1).init(PARAMS))


def test_tree_map_params_finds_the_mask():
    state = TX.init(PARAMS)
    mapped = optax.tree_utils.tree_map_params(
        TX, lambda _: "param", state, transform_non_params=lambda _: "other"
    )
    assert jp.current(mapped).mask["down"]["kernel"] == "param"
    assert jp.current(mapped).count == "other"


LABELS = {"down": "much", "up": "some"}
PARTS = {
    "partition": lambda much, some: optax.partition({"much": much, "some": some}, LABELS),
    "multi_transform": lambda much, some: optax.multi_transform(
        {"much": much, "some": some}, LABELS
    ),
    "masked": lambda much, some: optax.chain(
        optax.masked(much, {"down": True, "up": False}),
        optax.masked(some, {"down": False, "up": True}),
    ),
}


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("packed", [False, True])
def test_several_states_each_for_a_part(parts, packed):
    how = {"schedule": jp.one_shot(), "packed": packed}
    tx = PARTS[parts](
        jp.sparsify(optax.adam(0.01), 0.75, **how), jp.sparsify(optax.sgd(0.1), 0.5, **how)
    )
    updates, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    found = jp.current(state)
    assert isinstance(found, jp.KeepMaskState)
    mask = jp.unpack(found.mask, params) if packed else found.mask
    expected = jp.prune(PARAMS, {"down": 0.75, "up": 0.5})[1]
    chex.assert_trees_all_equal(mask, expected)
    assert zeros(params) == {"down": 144, "up": 48}
    assert jp.sparsities(state, params)["down"]["kernel"] == 0.75


@pytest.mark.parametrize("parts", PARTS)
def test_the_mask_of_a_part_fits_all_parameters(parts):
    tx = PARTS[parts](jp.sparsify(optax.adam(0.01), 0.75, schedule=jp.one_shot()), optax.sgd(0.1))
    mask = jp.current(tx.init(PARAMS)).mask
    pruned = jp.apply_mask(PARAMS, mask)
    assert zeros(pruned) == {"down": 144, "up": 0}
    assert [row.in_scope for row in jp.report(pruned, mask).rows] == [False, True, False, False]


def test_two_masks_of_one_parameter_are_refused():
    with pytest.raises(jp.StructureMismatch, match="several masks for `down/kernel`"):
        jp.current((ONE.init(PARAMS), ONE.init(PARAMS)))


def test_a_hole_stands_for_all_leaves_below_it_and_for_no_others():
    mask = jp.prune(PARAMS, 0.5)[1]
    for hole in (None, optax.MaskedNode()):
        pruned = jp.apply_mask(PARAMS, {"down": mask["down"], "up": hole})
        assert zeros(pruned) == {"down": 96, "up": 0}
    with pytest.raises(jp.StructureMismatch, match="missing `up/bias`, `up/kernel`"):
        jp.apply_mask(PARAMS, {"down": mask["down"]})
    with pytest.raises(jp.StructureMismatch, match="unexpected `side`"):
        jp.apply_mask(PARAMS, {**mask, "side": None})
    with pytest.raises(jp.StructureMismatch, match="missing `down/bias`"):
        jp.apply_mask(PARAMS, None)
