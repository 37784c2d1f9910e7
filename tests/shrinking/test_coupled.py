"""`Coupled` as a spec: whole units go, in masks and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.shrinking.models import MODELS, filled
from tests.shrinking.small import PARAMS, X, deps, model


@pytest.mark.parametrize("sparsity", [0.25, 0.5])
def test_it_prunes_what_choose_cuts(sparsity):
    mask = jp.make_mask(jp.importance(PARAMS, jp.L2()), jp.Coupled(deps(), sparsity))
    cut = deps().choose(PARAMS, sparsity)
    chosen = deps().mask(PARAMS, cut)
    jax.tree.map(np.testing.assert_array_equal, mask, chosen)
    assert deps().cut_of(mask) == cut


def test_under_jit_and_with_sparsity_as_data():
    eager = jp.make_mask(PARAMS, jp.Coupled(deps(), 0.5))
    compiled = jax.jit(lambda p, s: jp.make_mask(p, jp.Coupled(deps(), s)))(PARAMS, 0.5)
    jax.tree.map(np.testing.assert_array_equal, eager, compiled)


def test_a_stack_of_attention():
    of = MODELS["scanned_transformer"]()
    params = filled(of.params)
    found = jp.dependencies(of.f, params, *of.inputs)
    pruned, mask = jp.prune(params, jp.Coupled(found, 0.5), metric=jp.L2())
    cut = found.choose(params, 0.5)
    assert found.cut_of(pruned) == cut
    chosen = found.mask(params, cut)
    jax.tree.map(np.testing.assert_array_equal, chosen, mask, is_leaf=lambda x: x is None)


def test_some_groups_alone_and_other_leaves_by_other_rules():
    mask = jp.make_mask(PARAMS, jp.Coupled(deps(), 0.5, groups="up"))
    assert mask["embed"]["kernel"] is None
    spec = {"head": 0.5, "*": jp.Coupled(deps(), 0.5, groups="up")}
    mask = jp.make_mask(PARAMS, spec)
    assert int(jnp.sum(mask["head"]["kernel"])) == 6
    assert int(jnp.sum(mask["up"]["bias"])) == 4


def test_training_into_the_cut():
    spec = jp.Coupled(deps(), 0.5)
    tx = jp.sparsify(
        optax.adam(1e-2), spec, schedule=jp.gradual(begin=2, end=8, every=2), metric=jp.L2()
    )

    @jax.jit
    def step(params, state):
        def loss(params):
            return jnp.mean(jnp.square(model(params, X) - 1))

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    counts = []
    for _ in range(10):
        params, state = step(params, state)
        counts.append(int(jnp.sum(state.mask["up"]["bias"])))
    assert counts[0] == 8
    assert counts[-1] == 4
    assert counts == sorted(counts, reverse=True)
    cut = deps().cut_of(params)
    assert {name: len(kept) for name, kept in cut.kept.items()} == {"embed": 3, "up": 4}
    small = deps().shrink(params, cut)
    np.testing.assert_allclose(deps().function(cut)(small, X), model(params, X), rtol=1e-5)
    # What the optimizer knows goes along, and so does the mask, which now keeps everything.
    smaller = deps().shrink(state, cut)
    assert smaller.inner[0].mu["up"]["kernel"].shape == (3, 4)
    assert bool(smaller.mask["up"]["bias"].all())


def test_dependencies_of_another_model_are_refused_as_such():
    spec = jp.Coupled(deps(), 0.5)
    for tree in ({"other": {"kernel": jnp.ones((2, 2))}}, {"params": PARAMS}):
        words = (
            r"^Coupled\(\.\.\., 0\.5\) is for none of the leaves .* made for another model\. Make"
        )
        with pytest.raises(jp.StructureMismatch, match=words):
            jp.make_mask(tree, spec)
    with pytest.raises(jp.StructureMismatch, match="another model, or the rule 'head' is to cover"):
        jp.make_mask(PARAMS, {"head": jp.Coupled(deps(), 0.5, groups="up")})
    part = {name: PARAMS[name] for name in ("embed", "up", "head")}
    words = "such as `down/kernel`: .* they were made for another model: read those of this one"
    with pytest.raises(jp.StructureMismatch, match=words):
        jp.make_mask(part, spec)


def test_bad_use_is_refused():
    with pytest.raises(jp.PruningError, match=r"write jp.Coupled\(jp.dependencies"):
        jp.Coupled(PARAMS, 0.5)
    with pytest.raises(jp.InvalidSparsity):
        jp.Coupled(deps(), 1.0)
    with pytest.raises(
        jp.StructureMismatch, match=r"1 of these are not among .* such as `up/bias`"
    ):
        jp.make_mask(PARAMS, jp.Coupled(deps(), 0.5), where=["embed", "*/kernel"])
    with pytest.raises(jp.StructureMismatch, match="`other` has no part in the units"):
        jp.make_mask({"other": jnp.ones((2, 2))}, jp.Coupled(deps(), 0.5), where=jp.any_leaf)
    with pytest.raises(jp.NoMatch, match="'decoder' matches no group"):
        jp.make_mask(PARAMS, jp.Coupled(deps(), 0.5, groups="decoder"))
    with pytest.raises(jp.NoMatch, match="no unit of the tree is gone"):
        deps().cut_of(PARAMS)
    assert repr(jp.Coupled(deps(), 0.5)) == "Coupled(..., 0.5)"
