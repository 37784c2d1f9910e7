"""Statistics of activations, against activations that were captured by other means."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp
from jaxprune._tree import arrays_in
from jaxprune.calibration import _statistics
from jaxprune.calibration._gathering import chosen_pieces, compiled, gathering_of
from jaxprune.calibration._statistics import completed
from jaxprune.tracing._activations import run_measured
from jaxprune.tracing._matrices import to_matrices
from jaxprune.tracing._trace import read
from tests.tracing.models import MODELS, attend, rms
from tests.tracing.test_models import filled, gradients, quickly


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def both(f, params, *batches):
    """By path the sums of squares as gathered alone, and Grams, whose diagonal they are."""
    squares = jp.calibrate(f, params, batches).squares
    stats = jp.calibrate(f, params, batches, gather="gram")
    for path, expected in stats.squares.items():
        np.testing.assert_allclose(squares[path], expected, rtol=1e-4, atol=1e-4)
    return squares, {leaf.path: stats.gram(leaf.path) for leaf in stats.leaves}


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)


def test_a_product_over_two_batches():
    x, y = normal(5, 3), normal(2, 3, seed=1)
    squares, gram = both(lambda p, x: x @ p["w"], {"w": normal(3, 4)}, (x,), (y,))
    rows = np.concatenate([x, y])
    close(squares["w"], (rows**2).sum(0)[:, None])
    close(gram["w"], (rows.T @ rows)[None])


def test_inputs_come_in_the_order_of_the_leaf():
    """Attention's output [heads, features, out], and one stored as [out, features, heads]."""
    x = normal(5, 2, 3)

    def f(p, x):
        return jnp.einsum("thk,hkd->td", x, p["a"]) + jnp.einsum("thk,dkh->td", x, p["b"])

    squares, gram = both(f, {"a": normal(2, 3, 4), "b": normal(4, 3, 2)}, (x,))
    close(squares["a"], (x**2).sum(0)[..., None])
    close(squares["b"], (x**2).sum(0).T[None])
    rows = {"a": x.reshape(5, 6), "b": x.transpose(0, 2, 1).reshape(5, 6)}
    for name, row in rows.items():
        close(gram[name], (row.T @ row)[None])


def test_sums_are_exact_for_a_model_in_half_precision():
    x = np.full((4096, 2), 1.0, np.float32)
    w = np.ones((2, 2), jnp.bfloat16)
    squares, gram = both(lambda w, x: x.astype(jnp.bfloat16) @ w, w, (x,))
    assert (squares[""] == 4096).all()
    assert (gram[""] == 4096).all()


# --- convolutions -------------------------------------------------------------------------------

CONVS = {
    "plain": ((3, 3, 4, 6), {}),
    "strided": ((3, 2, 4, 6), {"window_strides": (2, 1), "padding": ((1, 0), (2, 1))}),
    "dilated": ((3, 3, 4, 6), {"rhs_dilation": (2, 1)}),
    "transposed": ((2, 2, 4, 6), {"lhs_dilation": (2, 2), "padding": ((1, 1), (1, 1))}),
    "grouped": ((3, 3, 2, 6), {"feature_group_count": 2}),
    "depthwise": ((3, 3, 1, 8), {"feature_group_count": 4}),
}


