"""Without some of its residual blocks a model is the masked model: branches, layers of a stack."""

import dataclasses
import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp
from tests.shrinking.models import filled
from tests.shrinking.test_exact import ROUNDING, gap, masked_results, on_arrays
from tests.shrinking.test_trees import shapes
from tests.tracing.models import MODELS, Model, initial, normal
from tests.tracing.test_models import quickly

# --- a pre-norm transformer with remat and dropout (Linen) ----------------------------------------


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(name="norm_1")(x)
        y = nn.MultiHeadDotProductAttention(2, name="attention")(y)
        x = x + nn.Dropout(0.5, deterministic=True)(y)
        y = nn.gelu(nn.Dense(12, name="up")(nn.LayerNorm(name="norm_2")(x)))
        return x + nn.Dense(8, name="down")(y)


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="embed")(x)
        for k in range(2):
            x = nn.remat(Layer)(name=f"layer_{k}")(x)
        return nn.Dense(3, name="head")(nn.LayerNorm(name="norm")(x))


def transformer():
    model, x = Transformer(), normal(2, 4, 5)
    return Model(model.apply, initial(model, x), (x,), {})


# --- a residual network whose skips are plain, strided or projected (NNX) -------------------------


class Unit(nnx.Module):
    def __init__(self, into, out, rngs):
        self.first = nnx.Conv(into, out, (3, 3), use_bias=False, rngs=rngs)
        self.norm_1 = nnx.BatchNorm(out, use_running_average=True, rngs=rngs)
        self.second = nnx.Conv(out, out, (3, 3), rngs=rngs)
        self.norm_2 = nnx.BatchNorm(out, use_running_average=True, rngs=rngs)
        self.project = None if into == out else nnx.Conv(into, out, (1, 1), rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.norm_1(self.first(x)))
        skip = x if self.project is None else self.project(x)
        return nnx.relu(self.norm_2(self.second(y)) + skip)


class ResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.one, self.two, self.three = Unit(4, 4, rngs), Unit(4, 6, rngs), Unit(6, 6, rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        return self.head(self.three(self.two(self.one(x))).mean((1, 2)))


def resnet():
    graph, params, state = nnx.split(
        nnx.eval_shape(lambda: ResNet(nnx.Rngs(0))), nnx.Param, nnx.BatchStat
    )
    return Model(
        lambda both, x: nnx.merge(graph, *both)(x), (params, state), (normal(2, 4, 4, 3),), {}
    )


# --- an MLP-mixer (Equinox) -----------------------------------------------------------------------


class Mixing(eqx.Module):
    norms: list
    tokens: eqx.nn.MLP
    channels: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key, 2)
        self.norms = [eqx.nn.LayerNorm(6), eqx.nn.LayerNorm(6)]
        self.tokens = eqx.nn.MLP(4, 4, 7, 1, key=keys[0])
        self.channels = eqx.nn.MLP(6, 6, 9, 1, key=keys[1])

    def __call__(self, x):
        y = jax.vmap(self.norms[0])(x)
        x = x + jax.vmap(self.tokens)(y.T).T
        return x + jax.vmap(self.channels)(jax.vmap(self.norms[1])(x))


class Mixer(eqx.Module):
    embed: eqx.nn.Linear
    mixing: list
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.embed, self.head = eqx.nn.Linear(5, 6, key=keys[0]), eqx.nn.Linear(6, 3, key=keys[1])
        self.mixing = [Mixing(keys[2]), Mixing(keys[3])]

    def __call__(self, x):
        x = jax.vmap(self.embed)(x)
        for mixing in self.mixing:
            x = mixing(x)
        return self.head(x.mean(0))


def mixer():
    return Model(
        lambda model, x: jax.vmap(model)(x),
        eqx.filter_eval_shape(Mixer, jax.random.key(0)),
        (normal(2, 4, 5),),
        {},
    )


# --- a stack of layers, in a precision of its own (plain JAX) -------------------------------------


def layer(p, x):
    y = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * p["norm"]
    return x + jnp.tanh(y @ p["up"]) @ p["down"] + jnp.sin(y) @ p["side"]


def stacked(params, x):
    layers = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(jnp.float32), params["layers"])
    x, _ = jax.lax.scan(lambda x, p: (layer(p, x), None), x @ params["embed"], layers)
    return x @ params["head"]


