"""What a leaf is used for: products, lookups, loops, branches, and what cannot be read."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import jaxprune as jp
from jaxprune.tracing._trace import trace


def of(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def rows(f, params, *inputs):
    """(path, use, input, output, batch) of every row."""
    return [
        (row.path, row.use, row.input_axes, row.output_axes, row.batch_axes)
        for row in trace(f, params, *inputs).rows
    ]


def only(f, w, *inputs):
    """(use, input, output, batch, multiply-adds) of the one use of a bare array."""
    (row,) = trace(f, w, *inputs).rows
    return row.use, row.input_axes, row.output_axes, row.batch_axes, row.multiply_adds


X = of(2, 4)
W = of(4, 6)
STACK = of(3, 4, 4)


# --- products -----------------------------------------------------------------------------------

EINSUMS = {
    "td,df->tf": ((4, 6), (0,), (1,), ()),
    "td,fd->tf": ((6, 4), (1,), (0,), ()),
    "td,dhk->thk": ((4, 2, 3), (0,), (1, 2), ()),
    "td,hdk->htk": ((2, 4, 3), (1,), (0, 2), ()),
    "td,hkd->thk": ((2, 3, 4), (2,), (0, 1), ()),
    "thk,hkd->td": ((2, 3, 4), (0, 1), (2,), ()),
    "thk,dkh->td": ((4, 3, 2), (1, 2), (0,), ()),
    "etd,edf->etf": ((3, 4, 5), (1,), (2,), (0,)),
    "etd,dfe->tef": ((4, 5, 3), (0,), (1,), (2,)),
    "td,d->t": ((4,), (0,), (), ()),
    "td,efd->tef": ((3, 5, 4), (2,), (0, 1), ()),
}


@pytest.mark.parametrize("spec", EINSUMS)
@pytest.mark.parametrize("leaf_first", [False, True])
def test_einsum(spec, leaf_first):
    shape, into, out, batch = EINSUMS[spec]
    operands, result = spec.split("->")
    x_axes, w_axes = operands.split(",")
    sizes = dict(zip(w_axes, shape, strict=True)) | {"t": 7}
    x = of(*(sizes[axis] for axis in x_axes))

    def f(w, x):
        if leaf_first:
            return jnp.einsum(f"{w_axes},{x_axes}->{result}", w, x)
        return jnp.einsum(spec, x, w)

    total = int(np.prod([sizes[axis] for axis in {*x_axes, *w_axes}]))
    assert only(f, of(*shape), x) == ("product", into, out, batch, total)


def test_a_product_that_sums_over_nothing_is_elementwise():
    found = only(lambda w, x: jnp.einsum("td,d->td", x, w), of(4), X)
    assert found == ("elementwise", (), (), (), 0)


def test_a_leaf_between_two_others():
    """Latent attention: a kernel [latent, heads * features] that is absorbed into the query."""

    def f(w, q):
        return jnp.einsum("thk,chk->thc", q, w.reshape(5, 2, 3))

    assert only(f, of(5, 6), of(7, 2, 3))[:4] == ("product", (1,), (0,), (1,))


def test_vmap_of_a_model_leaves_its_kernels_alone():
    def one(w, x):
        return w @ x

    assert only(jax.vmap(one, (None, 0)), of(6, 4), X) == ("product", (1,), (0,), (), 48)


def one(w, x):
    return x @ w


def test_an_ensemble_by_vmap_is_a_batch():
    found = only(jax.vmap(one), STACK, of(3, 2, 4))
    assert found == ("product", (1,), (2,), (0,), 3 * 2 * 4 * 4)


def test_an_ensemble_that_shares_its_input_only_has_more_outputs():
    found = only(jax.vmap(one, (0, None)), STACK, X)
    assert found == ("product", (1,), (0, 2), (), 3 * 2 * 4 * 4)


def test_an_ensemble_by_linen():
    model = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0)(
        features=6
    )
    x = of(3, 2, 4)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    found = rows(model.apply, params, x)
    assert ("params/kernel", "product", (1,), (2,), (0,)) in found


def test_a_ragged_product_has_a_batch_of_experts():
    def f(w, x, sizes):
        return lax.ragged_dot(x, w, sizes)

    found = only(f, of(3, 4, 6), of(7, 4), of(3, dtype=jnp.int32))
    assert found == ("product", (1,), (2,), (0,), 7 * 4 * 6)


def test_a_derivative_taken_inside_uses_the_kernel_both_ways():
    def f(w, x):
        return jax.grad(lambda x: jnp.sum(jnp.tanh(x @ w) ** 2))(x)

    assert {row[1:4] for row in rows(f, W, X)} == {
        ("product", (0,), (1,)),
        ("product", (1,), (0,)),
    }


# --- convolutions -------------------------------------------------------------------------------


def conv(w, x, layout="HWIO", **options):
    numbers = ("NHWC", layout, "NHWC")
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)


CONVS = {
    "plain": ((3, 3, 4, 6), {}, (0, 1, 2), (3,), 8 * 8 * 9 * 4 * 6),
    "OIHW": ((6, 4, 3, 3), {"layout": "OIHW"}, (1, 2, 3), (0,), 8 * 8 * 9 * 4 * 6),
    "strided": ((3, 3, 4, 6), {"window_strides": (2, 2)}, (0, 1, 2), (3,), 4 * 4 * 9 * 4 * 6),
    "dilated": ((3, 3, 4, 6), {"rhs_dilation": (2, 2)}, (0, 1, 2), (3,), 8 * 8 * 9 * 4 * 6),
    "grouped": ((3, 3, 2, 6), {"feature_group_count": 2}, (0, 1, 2), (3,), 8 * 8 * 9 * 2 * 6),
    "depthwise": ((3, 3, 1, 4), {"feature_group_count": 4}, (0, 1, 2), (3,), 8 * 8 * 9 * 4),
}


@pytest.mark.parametrize("name", CONVS)
def test_convolution(name):
    shape, options, into, out, total = CONVS[name]
    found = only(lambda w, x: conv(w, x, **options), of(*shape), of(1, 8, 8, 4))
    assert found == ("convolution", into, out, (), total)


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_a_transposed_convolution_counts_no_holes(transpose_kernel):
    """Each of 5 x 5 inputs is spread by 2 x 2 taps to places of its own."""
    numbers = ("NHWC", "HWIO", "NHWC")

    def f(w, x):
        return lax.conv_transpose(
            x, w, (2, 2), "VALID", dimension_numbers=numbers, transpose_kernel=transpose_kernel
        )

    shape = (2, 2, 6, 4) if transpose_kernel else (2, 2, 4, 6)
    into, out = ((0, 1, 3), (2,)) if transpose_kernel else ((0, 1, 2), (3,))
    assert only(f, of(*shape), of(1, 5, 5, 4)) == ("convolution", into, out, (), 25 * 4 * 4 * 6)


def test_a_leaf_that_is_the_image_is_opaque():
    assert only(lambda w, x: conv(x, w), of(1, 8, 8, 4), of(3, 3, 4, 6))[0] == "opaque"


# --- lookups ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "look",
    [lambda w, i: w[i], lambda w, i: jnp.take(w, i, axis=0), lambda w, i: w[i[0]], nn.one_hot],
    ids=["index", "take", "one index", "one-hot"],
)
def test_lookup(look):
    if look is nn.one_hot:
        found = only(lambda w, i: jax.nn.one_hot(i, 4) @ w, W, of(3, dtype=jnp.int32))
        assert found[:3] == ("product", (0,), (1,))
    else:
        assert only(look, W, of(3, dtype=jnp.int32)) == ("lookup", (), (), (), 0)


def test_a_lookup_by_positions_that_no_input_decides():
    """Relative positions: buckets are computed from a length alone."""

    def f(w, x):
        return x + w[jnp.abs(jnp.arange(5)[:, None] - jnp.arange(5))][..., 0]

    assert only(f, of(8, 1), of(5, 5))[0] == "lookup"


def test_a_tied_embedding_is_looked_up_and_multiplied():
    def f(w, tokens):
        return jnp.tanh(w[tokens]) @ w.T

    found = rows(f, of(9, 4), of(3, dtype=jnp.int32))
    assert found == [("", "lookup", (), (), ()), ("", "product", (1,), (0,), ())]


def test_experts_that_data_chooses_are_looked_up():
    def f(w, x, chosen):
        return jnp.einsum("td,tdf->tf", x, w[chosen])

    assert only(f, STACK, X, of(2, dtype=jnp.int32))[0] == "lookup"


# --- loops and branches -------------------------------------------------------------------------

LAYER = ("product", (1,), (2,), (0,))

LOOPS = {
    "scan": lambda w, x: lax.scan(lambda x, w: (x @ w, None), x, w)[0],
    "reverse scan": lambda w, x: lax.scan(lambda x, w: (x @ w, None), x, w, reverse=True)[0],
    "scan with remat": lambda w, x: lax.scan(
        jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None)), x, w
    )[0],
    "scan over indices": lambda w, x: lax.scan(lambda x, i: (x @ w[i], None), x, jnp.arange(3))[0],
    "scan over take": lambda w, x: lax.scan(
        lambda x, i: (x @ jnp.take(w, i, axis=0), None), x, jnp.arange(3)
    )[0],
    "fori_loop": lambda w, x: lax.fori_loop(0, 3, lambda i, x: x @ w[i], x),
    "dynamic index": lambda w, x: lax.fori_loop(
        0, 3, lambda i, x: x @ lax.dynamic_index_in_dim(w, i, keepdims=False), x
    ),
    "map": lambda w, x: lax.map(lambda w: x @ w, w),
    "leaf in the carry": lambda w, x: lax.fori_loop(
        0, 3, lambda i, c: (c[0], c[1] @ c[0][i]), (w, x)
    )[1],
    "jit inside": lambda w, x: lax.scan(lambda x, w: (jax.jit(jnp.matmul)(x, w), None), x, w)[0],
}


@pytest.mark.parametrize("name", LOOPS)
def test_layers_by(name):
    assert only(LOOPS[name], STACK, X) == (*LAYER, 3 * 2 * 4 * 4)


def test_layers_of_layers():
    def f(w, x):
        return lax.scan(lambda x, w: (lax.scan(lambda x, w: (x @ w, None), x, w)[0], None), x, w)[0]

    found = only(f, of(2, 3, 4, 4), X)
    assert found == ("product", (2,), (3,), (0, 1), 2 * 3 * 2 * 4 * 4)


def test_layers_along_another_axis():
    def f(w, x):
        return lax.scan(lambda x, w: (x @ w, None), x, jnp.moveaxis(w, 1, 0))[0]

    assert only(f, of(4, 3, 4), X)[:4] == ("product", (0,), (2,), (1,))


def test_a_kernel_that_every_turn_shares():
    def f(w, x):
        return lax.scan(lambda h, x: (jnp.tanh(h @ w + x), None), jnp.zeros((4,)), x)[0]

    assert only(f, of(4, 4), of(5, 4)) == ("product", (0,), (1,), (), 5 * 4 * 4)


def test_a_while_loop_counts_one_turn_and_says_so():
    def f(w, x):
        return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] @ w[c[0]]), (0, x))[1]

    uses = trace(f, STACK, X)
    (row,) = uses.rows
    assert (row.use, row.input_axes, row.output_axes, row.batch_axes) == LAYER
    assert row.multiply_adds == 2 * 4 * 4
    assert "Multiply-adds in a while loop are those of one turn." in str(uses)


def test_a_loop_that_stops_when_the_data_say_so():
    """The layer after it depends on the inputs: it is looked up."""

    def f(w, x):
        def turn(carry):
            i, x = carry
            return i + 1, x @ w[i]

        i, x = lax.while_loop(lambda c: (c[0] < 2) & (c[1].sum() > 0), turn, (0, x))
        return x @ w[i]

    assert {row[1:] for row in rows(f, STACK, X)} == {LAYER, ("lookup", (), (), ())}


def test_a_carry_that_is_changed_is_a_leaf_no_more():
    def f(w, x):
        w = lax.fori_loop(0, 3, lambda i, w: w + jnp.sum(w), w)
        return x @ w

    assert only(f, W, X)[0] == "derived"


def test_a_recurrent_kernel_whose_first_state_is_constant():
    """The first step multiplies zeros, and that is not what the kernel is for."""

    def f(w, x):
        h = jnp.zeros((4,))
        for now in x:
            h = jnp.tanh(h @ w + now)
        return h

    assert only(f, of(4, 4), of(3, 4)) == ("product", (0,), (1,), (), 2 * 4 * 4)


@pytest.mark.parametrize(
    "branch", [lax.cond, lambda p, *rest: lax.switch(p.astype(int), rest[:2], *rest[2:])]
)
def test_branches_that_use_two_kernels(branch):
    def f(p, x):
        return branch(x.sum() > 0, lambda p, x: x @ p["a"], lambda p, x: x @ p["b"].T, p, x)

    found = rows(f, {"a": W, "b": of(6, 4)}, X)
    assert found == [("a", "product", (0,), (1,), ()), ("b", "product", (1,), (0,), ())]


def test_a_branch_that_data_choose_between_leaves_is_opaque():
    def f(p, x):
        return x @ lax.cond(x.sum() > 0, lambda p: p["a"], lambda p: p["b"], p)

    assert [row[1] for row in rows(f, {"a": W, "b": W}, X)] == ["opaque", "opaque"]


def custom_jvp(w, x):
    f = jax.custom_jvp(lambda w, x: x @ w)
    f.defjvp(lambda primals, tangents: (f(*primals), f(*tangents)))
    return f(w, x)


def custom_vjp(w, x):
    f = jax.custom_vjp(lambda w, x: x @ w)
    f.defvjp(lambda w, x: (x @ w, (w, x)), lambda saved, g: (saved[1].T @ g, g @ saved[0].T))
    return f(w, x)


CALLS = {
    "jit": jax.jit(lambda w, x: x @ w),
    "checkpoint": jax.checkpoint(lambda w, x: jnp.tanh(x @ w)),
    "custom_jvp": custom_jvp,
    "custom_vjp": custom_vjp,
    "composite": lax.composite(lambda w, x: x @ w, name="test.product"),
    "nested": jax.jit(jax.checkpoint(jax.jit(lambda w, x: x @ w))),
}


@pytest.mark.parametrize("name", CALLS)
def test_call_by(name):
    assert only(CALLS[name], W, X) == ("product", (0,), (1,), (), 48)


# --- derived, elementwise, unused ---------------------------------------------------------------


def test_a_weight_normed_kernel_is_derived_and_keeps_its_axes():
    def f(p, x):
        v = p["v"]
        return x @ (p["g"] * v / jnp.linalg.norm(v, axis=0))

    found = trace(f, {"g": of(6), "v": W}, X)
    assert [(r.path, r.use, r.input_axes, r.output_axes, r.multiply_adds) for r in found.rows] == [
        ("g", "derived", (), (0,), 0),
        ("v", "derived", (0,), (1,), 48),
    ]
    assert found.axes("v", "input") == (0,)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: jnp.where(jnp.tril(jnp.ones((4, 6), bool)), w, 0),
        lambda w: jnp.round(w * 7) / 7,
        lambda w: (w - w.mean(0)) / w.std(0),
        lambda w: w[:, np.array([5, 4, 3, 0, 1, 2])],
        lambda w: w[np.array([1, 1, 2, 3])],
    ],
    ids=["masked", "quantized", "standardised", "reordered", "repeated"],
)
def test_a_computed_kernel_is_derived(change):
    assert only(lambda w, x: x @ change(w), W, X) == ("derived", (0,), (1,), (), 48)


def test_a_kernel_of_which_nothing_is_known_but_its_leaf():
    assert only(lambda w, x: x @ jnp.sort(w), W, X) == ("derived", (), (), (), 48)


def test_a_kernel_divided_by_its_spectral_norm_is_itself():
    def f(p, x):
        sigma = p["u"] @ p["w"] @ p["v"]
        return x @ (p["w"] / sigma)

    found = trace(f, {"u": of(4), "v": of(6), "w": W}, X)
    assert found.axes("w", "input") == (0,)
    assert [row.use for row in found.of("w")] == ["product"]


def test_adapters_beside_a_kernel():
    def f(p, x):
        return x @ p["w"] + (x @ p["a"]) @ p["b"]

    found = rows(f, {"a": of(4, 2), "b": of(2, 6), "w": W}, X)
    assert [row[1:3] for row in found] == [("product", (0,))] * 3


def test_adapters_merged_into_a_kernel():
    found = rows(
        lambda p, x: x @ (p["w"] + p["a"] @ p["b"]), {"a": of(4, 2), "b": of(2, 6), "w": W}, X
    )
    assert found == [
        ("a", "product", (1,), (0,), ()),
        ("b", "product", (0,), (1,), ()),
        ("w", "derived", (0,), (1,), ()),
    ]


def test_learned_queries_meet_a_kernel():
    def f(p, x):
        q = p["latents"] @ p["query"]
        return jax.nn.softmax(q @ x.T) @ x

    found = rows(f, {"latents": of(3, 5), "query": of(5, 4)}, X)
    assert ("query", "product", (0,), (1,), ()) in found


def test_a_part_that_a_loop_cuts_out_is_derived():
    """The hidden layer in blocks: which entries a turn reads is not known, their axes are."""

    def f(w, x):
        def block(i, y):
            return y + x @ lax.dynamic_slice_in_dim(w, 2 * i, 2, 1)

        return lax.fori_loop(0, 3, block, jnp.zeros((2, 2)))

    assert only(f, W, X) == ("derived", (0,), (1,), (), 48)


def test_a_filter_of_which_only_the_spectrum_meets_the_data():
    def f(w, x):
        return jnp.fft.irfft(jnp.fft.rfft(x, 8) * jnp.fft.rfft(w, 8), 8)

    (row,) = trace(f, of(4), X).rows
    assert (row.use, row.primitive) == ("derived", "fft")


def test_elementwise_of_every_sort():
    def f(p, x):
        x = x * p["scale"] + p["bias"]
        x = jnp.where(x > 0, x, p["slope"] * x)
        return jnp.concatenate([jnp.broadcast_to(p["token"], (1, 4)), x])

    params = {"bias": of(4), "scale": of(4), "slope": of(), "token": of(4)}
    assert [row[:2] for row in rows(f, params, X)] == [(k, "elementwise") for k in params]


def test_a_statistic_that_is_first_computed_with_is_elementwise():
    assert only(lambda w, x: x * lax.rsqrt(w + 1e-5), of(4), X)[0] == "elementwise"


def test_unused_and_dead():
    def f(p, x):
        _ = jnp.tanh(x @ p["dead"])
        aux = jax.jit(lambda w, x: (x, x @ w))(p["half dead"], x)
        return aux[0] @ p["used"]

    params = {"dead": W, "half dead": W, "never": W, "used": W}
    found = [row[1] for row in rows(f, params, X)]
    assert found == ["unused", "unused", "unused", "product"]


def test_leaves_that_decide_which_way_the_program_goes():
    def f(p, x):
        x = lax.cond(p["flag"] > 0, jnp.tanh, lambda x: x, x)
        return lax.while_loop(lambda c: c[0] < p["turns"], lambda c: (c[0] + 1, c[1] * 2), (0, x))[
            1
        ]

    found = trace(f, {"flag": of(), "turns": of(dtype=jnp.int32)}, X)
    assert [row.in_words for row in found.rows] == ["opaque (cond)", "opaque (while)"]


def test_factors_of_a_computed_kernel_are_used():
    """Each entry of the kernel is a product of two numbers, and nothing is summed for it."""

    def f(p, x):
        return x @ jnp.einsum("d,f->df", p["a"], p["b"])

    assert [row[1] for row in rows(f, {"a": of(4), "b": of(6)}, X)] == ["elementwise"] * 2


def test_what_is_only_returned():
    """As it is, it is passed on entry by entry; of what is computed of it, no more is known."""

    def f(p, x):
        return x @ p["w"], p["w"], p["state"], jnp.sum(p["regularised"] ** 2)

    found = trace(f, {"regularised": W, "state": of(3), "w": W}, X)
    assert [row.use for row in found.rows] == ["derived", "elementwise", "product"]
    assert "elementwise (returned)" in str(found)


# --- what cannot be read ------------------------------------------------------------------------


def manual(w, x):
    mesh = jax.make_mesh((1,), ("i",))
    return jax.shard_map(lambda w, x: x @ w, mesh=mesh, in_specs=(P(), P()), out_specs=P())(w, x)


OPAQUE = {
    "shard_map": manual,
    "triangular_solve": lambda w, x: lax.linalg.triangular_solve(w, x.T, left_side=True),
    "pure_callback": lambda w, x: jax.pure_callback(lambda w, x: x, X, w, x),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_opaque(name):
    line = inspect.getsourcelines(OPAQUE[name])[1] + 2 * (name == "shard_map")
    found = trace(OPAQUE[name], of(4, 4), X)
    (row,) = found.rows
    assert (row.use, row.primitive) == ("opaque", name)
    assert row.source == f"{__file__}:{line}"
    assert f"opaque ({name})" in str(found)


# --- where in the source ------------------------------------------------------------------------


def second(w, x):
    return jnp.einsum("td,df->tf", x, w)


def test_a_cached_jaxpr_does_not_remember_another_line():
    """Both call the same compiled functions of JAX, with the same shapes."""

    def f(p, x):
        return jnp.take(p["a"], x, axis=0), jnp.take(p["b"], x, axis=0)

    found = trace(f, {"a": W, "b": W}, of(3, dtype=jnp.int32))
    first = inspect.getsourcelines(f)[1]
    assert [row.source for row in found.rows] == [f"{__file__}:{first + 1}"] * 2

    def g(p, x):
        x = jnp.take(p["a"], x, axis=0)
        return x, jnp.take(p["b"], x.astype(int).sum(1), axis=0)

    found = trace(g, {"a": W, "b": W}, of(3, dtype=jnp.int32))
    first = inspect.getsourcelines(g)[1]
    assert [row.source for row in found.rows] == [f"{__file__}:{first + k}" for k in (1, 2)]


def test_the_line_of_a_function_that_is_compiled():
    line = inspect.getsourcelines(second)[1] + 1
    compiled = jax.jit(second)
    for _ in range(2):  # the second time from the cache
        found = trace(compiled, W, X)
        assert [row.source for row in found.rows] == [f"{__file__}:{line}"]


def test_a_framework_called_without_a_model():
    model = nn.Sequential([nn.Dense(6)])
    params = jax.eval_shape(model.init, jax.random.key(0), X)
    found = trace(model.apply, params, X)
    assert all("flax" in row.source for row in found.rows)


@pytest.mark.parametrize(
    "call",
    [
        jp.trace,
        lambda f, p, x: jp.calibrate(f, p, [(x,)]),
        lambda f, p, x: jp.prune_with_data(f, p, [(x,)], 0.5),
        jp.dependencies,
    ],
    ids=["trace", "calibrate", "prune_with_data", "dependencies"],
)
def test_inputs_that_do_not_fit_are_refused_in_words(call):
    with pytest.raises(jp.PruningError, match=r"f\(params, \*inputs\) cannot be traced: TypeError"):
        call(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 4))}, jnp.ones((2, 5)))
    with pytest.raises(jp.PruningError, match=r"expected params that hold arrays, got \{\}"):
        call(lambda p, x: x, {}, jnp.ones((2, 5)))