def test_convolutions():
    """Each Gram is that of a linear map's rows: y = K x, so d y / d K holds the patches."""
    x, kernels, calls = normal(2, 4, 4, 4), {}, {}
    for name, (shape, own) in CONVS.items():
        options = {"window_strides": (1, 1), "padding": "SAME"} | own
        for layout in ("HWIO", "OIHW"):
            order = ["HWIO".index(letter) for letter in layout]
            kernels[name, layout] = normal(*shape).transpose(order)
            numbers = {"dimension_numbers": ("NHWC", layout, "NHWC")}
            calls[name, layout] = options | numbers

    def one(key, kernel, x=x):
        return lax.conv_general_dilated(x, kernel, **calls[key])

    def patches(kernels):
        """[positions, outputs, *kernel]: each output depends on its own kernel, by its patch."""

        def rows(key):
            return lambda kernel: one(key, kernel).reshape(-1, CONVS[key[0]][0][-1])

        return {key: jax.jacobian(rows(key))(kernel) for key, kernel in kernels.items()}

    def f(params, x):
        return [one(key, params["/".join(key)], x) for key in kernels]

    every = quickly(patches)(kernels)
    params = {"/".join(key): kernel for key, kernel in kernels.items()}
    squares, gram = both(f, params, (x,))
    for (name, layout), kernel in kernels.items():
        shape, options = CONVS[name]
        groups, out = options.get("feature_group_count", 1), layout.index("O")
        of_kernel = np.asarray(every[name, layout])
        own = np.stack([np.take(of_kernel[:, k], k, axis=1 + out) for k in range(shape[-1])])
        inputs = own.reshape(shape[-1], own.shape[1], -1)[:: shape[-1] // groups]
        path = f"{name}/{layout}"
        close(gram[path], np.einsum("gpi,gpj->gij", inputs, inputs))
        expected = np.moveaxis((own**2).sum(1), 0, out)
        close(np.broadcast_to(squares[path], kernel.shape), expected)


def test_a_long_signal_takes_no_memory_for_each_pair_of_its_places():
    """As speech models read it: a table of all places by all outputs would take 300 GiB."""
    x, kernel = normal(1, 400_000, 1), normal(10, 1, 4)

    def f(kernel, x):
        numbers = ("NWC", "WIO", "NWC")
        return lax.conv_general_dilated(x, kernel, (5,), "VALID", dimension_numbers=numbers)

    squares = jp.calibrate(f, kernel, [(x,)]).squares[""]
    expected = [np.sum(np.float64(x[0, tap : tap + 399_991 : 5, 0]) ** 2) for tap in range(10)]
    close(np.broadcast_to(squares, kernel.shape)[:, 0, 0], expected)


# --- loops and branches -------------------------------------------------------------------------

STACK, X = 0.4 * normal(3, 4, 4), normal(6, 4)

LOOPS = {
    "scan": lambda w, x: lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0],
    "scan with remat": lambda w, x: lax.scan(
        jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None)), x, w
    )[0],
    "fori_loop": lambda w, x: lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ w[i]), x),
    "take": lambda w, x: lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ jnp.take(w, i, axis=0)), x),
    "while": lambda w, x: lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w[c[0]])), (0, x)
    )[1],
    "branch in a scan": lambda w, x: lax.scan(
        lambda x, w: (lax.cond(x[0, 0] > 9, lambda x: x, lambda x: jnp.tanh(x @ w), x), None), x, w
    )[0],
}


def unrolled(w, x):
    for each in w:
        x = jnp.tanh(x @ each)
    return x


def scans_of_scans(w, x):
    return lax.scan(lambda x, w: (LOOPS["scan"](w, x), None), x, w)[0]


def scans_by_index(w, x):
    return lax.fori_loop(0, 2, lambda i, x: LOOPS["scan"](w[i], x), x)


@pytest.mark.usefixtures("optimized")
def test_layers_by_every_kind_of_loop():
    """To the bit what the layers give one after another, as leaves of their own."""
    nested = STACK[None].repeat(2, 0)
    params = dict.fromkeys(LOOPS, STACK) | {"nested": nested, "by index": nested}
    params |= {"cut": STACK, "flat": dict(zip("012", STACK, strict=True))}

    def f(p, x):
        out = {name: loop(p[name], x) for name, loop in LOOPS.items()}
        out |= {
            "nested": scans_of_scans(p["nested"], x),
            "by index": scans_by_index(p["by index"], x),
        }
        return out | {"cut": unrolled(p["cut"], x), "flat": unrolled(p["flat"].values(), x)}

    squares = jp.calibrate(f, params, [(X,)]).squares
    stats = jp.calibrate(f, params, [(X,)], gather="gram")
    layers = [f"flat/{k}" for k in range(3)]
    grams = {name: stats.gram(name) for name in (*LOOPS, *layers, "nested", "by index")}
    for found in (squares, grams):
        expected = np.concatenate([found[path].reshape(1, 4, -1) for path in layers])
        for name in LOOPS:
            np.testing.assert_array_equal(found[name].reshape(expected.shape), expected)
        np.testing.assert_array_equal(found["nested"][0].reshape(expected.shape), expected)
        np.testing.assert_array_equal(found["nested"], found["by index"])
    # Layers that are cut out of a stack are read part by part.
    np.testing.assert_array_equal(squares["cut"], np.stack([squares[path] for path in layers]))
    for k, path in enumerate(layers):
        np.testing.assert_array_equal(stats.grams[stats.of("cut").grams[k]], grams[path])
    with pytest.raises(jp.PruningError, match="the model reads `cut` in parts"):
        stats.gram("cut")