def draw(**shapes):
    random = np.random.default_rng(0)
    return {
        name: draw(**shape)
        if isinstance(shape, dict)
        else jnp.asarray(random.normal(size=shape) * 0.5, jnp.float32)
        for name, shape in shapes.items()
    }


STACK = draw(
    embed=(5, 6),
    layers={"norm": (4, 6), "up": (4, 6, 7), "down": (4, 7, 6), "side": (4, 6, 6)},
    head=(6, 3),
)


def stack():
    return Model(stacked, STACK, (normal(2, 5),), {})


BUILDERS = {make.__name__: make for make in (transformer, resnet, mixer, stack)} | {
    name: MODELS[name] for name in ("decoder", "encoder_decoder", "mixture_of_experts")
}


@functools.cache
def built(name):
    model = BUILDERS[name]()
    return model, filled(model.params), jp.dependencies(model.f, model.params, *model.inputs)


def droppable(deps):
    return {block.name: block for block in deps.blocks if not block.refused}


def without(deps, *names):
    """The cut of these blocks; of a stack, of all layers but the last."""
    blocks = droppable(deps)
    return jp.Cut({n: () if blocks[n].units == 1 else (blocks[n].units - 1,) for n in names})


# --- laws -----------------------------------------------------------------------------------------

NAMES = {
    "transformer": [
        f"params/layer_{k}/{branch}:branch" for k in (0, 1) for branch in ("attention", "down")
    ],
    "resnet": ["0/one:branch", "0/three:branch"],
    "mixer": [
        f"mixing/{k}/{branch}/layers:branch" for k in (0, 1) for branch in ("tokens", "channels")
    ],
    "stack": ["layers:layers"],
    "decoder": [f"layers/{k}/{last}:branch" for k in (0, 1) for last in ("out", "down")],
    "encoder_decoder": [
        f"params/{name}:branch" for name in ("encoder", "encoder_mlp", "decoder", "cross/out")
    ],
    "mixture_of_experts": ["dispatch:branch", "ragged:branch"],
}


@pytest.mark.parametrize("name", BUILDERS)
def test_what_is_left_is_the_masked_model(name):
    model, params, deps = built(name)
    assert list(droppable(deps)) == NAMES[name]
    dense, arrays = on_arrays(model.f, params, model.inputs)
    whole = dense(arrays)
    for names in (NAMES[name][-1:], NAMES[name]):
        cut = without(deps, *names)
        expected = masked_results(model, params, deps, cut)
        assert gap(whole, expected) > 1e-3
        run, arrays = on_arrays(deps.function(cut), deps.shrink(params, cut), model.inputs)
        assert gap(expected, run(arrays)) < ROUNDING
        assert {leaf.shape for leaf in arrays} <= {*deps.sizes(cut).values()}
        assert len(arrays) == len(deps.sizes(cut))


@pytest.mark.parametrize("name", ["transformer", "stack"])
def test_depth_and_width_together_and_what_they_cost(name):
    model, params, deps = built(name)
    cut = deps.choose(params, 0.5) | without(deps, NAMES[name][0])
    small = deps.shrink(params, cut)
    expected = masked_results(model, params, deps, cut)
    run, arrays = on_arrays(deps.function(cut), small, model.inputs)
    assert gap(expected, run(arrays)) < ROUNDING
    again = jp.dependencies(deps.function(cut), small, *model.inputs)
    cost, of = deps.cost(cut), again.cost(jp.Cut({}))
    assert (cost.weights, cost.multiply_adds) == (of.weights, of.multiply_adds)


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
    for tx in (optax.adamw(1e-3), optax.adafactor(1e-3, min_dim_size_to_factor=999)):
        state, begun = deps.shrink(tx.init(params), cut), tx.init(small)
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


# --- scores ---------------------------------------------------------------------------------------


def cosine_changes(before, after):
    """1 - cosine of each pair of vectors, in float64."""
    one, other = (np.asarray(x, np.float64) for x in (before, after))
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return 1 - (one * other).sum(-1) / lengths


