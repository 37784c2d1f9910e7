"""Statistics of activations, against activations that were captured by other means."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp
from jaxprune.calibration import _statistics
from jaxprune.calibration._calibrate import calibrate
from jaxprune.tracing._activations import run_measured
from jaxprune.tracing._matrices import to_matrices
from jaxprune.tracing._trace import arrays_of, read
from tests.tracing.models import MODELS, attend, rms
from tests.tracing.test_models import filled, gradients, quickly


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def both(f, params, *batches):
    return [calibrate(f, params, batches, gather=gather).sums for gather in ("squares", "gram")]


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


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("layout", ["HWIO", "OIHW"])
def test_convolution(name, layout):
    """The Gram is that of a linear map's rows: y = K x, so d y / d K holds the patches."""
    shape, options = CONVS[name]
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    groups = options.get("feature_group_count", 1)
    order = ["HWIO".index(letter) for letter in layout]
    kernel, x = normal(*shape).transpose(order), normal(2, 5, 5, 4)

    def f(kernel, x):
        numbers = ("NHWC", layout, "NHWC")
        return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options)

    out = layout.index("O")
    # [positions, outputs, *kernel]: each output depends on its own kernel only, by its patch.
    patches = np.asarray(jax.jacobian(lambda k: f(k, x).reshape(-1, shape[-1]))(kernel))
    own = np.stack([np.take(patches[:, k], k, axis=1 + out) for k in range(shape[-1])])
    inputs = own.reshape(shape[-1], own.shape[1], -1)[:: shape[-1] // groups]
    squares, gram = both(f, kernel, (x,))
    close(gram[""], np.einsum("gpi,gpj->gij", inputs, inputs))
    every = (own**2).sum(1)
    close(np.broadcast_to(squares[""], kernel.shape), np.moveaxis(every, 0, out))


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


@pytest.mark.parametrize("name", LOOPS)
def test_layers_by(name):
    """To the bit what the layers give one after another."""
    squares, gram = both(LOOPS[name], STACK, (X,))
    flat = both(
        lambda w, x: unrolled([w["0"], w["1"], w["2"]], x),
        dict(zip("012", STACK, strict=True)),
        (X,),
    )
    np.testing.assert_array_equal(squares[""], np.stack([flat[0][k] for k in "012"]))
    np.testing.assert_array_equal(gram[""], np.stack([flat[1][k] for k in "012"]))


def test_layers_of_layers_in_both_ways():
    stack = STACK.reshape(1, 3, 4, 4).repeat(2, 0)

    def scans(w, x):
        return lax.scan(lambda x, w: (LOOPS["scan"](w, x), None), x, w)[0]

    def indices(w, x):
        return lax.fori_loop(0, 2, lambda i, x: LOOPS["scan"](w[i], x), x)

    one, other = (both(f, stack, (X,)) for f in (scans, indices))
    assert one[0][""].shape == (2, 3, 4, 1)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine[""], theirs[""])
    first = both(LOOPS["scan"], STACK, (X,))
    np.testing.assert_array_equal(one[0][""][0], first[0][""])


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

    found = quickly(lambda arrays: run_measured(program.jaxpr, arrays, met, measure)[1])(
        arrays_of(params, model.inputs)
    )
    by_leaf, narrower = gradients(model, 1), 0
    for one, (squares, gram) in zip(met, found, strict=True):
        top = np.max(squares)
        assert top > 0
        diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
        np.testing.assert_allclose(diagonal, squares, rtol=1e-4, atol=1e-4 * top)
        path = program.leaves[one.part.leaf].path
        if sum(other.part.leaf == one.part.leaf for other in program.met) > 1:
            continue  # a tied embedding: its gradient is that of both uses
        values, vectors = np.linalg.eigh(gram)
        unreached = vectors * (values < 1e-6 * values.max(-1, keepdims=True))[..., None, :]
        grads = np.asarray(to_matrices(one, by_leaf[path][0]))
        assert np.abs(grads @ unreached).max() <= 0.03 * np.abs(grads).max(), path
        narrower += bool(unreached.any())
    assert narrower