def test_a_recurrent_kernel_sums_over_its_turns():
    w, x = 0.4 * normal(3, 3), normal(5, 3)

    def f(w, x):
        return lax.scan(lambda h, x: (jnp.tanh(h @ w + x), None), jnp.zeros(3), x)[0]

    states = [np.zeros(3, np.float32)]
    for now in x[:-1]:
        states.append(np.tanh(states[-1] @ w + now))
    squares, gram = both(f, w, (x,))
    close(squares[""], (np.stack(states) ** 2).sum(0)[:, None])
    close(gram[""], (np.stack(states).T @ np.stack(states))[None])


def test_a_branch_that_is_not_taken_adds_nothing():
    def f(p, x):
        return lax.cond(x.sum() > 0, lambda p, x: x @ p["a"], lambda p, x: x @ p["b"], p, x)

    x = np.abs(X)
    squares, _ = both(f, {"a": STACK[0], "b": STACK[1]}, (x,), (x,), (-x,))
    close(squares["a"], 2 * squares["b"])


# --- whole models -------------------------------------------------------------------------------


def test_the_inputs_of_linen_modules():
    """As Linen's own interceptor sees them."""
    model = MODELS["residual_network"]()
    params = filled(model)

    def captured(params):
        seen = {}

        def capture(call, args, kwargs, context):
            if isinstance(context.module, nn.Conv | nn.Dense):
                seen["/".join(context.module.path)] = args[0]
            return call(*args, **kwargs)

        with nn.intercept_methods(capture):
            model.f(params, *model.inputs)
        return seen

    seen = quickly(captured)(params)
    squares, gram = both(model.f, params, model.inputs)
    assert {path.removeprefix("params/").removesuffix("/kernel") for path in squares} == {*seen}
    x = np.asarray(seen["head"])
    close(squares["params/head/kernel"], (x**2).sum(0)[:, None])
    x = np.asarray(seen["stage_2/shortcut"])[:, ::2, ::2].reshape(-1, 6)  # a window of 1, by 2
    close(gram["params/stage_2/shortcut/kernel"], (x.T @ x)[None])


def test_the_kernels_of_a_decoder_that_share_their_input():
    model = MODELS["decoder"]()
    params = filled(model)
    squares, gram = both(model.f, params, model.inputs)

    @quickly
    def captured(params):
        x, p = params["embedding"][model.inputs[0]] * 3.0, params["layers"][0]
        first = rms(x, p["norm_1"])
        second = rms(x + attend(p, first), p["norm_2"])
        return first, second, jax.nn.silu(second @ p["gate"]) * (second @ p["up"])

    first, second, hidden = map(np.asarray, captured(params))
    for x, names in ((first, ("q", "kv")), (second, ("gate", "up")), (hidden, ("down",))):
        for name in names:
            close(np.ravel(squares[f"layers/0/{name}"]), (x**2).sum(0))
            close(gram[f"layers/0/{name}"], (x.T @ x)[None])


