"""Without some of its residual blocks a model is the masked model: branches, layers of a stack."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.shrinking.deep import BUILDERS, NAMES, STACK, built, droppable, layer, without
from tests.shrinking.test_exact import ROUNDING, gap, masked_results, on_arrays
from tests.shrinking.test_trees import shapes
from tests.tracing.models import normal
from tests.tracing.test_models import quickly


@pytest.mark.parametrize("name", BUILDERS)
def test_what_is_left_is_the_masked_model(name):
    model, params, deps = built(name)
    assert list(droppable(deps)) == NAMES[name]
    dense, arrays = on_arrays(model.f, params, model.inputs)
    whole = dense(arrays)
    for names in (NAMES[name][-1:], NAMES[name]):
        cut = without(deps, *names)
        expected = masked_results(model, params, deps, cut, dense)
        assert gap(whole, expected) > 1e-3
        run, arrays = on_arrays(deps.function(cut), deps.shrink(params, cut), model.inputs)
        assert gap(expected, run(arrays)) < ROUNDING
        assert {leaf.shape for leaf in arrays} <= {*deps.sizes(cut).values()}
        assert len(arrays) == len(deps.sizes(cut))


GONE = {
    "transformer": jp.Cut({"params/layer_0/attention:branch": ()}),
    "stack": jp.Cut({"layers:layers": (0, 2, 3)}),
}


@pytest.mark.parametrize("name", GONE)
def test_depth_and_width_together_and_what_they_cost(name):
    model, params, deps = built(name)
    cut = deps.choose(params, 0.5) | GONE[name]
    small = deps.shrink(params, cut)
    expected = masked_results(model, params, deps, cut)
    run, arrays = on_arrays(deps.function(cut), small, model.inputs)
    assert gap(expected, run(arrays)) < ROUNDING
    assert deps.cost(cut).weights == sum(array.size for array in arrays)
    again = jp.dependencies(deps.function(cut), small, *model.inputs)
    assert deps.cost(cut).multiply_adds == again.cost(jp.Cut({})).multiply_adds


@pytest.mark.parametrize("name", GONE)
@pytest.mark.parametrize("per", ["group", "global"])
@pytest.mark.parametrize("budget", ["weights", "multiply_adds"])
def test_one_budget_for_blocks_and_units(name, per, budget):
    _, params, deps = built(name)
    cut = deps.choose(params, 0.5, per=per, budget=budget, cut=GONE[name])
    assert cut | GONE[name] == cut
    cost, units = deps.cost(cut), {group.name: group.units for group in deps.groups}
    target = 0.5 * getattr(cost, f"of_{budget}")
    assert getattr(cost, budget) <= target
    # With one unit more in one of the groups it would be more.
    more = []
    for group in cut.kept.keys() - GONE[name].kept.keys():
        (unit, *_) = {*range(units[group])} - {*cut.kept[group]}
        again = jp.Cut(dict(cut.kept) | {group: (*cut.kept[group], unit)})
        more.append(getattr(deps.cost(again), budget))
    assert max(more) > target


def test_what_goes_with_a_block_counts_for_nothing():
    _, params, deps = built("stack")
    # What the first layer holds would decide, were it there.
    loud = jax.tree.map(lambda w: w.at[0].multiply(100), params["layers"])
    quiet = jax.tree.map(lambda w: w.at[0].set(0), params["layers"])
    gone = jp.Cut({"layers:layers": (1, 2, 3)})
    one, other = (deps.choose(params | {"layers": w}, 0.5, cut=gone) for w in (loud, quiet))
    assert one == other == deps.choose(params | {"layers": quiet}, 0.5) | gone
    assert deps.choose(params | {"layers": loud}, 0.5) | gone != one
    _, params, deps = built("transformer")
    cut = deps.choose(params, 0.5, cut=GONE["transformer"])
    assert not [n for n in cut.kept if "layer_0/attention" in n and not n.endswith(":branch")]
    with pytest.raises(jp.NoMatch, match=r"query:heads: it goes as a whole with a residual block"):
        deps.choose(params, {"*/layer_0/attention/*": 0.5}, cut=GONE["transformer"])


def test_what_a_block_costs():
    deps = built("transformer")[2]
    block = droppable(deps)["params/layer_1/down:branch"]
    assert block.weights == 2 * 8 + (8 * 12 + 12) + (12 * 8 + 8)
    assert block.multiply_adds == 2 * 4 * (8 * 12 + 12 * 8)
    assert block.last == ("params/layer_1/down/bias", "params/layer_1/down/kernel")
    cost = deps.cost(without(deps, block.name))
    assert cost.of_weights - cost.weights == block.weights
    assert cost.of_multiply_adds - cost.multiply_adds == block.multiply_adds
    (layers,) = droppable(built("stack")[2]).values()
    assert (layers.units, layers.weights) == (4, 6 + 6 * 7 + 7 * 6 + 6 * 6)
    assert layers.multiply_adds == 2 * (6 * 7 + 7 * 6 + 6 * 6)
    assert layers.last == ("layers/down", "layers/side")


LAYERS = [jax.tree.map(lambda w, k=k: w[k], STACK["layers"]) for k in (0, 1)]
TWO_LAYERS = {**STACK, "layers": LAYERS}


def two_layers(p, x):
    x = x @ p["embed"]
    for each in p["layers"]:
        x = jax.checkpoint(layer)(each, x)
    return x @ p["head"]


def test_gradients_are_those_of_the_masked_model_under_remat_too():
    x = normal(2, 5)
    deps = jp.dependencies(two_layers, TWO_LAYERS, x)
    cut = without(deps, "layers/0/side:branch")

    def slope(f):
        return quickly(jax.grad(lambda p: jnp.sum(jnp.sin(f(p, x)))))

    small = slope(deps.function(cut))(deps.shrink(TWO_LAYERS, cut))
    whole = slope(two_layers)(jp.apply_mask(TWO_LAYERS, deps.mask(TWO_LAYERS, cut)))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5),
        small,
        deps.shrink(whole, cut),
    )


def test_a_branch_taken_for_the_stream_is_found():
    model, params, deps = built("resnet")
    cut = without(deps, "0/three:branch")
    assert deps.verify(params, cut, *model.inputs) < ROUNDING
    places = dict(deps.model.depth.places)
    wrong = dataclasses.replace(places["0/three:branch"], stream=0)
    depth = dataclasses.replace(deps.model.depth, places=places | {"0/three:branch": wrong})
    mutated = dataclasses.replace(deps.model, depth=depth)
    broken = dataclasses.replace(deps, model=mutated, reread=lambda inputs: mutated)
    with pytest.raises(jp.PruningError, match="0/three:branch"):
        broken.verify(params, cut, *model.inputs)


def test_last_weights_that_are_not_masked_are_found():
    model, params, deps = built("transformer")
    name = "params/layer_0/down:branch"
    places = dict(deps.model.depth.places)
    half = dataclasses.replace(places[name], last=frozenset([min(places[name].last)]))
    depth = dataclasses.replace(deps.model.depth, places=places | {name: half})
    mutated = dataclasses.replace(deps.model, depth=depth)
    broken = dataclasses.replace(deps, model=mutated, reread=lambda inputs: mutated)
    with pytest.raises(jp.PruningError, match=rf"these groups differ: {name} \("):
        broken.verify(params, without(deps, name), *model.inputs)


# --- trees ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["transformer", "resnet", "mixer", "stack"])
def test_states_of_optimizers_are_those_of_the_small_parameters(name):
    _, params, deps = built(name)
    cut = without(deps, NAMES[name][0])
    params = eqx.filter(params, eqx.is_array) if name == "mixer" else params
    small = deps.shrink(params, cut)

    def matrices(tree):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)

    def labels(tree):
        return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", tree)

    for tx in (
        optax.adamw(1e-3),
        optax.adafactor(1e-3, min_dim_size_to_factor=999),
        optax.masked(optax.trace(0.9), matrices),
        optax.partition({"matrix": optax.adam(1e-3), "vector": optax.lion(1e-3)}, labels),
        optax.contrib.muon(1e-3),
    ):
        state = deps.shrink(tx.init(params), cut)
        begun = jax.eval_shape(tx.init, small)
        assert jax.tree.structure(state) == jax.tree.structure(begun)
        assert shapes(state) == shapes(begun)


def test_where_a_leaf_was_there_is_none():
    _, params, deps = built("transformer")
    cut = without(deps, "params/layer_0/attention:branch")
    small = deps.shrink(params, cut)["params"]
    assert small["layer_0"]["attention"]["query"]["kernel"] is None
    assert small["layer_0"]["norm_1"]["scale"] is None
    assert small["layer_0"]["norm_2"]["scale"].shape == (8,)
    assert "params/layer_0/norm_1/scale" not in deps.sizes(cut)
    whole = deps.function(cut)
    with pytest.raises(jp.StructureMismatch, match=r"arrays, and .* are left by this cut"):
        whole(params, normal(2, 4, 5))


def test_a_cut_is_read_from_masks_and_from_zeros():
    for name in ("transformer", "stack"):
        _, params, deps = built(name)
        cut = without(deps, NAMES[name][-1])
        mask = deps.mask(params, cut)
        assert deps.cut_of(mask) == deps.cut_of(jp.apply_mask(params, mask)) == cut
        assert jp.Cut.from_json(cut.to_json()) == cut


def test_a_small_function_is_read_again_and_takes_other_batches():
    x = normal(2, 5)
    deps = jp.dependencies(two_layers, TWO_LAYERS, x)
    first, second, third, last = droppable(deps)
    cut = without(deps, first, second, third)
    small, faster = deps.shrink(TWO_LAYERS, cut), deps.function(cut)
    assert list(droppable(jp.dependencies(faster, small, x))) == [last]
    run = quickly(faster)
    both = run(small, np.concatenate([x, x]))
    np.testing.assert_allclose(both[:2], run(small, x), atol=1e-5)
    assert len(faster.models.others) == 1