# --- many devices -------------------------------------------------------------------------------


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_sharded_params_and_batches_give_the_same(axis_type):
    """Data over four devices, heads over two, layers by a scan: sums up to their order."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType[axis_type],) * 2)
    params = {"heads": normal(8, 2, 4), "layers": normal(3, 8, 8), "out": normal(2, 4, 8)}
    layouts = {"heads": P(None, "y"), "layers": P(), "out": P("y")}
    over = P("x") if axis_type == "Explicit" else None

    def f(p, x):
        def layer(x, w):
            return jnp.tanh(jnp.einsum("btd,df->btf", x, w, out_sharding=over)), None

        h = jnp.einsum("btd,dhk->bthk", x, p["heads"])
        x = jnp.einsum("bthk,hkd->btd", h, p["out"], out_sharding=over)
        return lax.scan(layer, x, p["layers"])[0]

    x = normal(8, 5, 8)
    with jax.set_mesh(mesh):
        spread = {k: jax.device_put(v, NamedSharding(mesh, layouts[k])) for k, v in params.items()}
        sharded = both(f, spread, (jax.device_put(x, NamedSharding(mesh, P("x"))),))
    over = None
    for one, other in zip(sharded, both(f, params, (x,)), strict=True):
        for path in one:
            np.testing.assert_allclose(one[path], other[path], rtol=1e-4, atol=1e-3)


# --- stats, and errors --------------------------------------------------------------------------


def dense(p, x):
    return x @ p["w"]


PARAMS = {"b": normal(4), "w": normal(3, 4)}


def test_stats_of_two_runs_add_up():
    x, y = normal(5, 3), normal(2, 3, seed=1)
    one, two, all_of = (calibrate(dense, PARAMS, b) for b in ([(x,)], [(y,)], [(x,), (y,)]))
    close((one + two).sums["w"], all_of.sums["w"])
    again = jax.tree.unflatten(jax.tree.structure(one), jax.tree.leaves(one))
    assert again.gather == "squares"
    with pytest.raises(jp.StructureMismatch, match="stats of squares of 1 leaves and of gram of 1"):
        _ = one + calibrate(dense, PARAMS, [(x,)], gather="gram")


def test_one_program_for_all_batches_of_one_shape():
    traces = []

    def f(p, x):
        traces.append(x.shape)
        return x @ p["w"]

    calibrate(f, PARAMS, [(normal(2, 3),)] * 3 + [(normal(5, 3),)] * 2)
    assert traces == [(2, 3), (5, 3)]


ERRORS = {
    "no batch": ([], {}, jp.NoMatch, "there is no batch to calibrate with"),
    "no tuple": ([normal(2, 3)], {}, jp.PruningError, r"a batch is a tuple of inputs, got ndarray"),
    "NaN": (
        [(np.full((2, 3), np.nan),)],
        {},
        jp.PruningError,
        "an activation that meets `w` is not finite",
    ),
    "nothing in scope": (
        [(normal(2, 3),)],
        {"where": "b"},
        jp.NoMatch,
        "no product or convolution with the inputs reads a leaf in scope",
    ),
    "another word": (
        [(normal(2, 3),)],
        {"gather": "hessian"},
        jp.PruningError,
        "gather='hessian' is neither",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_refused(name):
    batches, options, kind, words = ERRORS[name]
    with pytest.raises(kind, match=words):
        calibrate(dense, PARAMS, batches, **options)


def test_a_leaf_that_is_read_in_two_ways_is_refused():
    with pytest.raises(jp.PruningError, match="`w` is read in 2 different ways"):
        calibrate(lambda p, x: (x @ p["w"]) @ p["w"].T, {"w": normal(3, 4)}, [(normal(2, 3),)])