@pytest.mark.filterwarnings("ignore:no data has reached")
def test_experts_see_the_tokens_that_are_routed_to_them():
    model = MODELS["mixture_of_experts"]()
    params = filled(model)
    x = np.asarray(normal(4, 6))
    for name in ("dispatch", "ragged"):
        p = params[name]
        p["router"] = normal(6, 3, seed=3)
    squares, gram = both(model.f, params, (x,))
    chosen = np.argmax(x @ params["dispatch"]["router"], -1)
    assert len({*chosen}) > 1
    for expert in range(3):
        mine = x[chosen == expert]
        close(squares["dispatch/up"][expert], (mine**2).sum(0)[:, None])
        close(gram["dispatch/up"][expert], mine.T @ mine)
    # The second layer's router reads what the first gives, and its experts the same tokens.
    total = np.asarray(gram["ragged/up"]).sum(0)
    close(total, gram["ragged/router"][0])


@pytest.mark.parametrize("name", MODELS)
def test_gradients_lie_in_the_span_of_the_activations_of(name):
    """A kernel's gradient is sum_p g_p x_p^T: what no x_p reaches, it does not reach either.

    The Gram's null space must so be one of every loss's gradient. And its diagonal are the squares.
    """
    model = MODELS[name]()
    params = filled(model)
    program = read(model.f, params, *model.inputs)
    met = [m for m in program.met if m.use in ("product", "convolution") and m.with_data]

    def measure(met, operands):
        return _statistics.squares(met, operands), _statistics.gram(met, operands)

    paths, narrower = [program.leaves[one.part.leaf].path for one in met], 0

    @quickly
    def measured(arrays, by_leaf):
        found = run_measured(program.jaxpr, arrays, met, measure)[1]
        grads = [to_matrices(one, by_leaf[path][0]) for one, path in zip(met, paths, strict=True)]
        return [(*sums, grad) for sums, grad in zip(found, grads, strict=True)]

    every = measured(arrays_in((params, model.inputs)), gradients(model))
    for one, path, arrays in zip(met, paths, every, strict=True):
        squares, gram, grads = map(np.asarray, arrays)
        top = squares.max()
        assert top > 0
        diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
        np.testing.assert_allclose(diagonal, squares, rtol=1e-4, atol=1e-4 * top)
        if sum(other.part.leaf == one.part.leaf for other in program.met) > 1:
            continue  # a tied embedding: its gradient is that of both uses
        values, vectors = np.linalg.eigh(gram)
        unreached = vectors * (values < 1e-6 * values.max(-1, keepdims=True))[..., None, :]
        assert np.abs(grads @ unreached).max() <= 0.03 * np.abs(grads).max(), path
        narrower += bool(unreached.any())
    assert narrower


# --- many devices -------------------------------------------------------------------------------