def test_changes_are_the_cosines_of_the_stream():
    params = draw(embed=(5, 6), up=(6, 7), down=(7, 6), side=(6, 6), head=(6, 3))

    def f(p, x):
        x = x @ p["embed"]
        x = x + jnp.tanh(x @ p["up"]) @ p["down"]
        return (x + jnp.sin(x) @ p["side"]) @ p["head"]

    batches = [(normal(3, 5),), (normal(2, 4, 5)[1],), (normal(3, 5) + 1,)]
    found = jp.dependencies(f, params, batches[0][0]).changes(params, batches)
    first, second = [], []
    for (x,) in batches:
        p = jax.tree.map(np.asarray, params)
        one = x @ p["embed"]
        two = one + np.tanh(one @ p["up"]) @ p["down"]
        three = two + np.sin(two) @ p["side"]
        first.append(cosine_changes(one, two))
        second.append(cosine_changes(two, three))
    expected = {"down:branch": np.concatenate(first), "side:branch": np.concatenate(second)}
    assert list(found) == list(expected)
    for name, each in expected.items():
        np.testing.assert_allclose(found[name], [each.mean()], rtol=1e-5)


def test_changes_of_a_stack_are_those_of_its_layers():
    model, _, deps = built("stack")
    found = deps.changes(STACK, [model.inputs])
    x, expected = model.inputs[0] @ STACK["embed"], []
    for k in range(4):
        p = jax.tree.map(lambda w, k=k: w[k].astype(jnp.bfloat16).astype(w.dtype), STACK["layers"])
        after = layer(p, x)
        expected.append(cosine_changes(x, after).mean())
        x = after
    np.testing.assert_allclose(found["layers:layers"], expected, rtol=1e-4)


def test_vectors_lie_along_what_the_last_weights_write():
    model, params, deps = built("mixer")
    found = deps.changes(params, [model.inputs])
    x = jnp.stack([jax.vmap(params.embed)(x) for x in model.inputs[0]])
    mixing = params.mixing[0]
    mixed = jax.vmap(lambda x: x + jax.vmap(mixing.tokens)(jax.vmap(mixing.norms[0])(x).T).T)(x)
    expected = cosine_changes(x.swapaxes(1, 2), mixed.swapaxes(1, 2)).mean()
    np.testing.assert_allclose(found["mixing/0/tokens/layers:branch"], [expected], rtol=1e-5)


def test_small_changes_keep_their_digits_and_zeros_have_no_direction():
    params = draw(out=(6, 6), gain=(6, 6))

    def f(p, x):
        x = x + 1e-4 * (x @ p["out"])
        return jnp.sum(x + jnp.tanh(x @ p["gain"]), -1)

    x = normal(3, 6)
    deps = jp.dependencies(f, params, x)
    after = x + 1e-4 * (np.asarray(x, np.float64) @ np.asarray(params["out"], np.float64))
    (found,) = deps.changes(params, [(x,)])["out:branch"]
    np.testing.assert_allclose(found, cosine_changes(x, after).mean(), rtol=1e-2)
    assert found < 1e-7
    assert deps.changes(params, [(np.zeros_like(x),)]) == {
        "out:branch": (0.0,),
        "gain:branch": (0.0,),
    }


def test_what_changes_least_goes():
    deps = built("transformer")[2]
    one, two, three, four = NAMES["transformer"]
    changes = {one: (0.3,), two: (0.1,), three: (0.4,), four: (0.2,)}
    assert deps.choose_blocks(changes, 1) == jp.Cut({two: ()})
    assert deps.choose_blocks(changes, 3) == jp.Cut({two: (), four: (), one: ()})
    assert deps.choose_blocks(changes, 0.5) == jp.Cut({two: (), four: ()})
    del changes[two]
    assert deps.choose_blocks(changes, 1) == jp.Cut({four: ()})
    with pytest.raises(jp.InvalidSparsity, match="from 1 to 2, got 3"):
        deps.choose_blocks(changes, 3)
    layers = built("stack")[2]
    changes = {"layers:layers": (0.3, 0.1, 0.4, 0.2)}
    assert layers.choose_blocks(changes, 3) == jp.Cut({"layers:layers": (2,)})
    assert layers.choose_blocks(changes, 0.25) == jp.Cut({"layers:layers": (0, 2, 3)})


# --- what is refused ------------------------------------------------------------------------------


