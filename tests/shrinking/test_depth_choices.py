"""Which residual blocks go, by how little they change the stream; and which cannot, and why."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.shrinking.deep import NAMES, STACK, built, draw, droppable, layer
from tests.shrinking.test_exact import ROUNDING, gap
from tests.tracing.models import normal
from tests.tracing.test_models import quickly

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
    layers = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(w.dtype), STACK["layers"])

    @quickly
    def streams(x):
        after = jax.lax.scan(lambda x, p: (layer(p, x), layer(p, x)), x, layers)[1]
        return jnp.concatenate([x[None], after])

    xs = streams(model.inputs[0] @ STACK["embed"])
    expected = [cosine_changes(*pair).mean() for pair in itertools.pairwise(xs)]
    np.testing.assert_allclose(found["layers:layers"], expected, rtol=1e-4)


def test_vectors_lie_along_what_the_last_weights_write():
    model, params, deps = built("mixer")
    found = deps.changes(params, [model.inputs])

    @quickly
    def first_mixing(x):
        x, mixing = jax.vmap(params.embed)(x), params.mixing[0]
        return x, x + jax.vmap(mixing.tokens)(jax.vmap(mixing.norms[0])(x).T).T

    x, mixed = (np.stack(each) for each in zip(*map(first_mixing, model.inputs[0]), strict=True))
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
    assert "deep.py:" in refused.refused
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
    assert "test_depth_choices.py:" in found

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
    assert "test_depth_choices.py:" in found


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