def gathered_sizes(program):
    """How many numbers each all-gather of a compiled program gives."""
    shapes = re.findall(r"\w+\[([\d,]+)\][^=]* all-gather(?:-start)?\(", program)
    return [int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes]


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_sharded_params_and_batches_give_the_same(axis_type):
    """Data over four devices, heads over two, layers by a scan: sums up to their order."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType[axis_type],) * 2)
    params = {
        "conv": normal(3, 16, 16),
        "experts": normal(2, 16, 64),
        "heads": normal(16, 2, 8),
        "layers": 0.1 * normal(3, 16, 16),
        "out": normal(2, 8, 16),
    }
    layouts = {"heads": P(None, "y"), "out": P("y"), "experts": P("y")}
    over = P("x") if axis_type == "Explicit" else None

    def f(p, x):
        def layer(x, w):
            return jnp.tanh(jnp.einsum("btd,df->btf", x, w, out_sharding=over)), None

        h = jnp.einsum("btd,dhk->bthk", x, p["heads"])
        x = jnp.einsum("bthk,hkd->btd", h, p["out"], out_sharding=over)
        x = lax.scan(layer, x, p["layers"])[0]
        numbers = ("NWC", "WIO", "NWC")
        x = lax.conv_general_dilated(x, p["conv"], (1,), "SAME", dimension_numbers=numbers)
        return jnp.einsum("btd,edf->ebtf", x, p["experts"])

    x = normal(8, 2, 16)
    with jax.set_mesh(mesh):
        spread = {
            k: jax.device_put(v, NamedSharding(mesh, layouts.get(k, P())))
            for k, v in params.items()
        }
        batch = (jax.device_put(x, NamedSharding(mesh, P("x"))),)
        sharded = {}
        for gather in ("squares", "gram"):
            program = read(f, spread, *batch)
            gathering = gathering_of(program, chosen_pieces(program, lambda path: True))
            arrays = arrays_in((spread, batch))
            ready = compiled(program, gathering, gather).lower(arrays).compile()
            sharded[gather], text = ready(arrays), ready.as_text()
            assert "all-reduce" in text
            # On Explicit axes sums lie on every device: a Gram of spread inputs is gathered.
            if (gather, axis_type) != ("gram", "Explicit"):
                assert max(gathered_sizes(text), default=0) < params["out"].size
    over = None
    program = read(f, params, x)
    gathering = gathering_of(program, chosen_pieces(program, lambda path: True))
    for gather, found in sharded.items():
        here = compiled(program, gathering, gather)(arrays_in((params, (x,))))
        for one, other in zip(map(completed, found), map(completed, here), strict=True):
            np.testing.assert_allclose(one.sums, other.sums, rtol=1e-4, atol=1e-3)
            np.testing.assert_array_equal(one.count, other.count)


# --- what is shared, what is asked for ----------------------------------------------------------


def dense(p, x):
    return x @ p["w"]


PARAMS = {"b": normal(4), "w": normal(3, 4)}


def test_leaves_that_read_one_activation_share_its_gram():
    """Through calls, changes of precision and reshapes; not where another order is read."""

    def f(p, x):
        q = jnp.einsum("thk,hkd->td", x, p["q"])
        k = jax.jit(lambda x, w: x.reshape(5, 6) @ w)(x, p["k"])
        v = x.reshape(5, 6).astype(jnp.bfloat16) @ p["v"]
        r = x.reshape(5, 6).astype(jnp.bfloat16) @ p["r"]
        turned = jnp.einsum("thk,khd->td", x, p["turned"])
        return q, k, v, r, turned, (x * 2).reshape(5, 6) @ p["other"]

    params = {name: normal(6, 4) for name in ("k", "r", "v", "other")}
    params |= {"q": normal(2, 3, 4), "turned": normal(3, 2, 4)}
    stats = jp.calibrate(f, params, [(normal(5, 2, 3),)], gather="gram")
    grams = {leaf.path: leaf.grams for leaf in stats.leaves}
    assert grams["r"] == grams["v"]
    assert len(stats.grams) == 5
    close(stats.gram("q"), stats.gram("k"))


def test_what_several_uses_of_one_leaf_meet_adds_up():
    def f(p, x, y):
        return x @ p["w"], jnp.tanh(y) @ p["w"]

    x, y = normal(5, 3), normal(2, 3, seed=1)
    _, gram = both(f, {"w": normal(3, 4)}, (x, y))
    rows = np.concatenate([x, np.tanh(y)])
    close(gram["w"], (rows.T @ rows)[None])


def test_a_leaf_that_is_read_in_parts():
    """Queries and keys in one array: each half meets what it meets."""

    def f(p, x, y):
        return x @ p["qk"][:, :4], y @ p["qk"][:, 4:]

    x, y = normal(5, 3), normal(2, 3, seed=1)
    squares = jp.calibrate(f, {"qk": normal(3, 8)}, [(x, y)]).squares["qk"]
    expected = [(each**2).sum(0)[:, None].repeat(4, 1) for each in (x, y)]
    close(squares, np.concatenate(expected, 1))


def test_uses_say_what_is_in_scope():
    def f(p, x):
        return jnp.tanh(x @ p["a"]) @ p["b"]["kernel"] * p["c"]

    params, x = {"a": normal(3, 4), "b": {"kernel": normal(4, 4)}, "c": normal(2, 4)}, normal(2, 3)
    uses = jp.trace(f, params, x)
    assert {*jp.calibrate(f, params, [(x,)], uses=uses).squares} == {"a", "b/kernel"}
    assert {*jp.calibrate(f, params, [(x,)], uses=uses, where="b").squares} == {"b/kernel"}
    with pytest.raises(jp.StructureMismatch, match=r"`a` of shape \(2, 3\) is not in uses"):
        jp.calibrate(f, params | {"a": normal(2, 3)}, [(x,)], uses=uses)
    turned = jp.trace(lambda p, x: f(p | {"b": {"kernel": p["b"]["kernel"].T}}, x), params, x)
    with pytest.raises(jp.StructureMismatch, match=r"`b/kernel` is summed over axes \(0,\)"):
        jp.calibrate(f, params, [(x,)], uses=turned)


def test_one_program_for_all_batches_of_one_kind():
    traces = []

    def f(p, x, power):
        traces.append((x.shape, power))
        return x**power @ p["w"]

    batches = [(normal(2, 3), 1)] * 3 + [(normal(5, 3), 1)] * 2 + [(normal(2, 3), 2)]
    stats = jp.calibrate(f, PARAMS, iter(batches))
    assert traces == [((2, 3), 1), ((5, 3), 1), ((2, 3), 2)]
    rows = np.concatenate([x**power for x, power in batches])
    close(stats.squares["w"], (rows**2).sum(0)[:, None])
    assert stats.counts["w"] == len(rows)


def test_an_expert_that_no_token_reached_is_named():
    def f(p, x, sizes):
        return lax.ragged_dot(x, p["experts"], sizes) @ p["w"]

    params = {"experts": normal(3, 4, 4), "w": normal(4, 2)}
    with pytest.warns(UserWarning, match=r"no data has reached `experts \(1 of 3 matrices\)`"):
        stats = jp.calibrate(f, params, [(X, np.array([4, 0, 2]))])
    assert stats.unreached() == {"experts": (1, 3)}
    assert stats.counts["experts"].tolist() == [4, 0, 2]
    assert "1 met no data" in str(stats)


def test_the_grams_memory_is_bounded():
    params = {"large": normal(64, 2), "small": normal(3, 64)}

    def f(p, x):
        return (x @ p["small"]) @ p["large"]

    words = (
        r"take 16,420 bytes, more than max_bytes=16,000; the largest: `large` 16,384, `small` 36"
    )
    with pytest.raises(jp.PruningError, match=words):
        jp.calibrate(f, params, [(normal(2, 3),)], gather="gram", max_bytes=16_000)


ERRORS = {
    "no batch": (dense, [], {}, jp.NoMatch, "there is no batch to calibrate with"),
    "no tuple": (
        dense,
        [normal(2, 3)],
        {},
        jp.PruningError,
        "a batch is a tuple of inputs, got nd",
    ),
    "NaN": (
        dense,
        [(normal(2, 3),), (np.full((2, 3), np.nan),)],
        {},
        jp.PruningError,
        "activations that meet `w` are not finite",
    ),
    "nothing in scope": (
        dense,
        [(normal(2, 3),)],
        {"where": "b"},
        jp.NoMatch,
        "no product or convolution with the inputs reads a leaf in scope",
    ),
    "another word": (
        dense,
        [(normal(2, 3),)],
        {"gather": "hessian"},
        jp.PruningError,
        "gather='hessian' is neither",
    ),
    "two ways": (
        lambda p, x: (x @ p["w"]) @ p["w"].T,
        [(normal(2, 3),)],
        {},
        jp.PruningError,
        r"`w` is read in different ways \(product at test_calibrate.py:\d+",
    ),
    "parts that overlap": (
        lambda p, x: (x @ p["w"][:, :3], x @ p["w"][:, 1:]),
        [(normal(2, 3),)],
        {},
        jp.PruningError,
        "`w` is read in different ways",
    ),
    "another model": (
        lambda p, x: x @ p["w"] if len(x) > 2 else x @ p["v"],
        [(normal(2, 3),), (normal(3, 3),)],
        {},
        jp.StructureMismatch,
        "this batch makes the function another model than the first did: `v`, `w`",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_refused(name):
    f, batches, options, kind, words = ERRORS[name]
    with pytest.raises(kind, match=words):
        jp.calibrate(f, PARAMS | {"v": normal(3, 4)}, batches, **options)
