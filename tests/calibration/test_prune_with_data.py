"""Pruning with data: in order, at once, in every shape of model, against loops written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp
from jaxprune._tree import arrays_in, leaves
from jaxprune.calibration._flat import flattened
from jaxprune.calibration._gathering import chosen_pieces, gathering_of
from jaxprune.calibration._levels import levels_of
from jaxprune.calibration._segments import Segments
from jaxprune.tracing._trace import read
from tests.tracing.models import MODELS
from tests.tracing.test_models import filled


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def layers(p, x):
    for name in "abc":
        x = jnp.tanh(x @ p[name])
    return x


PARAMS = {name: 0.4 * normal(8, 8, seed=k) for k, name in enumerate("abc")}
STACK = {"w": np.stack([*PARAMS.values()])}
BATCHES = [(normal(16, 8, seed=5),), (normal(16, 8, seed=6),)]
METHODS = {"Wanda": jp.Wanda, "SparseGPT": jp.SparseGPT(), "Refit": jp.Refit(jp.Wanda)}


def solved(method, weights, x, spec):
    """One layer [in, out] by the rows that it meets; the masks of metrics in float64 NumPy."""
    turned, gram = jax.device_put(weights).T[None], jax.device_put(x.T @ x)[None]
    if isinstance(method, jp.SparseGPT):
        new, _ = method.solve(turned, gram, len(x), spec)
        return new[0].T
    scores = (
        np.abs(weights.astype(np.float64)) * np.linalg.norm(x.astype(np.float64), axis=0)[:, None]
    )
    kept = np.argsort(np.argsort(scores, 0), 0) >= len(weights) // 2
    if method is jp.Wanda:
        return jnp.where(kept, weights, 0)
    return method.solve(turned, gram, len(x), kept.T[None])[0].T


@pytest.mark.parametrize("name", METHODS)
def test_in_order_is_the_loop_that_one_writes_by_hand(name):
    method, spec = METHODS[name], jp.Unstructured(0.5, per="output")
    pruned, mask = jp.prune_with_data(layers, PARAMS, BATCHES, spec, method=method)
    rows = np.concatenate([x for (x,) in BATCHES])
    for leaf in "abc":
        expected = np.asarray(solved(method, PARAMS[leaf], rows, spec))
        np.testing.assert_allclose(pruned[leaf], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(mask[leaf], expected != 0)
        rows = np.asarray(jnp.tanh(rows @ expected))


@pytest.mark.parametrize("name", METHODS)
def test_at_once_every_leaf_sees_the_dense_model(name):
    method, spec = METHODS[name], jp.Unstructured(0.5, per="output")
    pruned, _ = jp.prune_with_data(layers, PARAMS, BATCHES, spec, method=method, order="at_once")
    rows = np.concatenate([x for (x,) in BATCHES])
    for leaf in "abc":
        expected = solved(method, PARAMS[leaf], rows, spec)
        np.testing.assert_allclose(pruned[leaf], expected, rtol=1e-4, atol=1e-5)
        rows = np.asarray(jnp.tanh(rows @ PARAMS[leaf]))


def test_a_refit_keeps_the_mask_of_a_solver_and_lowers_its_error():
    def one(p, x):
        return x @ p

    (_, of_solver), (refitted, mask) = solved = [
        jp.prune_with_data(one, PARAMS["a"], BATCHES, 0.5, method=method)
        for method in (jp.SparseGPT(), jp.Refit(jp.SparseGPT()))
    ]
    np.testing.assert_array_equal(of_solver, mask)
    np.testing.assert_array_equal(refitted != 0, mask)
    rows = np.concatenate([x for (x,) in BATCHES])
    errors = [np.square(rows @ (np.asarray(new) - PARAMS["a"])).sum() for new, _ in solved]
    assert errors[1] < errors[0]


def by_scan(p, x):
    return lax.scan(jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None)), x, p["w"])[0]


def by_index(p, x):
    return lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ p["w"][i]), x)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", ["Wanda", "SparseGPT"])
def test_stacked_layers_are_separate_layers_to_the_bit(name):
    method = METHODS[name]
    flat, of_flat = jp.prune_with_data(layers, PARAMS, BATCHES, 0.5, method=method)
    for f in (by_scan, by_index):
        stacked, mask = jp.prune_with_data(f, STACK, BATCHES, 0.5, method=method)
        np.testing.assert_array_equal(stacked["w"], np.stack([flat[k] for k in "abc"]))
        np.testing.assert_array_equal(mask["w"], np.stack([of_flat[k] for k in "abc"]))


@pytest.mark.filterwarnings("ignore:no data has reached")
@pytest.mark.parametrize("name", ["mixture_of_experts", "u_net"])
def test_a_pruned_model_explains_its_own_masks(name):
    """What reaches a weight in order is what reaches it in the pruned model that came out."""
    model = MODELS[name]()
    params, batches = filled(model), [model.inputs]
    pruned, mask = jp.prune_with_data(model.f, params, batches, 0.5, method=jp.Wanda)
    scores = jp.importance(params, jp.Wanda(jp.calibrate(model.f, pruned, batches)))
    uses = jp.trace(model.f, params, *model.inputs)
    checked = 0
    kept, scores = ({leaf.path: leaf.value for leaf in leaves(tree)} for tree in (mask, scores))
    for path in [path for path, one in kept.items() if one is not None]:
        row = uses.of(path)[0]
        per = (*row.batch_axes, *row.output_axes)
        expected = jp.make_mask(scores[path], jp.Unstructured(0.5, per=per))
        np.testing.assert_array_equal(kept[path], expected, err_msg=path)
        checked += 1
    assert checked >= 4


def block(x, p):
    y = x / jnp.sqrt(1 + jnp.mean(x**2, -1, keepdims=True))
    q, k, v = (y @ p[name] for name in "qkv")
    x = x + jax.nn.softmax(q @ k.T) @ v @ p["o"]
    return x + jax.nn.silu(x @ p["up"]) @ p["down"], None


def transformer(depth):
    one = {name: normal(depth, 8, 8) for name in ("q", "k", "v", "o", "up", "down")}
    return lambda p, x: lax.scan(block, x, p)[0] @ jnp.ones((8, 2)), one


def test_depth_adds_no_compilation_and_little_that_is_kept():
    counts, values = [], []
    for depth in (4, 8):
        f, params = transformer(depth)
        program = read(f, params, X)
        arrays = arrays_in((params, (X,)))
        flat = flattened(program, arrays, chosen_pieces(program, lambda path: True))
        pieces = chosen_pieces(flat, lambda path: True)
        levels = levels_of(flat, gathering_of(flat, pieces))
        assert len(pieces) == 6 * depth
        assert len(levels.segments) == 4 * depth  # q, k, v; o; up; down
        segments = Segments("squares")
        found = [segments.segment(levels, number) for number in range(len(levels.segments))]
        counts.append(len(segments.compiled))
        values.append(max(len(segment.outputs) for segment in found))
        # Every equation is in one segment at most.
        every = [id(equation) for segment in levels.segments for equation in segment]
        assert len({*every}) == len(every)
    assert counts[0] == counts[1] <= 6
    assert values == [2, 2]


X = normal(6, 8)


def test_every_layer_runs_once_for_each_batch():
    seen = []

    def count(x):
        seen.append(x.shape)
        return x

    def f(p, x):
        def layer(x, w):
            y = jax.pure_callback(count, jax.ShapeDtypeStruct(x.shape, x.dtype), x @ w)
            return jnp.tanh(y), None

        return lax.scan(layer, x, p["w"])[0]

    jp.prune_with_data(f, STACK, BATCHES, 0.5, method=jp.Wanda)
    assert seen == [(16, 8)] * 2 * len(BATCHES)  # nobody needs what the last layer gives


# --- shapes of models ---------------------------------------------------------------------------


def test_concatenated_leaves_are_solved_as_the_one_leaf_that_they_make():
    """Along inputs together; along outputs, where each leaf has rows of its own, by themselves."""
    one, two = normal(8, 8), normal(8, 8, seed=1)
    wide = [(np.concatenate([x, np.tanh(x)], -1),) for (x,) in BATCHES]

    def of_inputs(p, x):
        return x @ jnp.concatenate([p["one"], p["two"]])

    spec = jp.Unstructured(0.5, per="output")
    params = {"one": one, "two": two}
    apart, mask = jp.prune_with_data(of_inputs, params, wide, spec)
    joint, _ = jp.prune_with_data(lambda p, x: x @ p, np.concatenate([one, two]), wide, spec)
    np.testing.assert_array_equal(np.concatenate([apart["one"], apart["two"]]), joint)
    assert int(mask["one"].sum() + mask["two"].sum()) == 64
    with pytest.raises(jp.InvalidPattern, match="`one` and `two` are summed in one product"):
        jp.prune_with_data(of_inputs, params, wide, {"one": 0.5, "two": 0.25})

    def of_outputs(p, x):
        return x @ jnp.concatenate([p["one"], p["two"]], 1)

    apart, mask = jp.prune_with_data(of_outputs, params, BATCHES, {"one": 0.5, "two": 0.25})
    alone, _ = jp.prune_with_data(lambda p, x: x @ p, two, BATCHES, 0.25)
    np.testing.assert_allclose(apart["two"], alone, rtol=1e-5, atol=1e-6)
    assert [int(mask[name].sum()) for name in params] == [32, 48]


def test_a_kernel_that_is_read_at_every_turn():
    """Its loop stays a loop, and what follows sees the loop with the pruned kernel."""

    def f(p, x):
        h, _ = lax.scan(lambda h, x: (jnp.tanh(h @ p["w"] + x), None), jnp.zeros(8), x)
        return h[None] @ p["out"]

    params = {"out": PARAMS["b"], "w": PARAMS["a"]}
    pruned, _ = jp.prune_with_data(f, params, BATCHES, 0.5, method=jp.Wanda)
    at_once, _ = jp.prune_with_data(f, params, BATCHES, 0.5, method=jp.Wanda, order="at_once")
    np.testing.assert_array_equal(pruned["w"], at_once["w"])
    seen = jp.calibrate(f, pruned, BATCHES)
    expected = jp.importance(params, jp.Wanda(seen))["out"]
    kept = jp.make_mask(expected, jp.Unstructured(0.5, per=1))
    np.testing.assert_array_equal(pruned["out"] != 0, kept)


def test_a_leaf_that_is_read_twice_is_pruned_by_both():
    def f(p, x):
        return jnp.tanh(x @ p["w"]) @ p["w"]

    pruned, _ = jp.prune_with_data(f, {"w": PARAMS["a"]}, BATCHES, 0.5, method=jp.Wanda)
    stats = jp.calibrate(f, {"w": PARAMS["a"]}, BATCHES)
    kept = jp.make_mask(
        jp.importance({"w": PARAMS["a"]}, jp.Wanda(stats)), jp.Unstructured(0.5, per=1)
    )
    np.testing.assert_array_equal(pruned["w"] != 0, kept["w"])


def test_grouped_and_depthwise_convolutions():
    """As the products with their patches that they are."""

    def conv(x, kernel, groups):
        numbers = ("NWC", "OIW", "NWC")
        return lax.conv_general_dilated(
            x, kernel, (1,), "VALID", dimension_numbers=numbers, feature_group_count=groups
        )

    params = {"depthwise": normal(8, 1, 3), "grouped": normal(8, 4, 3)}
    batches = [(x[None],) for (x,) in BATCHES]

    def f(p, x):
        return [conv(x, p[name], groups) for name, groups in zip(p, (8, 2), strict=True)]

    pruned, mask = jp.prune_with_data(f, params, batches, 0.5)
    assert [int(each.sum()) for each in mask.values()] == [12, 48]
    windows = np.stack([x[k : k + 14] for (x,) in batches for x in x for k in range(3)])
    windows = windows.reshape(2, 3, 14, 8).transpose(0, 2, 3, 1)  # [batch, position, in, taps]
    for name, groups in zip(params, (8, 2), strict=True):
        rows = windows.reshape(28, groups, -1).transpose(1, 0, 2)
        weights = jax.device_put(params[name].reshape(groups, 8 // groups, -1))
        gram = jnp.einsum("gpi,gpj->gij", rows, rows, precision="highest")
        expected, _ = jp.SparseGPT().solve(weights, gram, 28, jp.Unstructured(0.5))
        np.testing.assert_allclose(
            pruned[name], expected.reshape(pruned[name].shape), rtol=1e-3, atol=1e-4
        )


def test_batches_of_several_shapes_and_layers_that_share_their_input():
    f, params = transformer(2)
    batches = [(normal(6, 8),), (normal(4, 8, seed=1),), (normal(6, 8, seed=2),)]
    spec = {"q": None, "down": jp.NM(2, 4, axis="input"), "*": jp.Unstructured(0.5, per="output")}
    pruned, mask = jp.prune_with_data(f, params, batches, spec, method=jp.Refit(jp.Wanda))
    assert pruned["q"] is params["q"]
    assert mask["q"] is None
    groups = np.asarray(mask["down"]).reshape(2, 2, 4, 8)
    assert (groups.sum(2) == 2).all()
    assert (np.asarray(mask["k"]).sum(1) == 4).all()


# --- what comes back ----------------------------------------------------------------------------


def test_trees_come_back_as_they_were():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.one = nnx.Linear(8, 8, rngs=rngs, param_dtype=jnp.bfloat16)
            self.two = nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x):
            return self.two(jax.nn.relu(self.one(x)))

    graph, params = nnx.split(Model(nnx.Rngs(0)))
    before = jax.tree.map(np.array, params)

    def f(params, x):
        return nnx.merge(graph, params)(x)

    pruned, mask = jp.prune_with_data(
        f, params, BATCHES, jp.NM(2, 4, axis="input"), method=jp.Wanda
    )
    assert jax.tree.structure(pruned) == jax.tree.structure(params)
    values, kept = ({leaf.path: leaf.value for leaf in leaves(tree)} for tree in (pruned, mask))
    assert values["one/kernel"].dtype == jnp.bfloat16
    assert kept["one/bias"] is None
    np.testing.assert_array_equal(values["two/kernel"] != 0, kept["two/kernel"])
    jax.tree.map(np.testing.assert_array_equal, params, before)


@pytest.mark.parametrize("order", ["sequential", "at_once"])
def test_interrupted_it_leaves_the_parameters_as_they_were(order):
    class Interrupted(Exception):
        pass

    params = {"a": jnp.asarray(PARAMS["a"]), "b": jnp.asarray(PARAMS["b"]), "c": PARAMS["c"].copy()}
    asked = []

    def stops_at_the_second(stats):
        asked.append(stats)
        if len(asked) > 1:
            raise Interrupted
        return jp.Wanda(stats)

    with pytest.raises(Interrupted):
        jp.prune_with_data(
            layers, params, BATCHES, 0.5, method=jp.Refit(by=stops_at_the_second), order=order
        )
    for name, dense in PARAMS.items():
        np.testing.assert_array_equal(params[name], dense)


@pytest.mark.parametrize(("axis_type", "method"), [("Auto", "Wanda"), ("Explicit", "SparseGPT")])
def test_on_many_devices(axis_type, method):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType[axis_type],) * 2)
    over = None

    def f(p, x):
        h = jnp.tanh(jnp.einsum("td,dhk->thk", x, p["heads"]))
        return jnp.einsum("thk,hkd->td", h, p["out"], out_sharding=over)

    params = {"heads": normal(8, 2, 4), "out": normal(2, 4, 8)}
    layouts = {"heads": P(None, "y"), "out": P("y")}
    method = METHODS[method]
    here, of_here = jp.prune_with_data(f, params, BATCHES, 0.5, method=method)
    over = P("x") if axis_type == "Explicit" else None
    with jax.set_mesh(mesh):
        spread = {k: jax.device_put(v, NamedSharding(mesh, layouts[k])) for k, v in params.items()}
        batches = [(jax.device_put(x, NamedSharding(mesh, P("x"))),) for (x,) in BATCHES]
        there, of_there = jp.prune_with_data(f, spread, batches, 0.5, method=method)
    for name in params:
        np.testing.assert_array_equal(of_there[name], of_here[name])
        np.testing.assert_allclose(there[name], here[name], rtol=1e-3, atol=1e-4)
        for found in (there, of_there):
            assert found[name].sharding.is_equivalent_to(spread[name].sharding, 3)


def test_a_global_budget_at_once():
    spec = jp.Unstructured(0.5, per="global")
    pruned, _ = jp.prune_with_data(layers, PARAMS, BATCHES, spec, method=jp.Wanda, order="at_once")
    expected, _ = jp.prune(
        PARAMS, spec, metric=jp.Wanda(jp.calibrate(layers, PARAMS, BATCHES)), where=jp.any_leaf
    )
    jax.tree.map(np.testing.assert_array_equal, pruned, expected)


ERRORS = {
    "no batch": ({"batches": []}, jp.NoMatch, "there is no batch to prune with"),
    "another order": ({"order": "backwards"}, jp.PruningError, "order='backwards' is neither"),
    "the class": ({"method": jp.SparseGPT}, jp.PruningError, "method is the class SparseGPT"),
    "no method": ({"method": "wanda"}, jp.PruningError, "expected a method, got 'wanda'"),
    "global, in order": (
        {"spec": jp.Unstructured(0.5, per="global"), "method": jp.Wanda},
        jp.InvalidPattern,
        r'3 problems:\n.*`a` shares a global budget.*write order="at_once"',
    ),
    "units": (
        {"spec": jp.Channels(0.5, axis="output")},
        jp.InvalidPattern,
        r"`a`: SparseGPT prunes by .*\n.*`b`: ",
    ),
    "along outputs": (
        {"spec": jp.NM(2, 4, axis="output")},
        jp.InvalidPattern,
        r"`a` has groups of 4 along axis 1, and SparseGPT needs them along its inputs, axis 0",
    ),
    "groups that do not divide": (
        {"spec": jp.NM(2, 3, axis="input"), "method": jp.Wanda},
        jp.InvalidPattern,
        "`a` has 8 entries along axis 0, not divisible by m=3",
    ),
    "no use": ({"where": ["a", "unused"]}, jp.NoMatch, "with the inputs reads `unused` as it is"),
    "NaN": (
        {"batches": [(np.full((2, 8), np.nan),)]},
        jp.PruningError,
        "activations that meet `a` are not finite",
    ),
    "memory": ({"max_bytes": 100}, jp.PruningError, "the Grams take 256 bytes.*`a` 256"),
    "no tuple": ({"batches": [X]}, jp.PruningError, "a batch is a tuple of inputs"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_refused(name):
    options, kind, words = ERRORS[name]
    options = {"batches": BATCHES, "spec": 0.5} | options
    params = PARAMS | {"unused": normal(8, 8)}
    with pytest.raises(kind, match=words):
        jp.prune_with_data(layers, params, options.pop("batches"), options.pop("spec"), **options)