def why(f, params, *inputs, **choices):
    """Why blocks are not left out, by name; "" for those that can be."""
    return {b.name: b.refused for b in jp.dependencies(f, params, *inputs, **choices).blocks}


def test_a_projected_skip_is_named():
    (refused,) = [block for block in built("resnet")[2].blocks if block.refused]
    assert refused.name == "0/two:branch"
    words = "what it is added to has weights of its own, such as `0/two/project/kernel` at "
    assert refused.refused.startswith(words)
    assert "test_depth.py:" in refused.refused
    assert f"Not left out:\n  0/two:branch: {words}" in str(built("resnet")[2].blocks)


def test_parallel_and_nested_branches_post_norm_and_strided_skips():
    params = draw(one=(6, 6), two=(6, 6), three=(6, 6), four=(6, 6), scale=(6,), last=(3, 3))

    def f(p, x):
        y = jnp.tanh(x)
        x = x + y @ p["one"] + y @ p["two"]  # parallel, one after the other
        h = jnp.sin(x) @ p["three"]
        h = h + jnp.tanh(h) @ p["four"]  # a stream of the branch's own
        x = x + h * p["scale"]
        x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # a norm after the sum
        skip = jax.lax.slice(x, (0, 0), (2, 6), (1, 2))
        return skip + jnp.sin(jax.lax.slice(x, (0, 0), (2, 6), (1, 2))) @ p["last"]

    x = normal(2, 6)
    deps = jp.dependencies(f, params, x)
    assert list(droppable(deps)) == [
        "one:branch",
        "two:branch",
        "four:branch",
        "scale:branch",
        "last:branch",
    ]
    run = quickly(f)
    for cut in [jp.Cut({name: ()}) for name in droppable(deps)]:
        expected = run(jp.apply_mask(params, deps.mask(params, cut)), x)
        assert gap([expected], [deps.function(cut)(deps.shrink(params, cut), x)]) < ROUNDING
    assert set(deps.sizes(jp.Cut({"scale:branch": ()}))) == {"one", "two", "last"}


def test_what_cannot_be_left_out_says_why():
    params = draw(w=(4, 4), up=(4, 4))

    def shared(p, x):
        return (x + jnp.tanh(x @ p["up"]) @ p["w"]) @ p["w"]

    def shifted(p, x):
        return x + jnp.cos(x @ p["w"])

    x = normal(2, 4)
    found = why(shared, params, x)["up:branch"]
    assert found.startswith("`w` makes it add zero, and is read elsewhere too at ")
    found = why(shifted, params, x)["w:branch"]
    assert found.startswith("no weights of its own make it add zero at ")
    assert "test_depth.py:" in found

    def returned(p, x):
        y = x @ p["w"]
        return x + y * p["scale"], {"mean": y.mean(0)}

    found = why(returned, params | draw(scale=(4,)), x)["scale:branch"]
    assert found.startswith("it has no matrix of its own, or a result such as a state needs that")
    found = why(lambda p, x: x + jnp.cos(x * p["scale"]), draw(scale=(4,)), x)["scale:branch"]
    assert found.startswith("it has no matrix of its own")
    plain = why(lambda p, x: x + x @ p["w"], params, x, keep="w")
    assert plain["w:branch"].startswith("keep='w' keeps `w`")
    assert why(lambda p, x: x @ p["w"] * 2, params, x) == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda x, p: (layer(p, x), x), "a scan returns something of each layer at "),
        (lambda x, p: (jnp.tanh(layer(p, x)), None), "a layer does more than to add branches: "),
        (
            lambda x, p: (x + jnp.cos(x @ p["side"]), None),
            "a layer adds what no weights of its own make zero at ",
        ),
    ],
)
def test_stacks_that_cannot_lose_a_layer(body, words):
    def f(p, x):
        x, each = jax.lax.scan(body, x, p)
        return x if each is None else (x, each)

    (found,) = why(f, STACK["layers"], normal(2, 6)).values()
    assert found.startswith(words)
    assert "test_depth.py:" in found


