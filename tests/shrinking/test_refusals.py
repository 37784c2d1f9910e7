"""What cannot be cut, and what cannot be read, is said in words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import extend
from tests.shrinking.small import PARAMS, X, deps, model

TWO = {"up": jnp.ones((3, 4)), "down": jnp.ones((4, 2))}


def why(f, params, *inputs, name="up[1]", **choices):
    """Why a group is not cut."""
    found = jp.dependencies(f, params, *inputs, **choices)
    return {group.name: group.refused for group in found.groups}[name]


def between(move):
    """A model with a function of the hidden features."""
    return lambda params, x: move(x @ params["up"]) @ params["down"]


@pytest.mark.parametrize(
    ("move", "words"),
    [
        (jax.nn.softmax, "reduce_max runs along it"),
        (lambda h: jnp.cumsum(h, -1), "cumsum runs along it"),
        (lambda h: h * jnp.prod(h, -1, keepdims=True), "reduce_prod runs along it"),
        (lambda h: jnp.sort(h, -1), "sort runs along it"),
        (lambda h: jax.lax.top_k(h, 4)[0], "top_k runs along it"),
        (lambda h: h[:, ::-1], "rev runs along it"),
        (lambda h: h[:, jnp.array([1, 0, 3, 2])], "it is indexed by data"),
        (lambda h: h * jnp.argmax(h, -1, keepdims=True), "argmax runs along it"),
        (lambda h: jnp.fft.fft(h).real, "the primitive fft has no rule"),
        (
            lambda h: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((5, 4), jnp.float32), h),
            "the primitive pure_callback has no rule",
        ),
        (lambda h: h.reshape(4, 5).T, "a reshape does not divide it into whole parts"),
        (lambda h: h.at[:, 1].set(0.0), "it is indexed by data"),
        (lambda h: jax.lax.dynamic_update_slice(h, h[:, :1], (0, 1)), "it is indexed by data"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_what_depends_on_the_order_of_features_is_refused_with_its_line(move, words):
    reason = why(between(move), TWO, X)
    assert reason.startswith(words)
    assert "test_refusals.py:" in reason


def test_axes_of_inputs_results_and_unread_leaves():
    found = jp.dependencies(between(jnp.tanh), TWO | {"idle": jnp.ones(3)}, X)
    reasons = {group.name: group.refused for group in found.groups}
    assert reasons == {
        "up[0]": "it is axis 1 of input 0, and only what is passed in params is cut",
        "up": "",
        "down[1]": "it is axis 1 of the result",
        "idle[0]": "the function never reads it",
    }
    assert "up[0] (3): it is axis 1 of input 0" in str(found)


def test_a_cache_is_cut_where_it_is_part_of_the_parameters():
    def step(params, cache, x):
        keys = cache["keys"] + x @ params["up"]
        return jnp.tanh(keys) @ params["down"], {"keys": keys}

    cache = {"keys": jnp.zeros((5, 4))}
    assert why(step, TWO, cache, X).startswith("it is axis 1 of `keys` of input 0")

    def together(both, x):
        out, cache = step(both["params"], both["cache"], x)
        return out, {"cache": cache}

    both = {"params": TWO, "cache": cache}
    found = jp.dependencies(together, both, X)
    (group,) = [group for group in found.groups if not group.refused]
    assert ("cache/keys", 1) in group.members
    cut = found.choose(both, 0.5)
    small = found.shrink(both, cut)
    out, state = found.function(cut)(small, X)
    assert out.shape == (5, 2)
    assert state["cache"]["keys"].shape == (5, 2)


def test_integers_are_refused():
    quantized = {"up": jnp.ones((3, 4), jnp.int8), "down": jnp.ones((4, 2))}
    reason = why(between(lambda h: h * 0.5), quantized, X)
    assert reason == "it holds int8: dequantize it to cut it"


def test_what_is_to_be_kept():
    three = {"one": jnp.ones((3, 4)), "two": jnp.ones((4, 6)), "three": jnp.ones((6, 2))}

    def f(params, x):
        return jnp.tanh(jnp.tanh(x @ params["one"]) @ params["two"]) @ params["three"]

    def cuttable(keep):
        found = jp.dependencies(f, three, X, keep=keep)
        return {group.name for group in found.groups if not group.refused}

    assert cuttable(()) == {"one", "two"}
    assert cuttable("two") == cuttable(["two"]) == set()
    assert cuttable({"two": 1}) == {"one"}
    assert cuttable({"two": -2}) == {"two"}
    assert why(f, three, X, name="two[1]", keep="t*o") == "keep='t*o' keeps `two`"
    with pytest.raises(jp.NoMatch, match="'tow' matches no leaf"):
        cuttable("tow")
    with pytest.raises(jp.PruningError, match="keep has 2 for `two`"):
        cuttable({"two": 2})


def test_functions_that_cannot_be_read():
    with pytest.raises(jp.PruningError, match="expected params that hold arrays"):
        jp.dependencies(model, {}, X)
    with pytest.raises(jp.PruningError, match=r"cannot be traced: KeyError: 'wrong'"):
        jp.dependencies(lambda p, x: p["wrong"], PARAMS, X)
    with pytest.raises(jp.PruningError, match=r"cannot be traced: TracerBoolConversionError: .*"):
        jp.dependencies(lambda p, x: x if x.sum() > 0 else p, PARAMS, X)

    def talking(params, x):
        jax.debug.print("{}", x.sum())
        return model(params, x)

    with pytest.raises(jp.PruningError, match=r"side effects, .*debug_.* at .*test_refusals.py"):
        jp.dependencies(talking, PARAMS, X)


@pytest.mark.parametrize(
    ("kept", "kind", "words"),
    [
        ({"encoder": (0,)}, jp.NoMatch, "names 'encoder', which this model does not"),
        ({"up": ()}, jp.InvalidPattern, "keeps no unit of 'up'"),
        ({"up": (0, 8)}, jp.InvalidPattern, "different numbers from 0 to 7"),
        ({"up": (1, 1)}, jp.InvalidPattern, "different numbers from 0 to 7"),
        (
            {"head[1]": (0,)},
            jp.InvalidPattern,
            r"'head\[1\]' cannot be cut: it is axis 1 of the result",
        ),
    ],
)
def test_cuts_of_other_models(kept, kind, words):
    for use in (
        lambda cut: deps().shrink(PARAMS, cut),
        lambda cut: deps().mask(PARAMS, cut),
        lambda cut: deps().function(cut),
        lambda cut: deps().sizes(cut),
    ):
        with pytest.raises(kind, match=words):
            use(jp.Cut(kept))


def test_what_is_no_cut():
    with pytest.raises(jp.PruningError, match=r"expected a jp\.Cut, as choose makes it, got dict"):
        deps().shrink(PARAMS, {"up": (0, 1)})
    with pytest.raises(jp.PruningError, match="a cut is a mapping such as"):
        jp.Cut([1, 2])


def test_verify_names_the_group(monkeypatch):
    cut = deps().choose(PARAMS, 0.5)
    assert deps().verify(PARAMS, cut, X) < 1e-6
    with pytest.raises(jp.PruningError, match=r"differs from the masked one by .*: embed "):
        deps().verify(PARAMS, cut, X, tolerance=-1.0)


def test_what_needs_values():
    cut = deps().choose(PARAMS, 0.5)
    described = jax.eval_shape(lambda: X)
    with pytest.raises(jp.PruningError, match="expected arrays, got a description of one"):
        deps().verify(PARAMS, cut, described)
    with pytest.raises(jp.PruningError, match="is a tracer, and choose needs its values"):
        jax.jit(lambda params: deps().choose(params, 0.5))(PARAMS)


def test_keys_among_the_results_are_compared():
    def drawn(params, x, key):
        key, now = jax.random.split(key)
        return model(params, x + jax.random.normal(now, x.shape)), key

    found = jp.dependencies(drawn, PARAMS, X, jax.random.key(0))
    assert found.verify(PARAMS, found.choose(PARAMS, 0.5), X, jax.random.key(0)) < 1e-6


def test_a_primitive_of_ones_own_is_read_once_it_is_registered():
    own = jax.extend.core.Primitive("test_activation")
    own.def_impl(jnp.tanh)
    own.def_abstract_eval(lambda x: x)
    assert why(between(own.bind), TWO, X).startswith("the primitive test_activation has no rule")
    extend.reads("test_activation", lambda equation: extend.layouts.Aligned("first"))
    found = jp.dependencies(between(own.bind), TWO, X)
    cut = jp.Cut({"up": (1, 3)})
    small = found.function(cut)(found.shrink(TWO, cut), X)
    expected = between(jnp.tanh)(jp.apply_mask(TWO, found.mask(TWO, cut)), X)
    np.testing.assert_allclose(small, expected, rtol=1e-6)