def test_layers_of_a_stack_may_work_on_a_transposed_stream():
    def f(p, x):
        x, _ = jax.lax.scan(lambda x, p: (layer(p, x.T).T, None), x.T, p)
        return x.T

    x = normal(2, 6)
    deps = jp.dependencies(f, STACK["layers"], x)
    (block,) = deps.blocks
    assert not block.refused
    cut = jp.Cut({block.name: (0, 3)})
    assert deps.verify(STACK["layers"], cut, x) < 1e-5
    plain = jp.dependencies(
        lambda p, x: jax.lax.scan(lambda x, p: (layer(p, x), None), x, p)[0], STACK["layers"], x
    )
    np.testing.assert_allclose(
        *(each.changes(STACK["layers"], [(x,)])[block.name] for each in (deps, plain)), rtol=1e-5
    )


def test_stacks_whose_layers_return_the_stream_transposed():
    def f(p, x):
        return jax.lax.scan(lambda x, p: (layer(p, x).T, None), x, p)[0]

    (found,) = why(f, STACK["layers"], normal(6, 6)).values()
    assert found.startswith("each layer transposes what a scan carries")


def test_stacks_that_are_read_elsewhere_too():
    def f(p, x):
        x, _ = jax.lax.scan(lambda x, p: (layer(p, x), None), x, p)
        return x @ p["side"][0]

    (found,) = why(f, STACK["layers"], normal(2, 6)).values()
    assert found.startswith(("slice reads all layers", "dynamic_slice reads all", "gather reads"))

    def numbered(p, x):
        def turn(carry, p):
            x, k = carry
            return (layer(p, x), k + 1), None

        (x, _), _ = jax.lax.scan(turn, (x, 0), p)
        return x

    (found,) = why(numbered, STACK["layers"], normal(2, 6)).values()
    assert found.startswith("a layer does more than to add branches: there is add at ")


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"params/layer_9:branch": ()}, "names 'params/layer_9:branch', which this model does not"),
        ({"params/layer_0/down:branch": (1,)}, "different numbers from 0 to 0"),
    ],
)
def test_cuts_of_other_models(kept, words):
    _, params, deps = built("transformer")
    with pytest.raises(jp.PruningError, match=words):
        deps.shrink(params, jp.Cut(kept))


def test_cuts_of_what_is_refused_and_of_whole_stacks():
    _, params, deps = built("resnet")
    with pytest.raises(jp.InvalidPattern, match="'0/two:branch' cannot be cut: what it is added"):
        deps.mask(params, jp.Cut({"0/two:branch": ()}))
    _, params, deps = built("stack")
    with pytest.raises(jp.InvalidPattern, match="keeps no unit of 'layers:layers'"):
        deps.function(jp.Cut({"layers:layers": ()}))


@pytest.mark.parametrize(
    ("changes", "amount", "words"),
    [
        ({}, 1, "there are no changes to choose by"),
        ({"layers": (0.1,)}, 1, "name the block 'layers', which this model does not have"),
        ({"layers:layers": (0.1, 0.2)}, 1, "has 4 units, and its changes are"),
        ({"layers:layers": (0.1, 0.2, float("nan"), 0)}, 1, "a finite number for each"),
        ({"layers:layers": (1, 2, 3, 4)}, 4, "of which one at least stays"),
        ({"layers:layers": (1, 2, 3, 4)}, 0.1, "a fraction of 0.1 of 4 blocks is none"),
        ({"layers:layers": (1, 2, 3, 4)}, 1.5, "an amount of blocks is how many go"),
        ({"layers:layers": (1, 2, 3, 4)}, True, "an amount of blocks is how many go"),
    ],
)
def test_choices_that_make_no_sense(changes, amount, words):
    with pytest.raises(jp.PruningError, match=words):
        built("stack")[2].choose_blocks(changes, amount)


def test_changes_that_cannot_be_measured():
    model, params, deps = built("stack")
    with pytest.raises(jp.NoMatch, match="there is no batch"):
        deps.changes(params, [])
    with pytest.raises(jp.PruningError, match="a batch is a tuple of the inputs"):
        deps.changes(params, [model.inputs[0]])
    with pytest.raises(jp.PruningError, match=r"`layers:layers` adds, .* is not finite"):
        deps.changes(params, [(model.inputs[0] * np.inf,)])
    plain = jp.dependencies(lambda p, x: x @ p, jnp.ones((5, 2)), model.inputs[0])
    with pytest.raises(jp.NoMatch, match="no block of this model can be left out"):
        plain.changes(jnp.ones((5, 2)), [model.inputs])
