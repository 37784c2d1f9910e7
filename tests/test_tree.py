"""Trees as people have them: their paths, what is a leaf, which leaves a rule takes, and back."""

import re
from typing import Any, NamedTuple

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict, meta

import jaxprune as jp


def paths(tree):
    """The path of every leaf, in the tree's order, as a plan lists them."""
    return [row.path for row in jp.plan(tree, 0.5, where=jp.any_leaf).rows]


def pruned_paths(tree, **where):
    return {row.path for row in jp.plan(tree, 0.5, **where).rows if row.spec is not None}


def reasons(tree, **where):
    return {row.path: row.reason for row in jp.plan(tree, 0.5, **where).rows}


def ones(shapes):
    """Arrays for the shapes that an initializer would make, without compiling it."""
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)


def structure(tree):
    """The tree without its leaves, of which None is one."""
    return jax.tree.structure(tree, is_leaf=lambda node: node is None)


# --- the same two layers in everything that holds them ------------------------------------------

rng = np.random.default_rng(0)
FIRST, SECOND = (jax.device_put(np.float32(rng.normal(size=(4, 8)))) for _ in range(2))
BIAS = jnp.arange(8.0)


class Layer(NamedTuple):
    kernel: Any
    bias: Any


class Dense(eqx.Module):
    kernel: Any
    bias: Any


class Model(eqx.Module):
    first: Dense
    second: Dense
    name: str = eqx.field(static=True, default="model")


class Pair(nnx.Module):
    def __init__(self):
        self.kernel, self.bias = nnx.Param(FIRST), nnx.Param(BIAS)


class Nnx(nnx.Module):
    def __init__(self):
        self.first, self.second = Pair(), Pair()
        self.second.kernel = nnx.Param(SECOND)


@jax.tree_util.register_pytree_node_class
class Opaque:
    """A node that gives its children no names."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def plain(box=lambda value, names: value):
    return {
        layer: {"kernel": box(kernel, ("in", "out")), "bias": box(BIAS, ("out",))}
        for layer, kernel in (("first", FIRST), ("second", SECOND))
    }


NAMED = ["first/bias", "first/kernel", "second/bias", "second/kernel"]
FIELDS = ["first/kernel", "first/bias", "second/kernel", "second/bias"]
TREES = {
    "dict": (plain, NAMED),
    "FrozenDict": (lambda: FrozenDict(plain()), NAMED),
    "dict of FrozenDicts": (lambda: {k: FrozenDict(v) for k, v in plain().items()}, NAMED),
    "nn.Partitioned": (lambda: plain(nn.Partitioned), NAMED),
    "nn.LogicallyPartitioned": (lambda: plain(nn.LogicallyPartitioned), NAMED),
    "nnx.State": (lambda: nnx.split(Nnx())[1], NAMED),
    "Equinox": (lambda: Model(Dense(FIRST, BIAS), Dense(SECOND, BIAS)), FIELDS),
    "NamedTuple": (
        lambda: {"first": Layer(FIRST, BIAS), "second": Layer(SECOND, BIAS)},
        FIELDS,
    ),
    "list": (lambda: [[FIRST, BIAS], [SECOND, BIAS]], ["0/0", "0/1", "1/0", "1/1"]),
    "tuple": (lambda: ((FIRST, BIAS), (SECOND, BIAS)), ["0/0", "0/1", "1/0", "1/1"]),
    "dict with integer keys": (lambda: {0: (FIRST,), 7: [SECOND, BIAS]}, ["0/0", "7/0", "7/1"]),
    "nameless node": (lambda: {"net": Opaque(FIRST, Opaque(SECOND))}, ["net/0", "net/1/0"]),
    "Haiku's slashes": (lambda: {"mlp/~/linear_0": {"w": FIRST}}, ["mlp/~/linear_0/w"]),
}


@pytest.fixture(params=TREES, ids=str)
def tree(request):
    return TREES[request.param][0]()


@pytest.mark.parametrize("kind", TREES, ids=str)
def test_paths(kind):
    build, expected = TREES[kind]
    assert paths(build()) == expected


def test_importance_and_mask_and_pruned_keep_the_type_of_the_tree(tree):
    scores = jp.importance(tree, jp.L1())
    mask = jp.make_mask(scores, jp.NM(2, 4))
    pruned = jp.apply_mask(tree, mask)
    assert structure(scores) == structure(mask) == structure(pruned) == structure(tree)
    chex.assert_trees_all_equal_shapes_and_dtypes(pruned, tree)


def test_the_same_weights_get_the_same_mask_in_every_tree(tree):
    kernels = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim == 2]
    pruned, mask = jp.prune(tree, jp.NM(2, 4))
    expected = [jp.prune(kernel, jp.NM(2, 4)) for kernel in kernels]
    chex.assert_trees_all_equal(jax.tree.leaves(mask), [kept for _, kept in expected])
    chex.assert_trees_all_equal(
        [leaf for leaf in jax.tree.leaves(pruned) if leaf.ndim == 2], [w for w, _ in expected]
    )


def test_biases_get_none_in_every_tree(tree):
    mask = jp.make_mask(jp.importance(tree, jp.L1()), jp.NM(2, 4))
    flat = jax.tree.leaves(mask, is_leaf=lambda node: node is None)
    assert [kept is None for kept in flat] == [leaf.ndim == 1 for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("source", ["FrozenDict", "nn.Partitioned", "nnx.State"])
@pytest.mark.parametrize("target", ["dict", "FrozenDict", "nn.LogicallyPartitioned", "nnx.State"])
def test_a_mask_fits_every_tree_of_the_same_paths(source, target):
    mask = jp.prune(TREES[source][0](), jp.NM(2, 4))[1]
    params = TREES[target][0]()
    pruned = jp.apply_mask(params, mask)
    assert structure(pruned) == structure(params)
    chex.assert_trees_all_equal(pruned, jp.prune(params, jp.NM(2, 4))[0])


def test_a_plain_tree_of_specs_fits_every_tree_of_the_same_paths():
    specs = {"first": jp.NM(2, 4), "second": {"kernel": jp.NM(1, 4), "bias": None}}
    for params in (plain(), FrozenDict(plain()), plain(nn.Partitioned)):
        mask = jp.make_mask(params, specs)
        assert [int(m.sum()) for m in jax.tree.leaves(mask)] == [16, 8]


# --- boxes --------------------------------------------------------------------------------------


def test_a_box_stays_around_the_score_the_mask_and_the_weights():
    params = plain(nn.Partitioned)
    for out in (
        jp.importance(params, jp.L1()),
        jp.make_mask(params, jp.NM(2, 4)),
        jp.prune(params, jp.NM(2, 4))[0],
    ):
        kernel = out["first"]["kernel"]
        assert isinstance(kernel, nn.Partitioned)
        assert kernel.names == ("in", "out")


def test_a_box_of_several_arrays_lends_them_its_path():
    state = nnx.State({"cell": nnx.Param({"in": FIRST, "out": {"kernel": SECOND}})})
    assert paths(state) == ["cell/in", "cell/out/kernel"]


def test_a_box_of_any_class_that_follows_scan_is_one():
    @jax.tree_util.register_pytree_with_keys_class
    class Tagged(meta.AxisMetadata):
        def __init__(self, data):
            self.data = data

        def tree_flatten_with_keys(self):
            return ((jax.tree_util.GetAttrKey("data"), self.data),), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

        def unbox(self):
            return self.data

        def replace_boxed(self, val):
            return Tagged(val)

        def add_axis(self, index, params):
            return self

        def remove_axis(self, index, params):
            return self

    assert paths({"dense": {"kernel": Tagged(FIRST)}}) == ["dense/kernel"]


class Store(eqx.Module):
    value: Any


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (Store(FIRST), ["value"]),
        ({"attention": Store(Store(FIRST))}, ["attention/value/value"]),
        ({"attention": {"value": {"kernel": FIRST}}}, ["attention/value/kernel"]),
        ({"value": FIRST}, ["value"]),
        ({"value": nn.Partitioned(FIRST, (None, None))}, ["value"]),
        (nnx.State({"value": nnx.Param(FIRST)}), ["value"]),
        ({"store": nn.Partitioned(Store(FIRST), (None, None))}, ["store/value"]),
    ],
    ids=["field", "nested fields", "module", "key", "boxed key", "nnx key", "field in a box"],
)
def test_a_field_that_is_called_value_is_no_box(tree, expected):
    assert paths(tree) == expected


def test_an_nnx_module_reads_as_its_state():
    model = Nnx()
    if len(jax.tree.leaves(model)) == 1:
        pytest.skip("before Flax 0.12 an nnx.Module is no pytree: users pass its state")
    assert paths(model) == paths(nnx.split(model)[1])
    pruned, mask = jp.prune(model, jp.NM(2, 4))
    assert isinstance(pruned, Nnx)
    chex.assert_trees_all_equal(nnx.split(pruned)[1], jp.prune(nnx.split(model)[1], jp.NM(2, 4))[0])
    assert jp.report(pruned, mask).pruned.nonzero == 32


# --- bare arrays, holes, and what is no weight --------------------------------------------------


def test_a_bare_array_has_an_empty_path_and_ignores_where():
    for where in (jp.is_weight, lambda path, leaf: False):
        (row,) = jp.plan(BIAS, 0.5, where=where).rows
        assert (row.path, row.prunes) == ("", 4)


def test_a_list_of_one_array_is_no_bare_array():
    with pytest.raises(jp.NoMatch, match=r"rank 1 \(1\)"):
        jp.make_mask([BIAS], 0.5)


def test_holes_stay_holes():
    params = {"a": {"kernel": FIRST, "bias": None}, "b": None, "c": [None, SECOND]}
    pruned, mask = jp.prune(params, jp.NM(2, 4))
    for out in (jp.importance(params, jp.L1()), pruned, mask):
        assert structure(out) == structure(params)
        assert out["a"]["bias"] is out["b"] is out["c"][0] is None
    assert reasons(params)["b"] == "empty place"


OTHERS = {
    "integers": jnp.arange(32).reshape(4, 8),
    "booleans": jnp.ones((4, 8), bool),
    "complex numbers": jnp.ones((4, 8), jnp.complex64),
    "eight-bit floats": jnp.ones((4, 8), jnp.float8_e4m3fn),
    "a typed key": jax.random.key(0),
    "typed keys": jax.random.split(jax.random.key(0), (4, 8)),
    "a legacy key": jax.random.PRNGKey(0),
    "NumPy integers": np.arange(32).reshape(4, 8),
    "a Python number": 0.5,
    "a string": "relu",
    "a function": jax.nn.relu,
}


@pytest.mark.parametrize("kind", OTHERS, ids=str)
@pytest.mark.parametrize("where", [jp.is_weight, jp.any_leaf, "*"], ids=["is_weight", "any", "*"])
def test_left_alone(kind, where):
    other = OTHERS[kind]
    params = {"kernel": FIRST, "state": {"kernel": other}}
    scores = jp.importance(params, jp.L1())
    pruned, mask = jp.prune(params, jp.NM(2, 4), where=where)
    assert scores["state"]["kernel"] is mask["state"]["kernel"] is None
    assert pruned["state"]["kernel"] is other
    expected = f"dtype {other.dtype}" if hasattr(other, "dtype") else "not an array"
    assert reasons(params, where=where)["state/kernel"] == expected


def test_where_is_asked_about_floats_only():
    seen = []

    def where(path, leaf):
        seen.append((path, leaf.dtype.name))
        return True

    jp.make_mask(
        {"a": FIRST, "b": jnp.arange(3), "c": None, "d": jax.random.key(0)}, 0.0, where=where
    )
    assert set(seen) == {("a", "float32")}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=str)
def test_floats_of_every_width_keep_their_dtype(dtype):
    params = {"kernel": FIRST.astype(dtype), "bias": BIAS.astype(dtype)}
    pruned, mask = jp.prune(params, jp.NM(2, 4))
    chex.assert_trees_all_equal_shapes_and_dtypes(pruned, params)
    assert mask["kernel"].dtype == bool


def test_float64_under_x64(x64):
    with x64(True):
        params = {"kernel": jax.device_put(np.random.default_rng(1).normal(size=(4, 8)))}
        assert params["kernel"].dtype == jnp.float64
        scores = jp.importance(params, jp.L2())
        assert scores["kernel"].dtype == jnp.float64
        pruned, mask = jp.prune(params, jp.NM(2, 4))
        chex.assert_trees_all_equal_shapes_and_dtypes(pruned, params)
        assert int(mask["kernel"].sum()) == 16


def test_zero_size_leaves_are_left_out_by_default_and_named_if_asked_for():
    params = {"full": {"kernel": FIRST}, "empty": {"kernel": jnp.ones((0, 8))}}
    assert reasons(params)["empty/kernel"] == "holds no weights"
    pruned, mask = jp.prune(params, jp.NM(2, 4))
    assert mask["empty"]["kernel"] is None
    assert pruned["empty"]["kernel"] is params["empty"]["kernel"]
    with pytest.raises(jp.EmptyTensor, match=r"`empty/kernel` has shape \(0, 8\)"):
        jp.prune(params, jp.NM(2, 4), where=jp.any_leaf)


def test_zero_rank_leaves_keep_their_one_weight():
    params = {"kernel": FIRST, "temperature": jnp.float32(0.1)}
    assert reasons(params)["temperature"] == "rank 0"
    mask = jp.make_mask(params, {"temperature": 0.9, "*": jp.NM(2, 4)}, where=jp.any_leaf)
    chex.assert_trees_all_equal(mask["temperature"], jnp.array(True))
    floorless = jp.Unstructured(0.9, min_nonzero=0)
    chex.assert_trees_all_equal(jp.make_mask(params["temperature"], floorless), jnp.array(True))


def test_numpy_leaves_are_pruned_as_jax_ones():
    params = {"kernel": np.asarray(FIRST), "half": {"kernel": np.asarray(SECOND, np.float16)}}
    pruned, mask = jp.prune(params, jp.NM(2, 4))
    on_device = jax.tree.map(jnp.asarray, params)
    chex.assert_trees_all_equal((pruned, mask), jp.prune(on_device, jp.NM(2, 4)))
    chex.assert_trees_all_equal_dtypes(pruned, params)
    assert np.count_nonzero(params["kernel"]) == 32  # and the caller's array is as it was


@pytest.mark.parametrize("scope", ["leaf", "global"])
def test_an_array_that_stands_twice_is_two_leaves(scope):
    high, spec = 100 + FIRST, jp.Unstructured(0.3, per=scope)
    tied = {"a": {"kernel": FIRST}, "b": {"kernel": FIRST}, "c": {"kernel": high}}
    copied = jax.tree.map(jnp.array, tied)
    expected = jp.prune(copied, spec)
    chex.assert_trees_all_equal(jp.prune(tied, spec), expected)
    chex.assert_trees_all_equal(jax.jit(lambda p: jp.prune(p, spec))(tied), expected)
    assert jp.report(tied).all == jp.report(copied).all
    assert jp.plan(tied, spec) == jp.plan(copied, spec)
    assert jp.allocate(tied, 0.3) == jp.allocate(copied, 0.3)


# --- where-rules --------------------------------------------------------------------------------

NET = {
    "encoder": {
        "layer_0": {"query": {"kernel": FIRST, "bias": BIAS}, "out": {"kernel": SECOND}},
        "layer_10": {"query": {"kernel": FIRST, "bias": BIAS}, "out": {"kernel": SECOND}},
    },
    "head": {"kernel": FIRST},
}
KERNELS = {
    "encoder/layer_0/query/kernel",
    "encoder/layer_0/out/kernel",
    "encoder/layer_10/query/kernel",
    "encoder/layer_10/out/kernel",
    "head/kernel",
}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (jp.is_weight, KERNELS),
        (
            lambda path, leaf: leaf.ndim == 2 and "query" in path,
            {p for p in KERNELS if "query" in p},
        ),
        ("head/kernel", {"head/kernel"}),
        ("head", {"head/kernel"}),
        ("encoder/*/kernel", KERNELS - {"head/kernel"}),
        ("*kernel", KERNELS),
        ("encoder/layer_?/out", {"encoder/layer_0/out/kernel"}),
        ("encoder/layer_[01]*/out/kernel", {p for p in KERNELS if "out" in p}),
        ("*/layer_0", {p for p in KERNELS if "layer_0/" in p} | {"encoder/layer_0/query/bias"}),
        (re.compile(r".*/layer_\d/.*kernel"), {p for p in KERNELS if "layer_0/" in p}),
        (re.compile("head"), {"head/kernel"}),
        (["head", "*/out/kernel"], {"head/kernel"} | {p for p in KERNELS if "out" in p}),
        (("head", re.compile(".*_10/out.*")), {"head/kernel", "encoder/layer_10/out/kernel"}),
        ("head*", {"head/kernel"}),
    ],
    ids=lambda value: "" if isinstance(value, set) else getattr(value, "__name__", str(value)),
)
def test_where(where, expected):
    assert pruned_paths(NET, where=where) == expected
    assert {reason for reason in reasons(NET, where=where).values() if reason} <= {
        "left out by where=",
        "rank 1",
    }


def test_a_pattern_matches_whole_names_and_the_case():
    for pattern in (
        "hea",
        "ead/kernel",
        "HEAD",
        "kernel",
        "layer_0",
        re.compile("hea"),
        re.compile("HEAD"),
    ):
        with pytest.raises(jp.NoMatch):
            jp.plan(NET, 0.5, where=pattern)


def test_any_leaf_takes_biases_too():
    everything = KERNELS | {"encoder/layer_0/query/bias", "encoder/layer_10/query/bias"}
    assert pruned_paths(NET, where=jp.any_leaf) == everything


def test_a_path_with_the_signs_of_a_pattern_matches_itself():
    params = {"layers[0]": {"kernel": FIRST}, "layers[1]": {"kernel": SECOND}}
    assert pruned_paths(params, where="layers[0]/kernel") == {"layers[0]/kernel"}
    assert pruned_paths(params, where="layers[1]") == {"layers[1]/kernel"}


def test_where_is_given_the_path_and_the_leaf_itself():
    seen = {}

    def where(path, leaf):
        seen[path] = leaf
        return path == "head/kernel"

    assert pruned_paths(NET, where=where) == {"head/kernel"}
    assert seen["head/kernel"] is FIRST
    assert seen["encoder/layer_0/out/kernel"] is SECOND


# --- is_weight over whole models ----------------------------------------------------------------


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(y, y)
        boxed = nn.with_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
        y = nn.Dense(16, kernel_init=boxed, name="up")(nn.RMSNorm(name="ffn_norm")(x))
        return x + nn.Dense(8, name="down")(y), None


class LinenViT(nn.Module):
    """A vision transformer whose blocks `nn.scan` stacks, with boxes around some kernels."""

    @nn.compact
    def __call__(self, image):
        x = nn.Conv(8, (4, 4), (4, 4), name="patch_embedding")(image)
        x = nn.GroupNorm(2)(nn.BatchNorm(use_running_average=True)(x))
        x = x.reshape(x.shape[0], -1, 8)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, 8))
        x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, 8)), x], 1)
        x = x + self.param("pos_embedding", nn.initializers.normal(), (1, x.shape[1], 8))
        x = x + nn.Embed(5, 8, name="segment")(jnp.zeros(x.shape[1], int))
        stack = nn.scan(
            LinenBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = stack(name="blocks")(x, None)
        partitioned = nn.with_partitioning(nn.initializers.lecun_normal(), ("embed", "vocab"))
        return nn.Dense(10, kernel_init=partitioned, name="head")(nn.LayerNorm(name="norm")(x))


def test_is_weight_takes_the_kernels_of_a_linen_vit():
    image = jnp.ones((1, 8, 8, 3))
    variables = jax.eval_shape(LinenViT().init, jax.random.key(0), image)
    attention = {f"blocks/attention/{name}/kernel" for name in ("query", "key", "value", "out")}
    mlp = {"blocks/up/kernel", "blocks/down/kernel"}
    expected = {"patch_embedding/kernel", "head/kernel"} | attention | mlp
    assert pruned_paths(variables["params"]) == expected
    why = reasons(variables["params"])
    assert why["blocks/attention/query/bias"] == "bias by name"  # (3, 2, 4): stacked, and by heads
    assert why["blocks/LayerNorm_0/scale"] == "norm scale or statistic by name"
    assert why["segment/embedding"] == why["cls"] == why["pos_embedding"] == "embedding by name"
    # And the collections together: the statistics of a batch norm are no weights.
    both = {f"params/{path}" for path in expected}
    assert pruned_paths(variables) == both


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)


class NnxTransformer(nnx.Module):
    """One block by itself, and a stack of three that `nnx.vmap` made."""

    def __init__(self, rngs):
        self.token_embedding = nnx.Embed(11, 8, rngs=rngs)
        self.pos_embedding = nnx.Param(jnp.zeros((1, 5, 8)))
        self.cls_token = nnx.Param(jnp.zeros((1, 1, 8)))
        self.bn = nnx.BatchNorm(8, rngs=rngs)
        self.first = NnxBlock(rngs)
        self.stack = nnx.split_rngs(splits=3)(nnx.vmap(NnxBlock))(rngs)
        self.head = nnx.Linear(8, 11, rngs=rngs)


def test_is_weight_takes_the_kernels_of_an_nnx_transformer():
    state = nnx.split(nnx.eval_shape(lambda: NnxTransformer(nnx.Rngs(0))))[1]
    layers = ("attention/query", "attention/key", "attention/value", "attention/out", "up", "down")
    expected = {f"{where}/{layer}/kernel" for where in ("first", "stack") for layer in layers}
    assert pruned_paths(state) == expected | {"head/kernel"}
    why = reasons(state)
    assert why["stack/attention/query/bias"] == why["stack/up/bias"] == "bias by name"
    assert why["stack/norm/scale"] == "norm scale or statistic by name"
    assert why["token_embedding/embedding"] == why["cls_token"] == "embedding by name"
    assert why["bn/mean"] == "rank 1"
    assert sum(reason.startswith("dtype key<fry>") for reason in why.values()) >= 1


class EquinoxBlock(eqx.Module):
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    cell: eqx.nn.GRUCell

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.norm = eqx.nn.LayerNorm(8)
        self.attention = eqx.nn.MultiheadAttention(2, 8, use_query_bias=True, key=keys[0])
        self.mlp = eqx.nn.MLP(8, 8, 16, 1, key=keys[1])
        self.cell = eqx.nn.GRUCell(8, 8, key=keys[2])


class EquinoxViT(eqx.Module):
    patches: eqx.nn.Conv2d
    pos_embedding: jax.Array
    cls_token: jax.Array
    embedding: eqx.nn.Embedding
    first: EquinoxBlock
    stack: EquinoxBlock
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.patches = eqx.nn.Conv2d(3, 8, 4, 4, key=keys[0])
        self.pos_embedding, self.cls_token = jnp.zeros((5, 8)), jnp.zeros((1, 8))
        self.embedding = eqx.nn.Embedding(11, 8, key=keys[1])
        self.first = EquinoxBlock(keys[2])
        self.stack = eqx.filter_vmap(EquinoxBlock)(jax.random.split(keys[3], 3))
        self.norm = eqx.nn.LayerNorm((4, 8))
        self.head = eqx.nn.Linear(8, 10, key=keys[4])


def test_is_weight_takes_the_matrices_of_an_equinox_vit():
    model = eqx.filter_eval_shape(EquinoxViT, jax.random.key(0))
    layers = [f"attention/{name}_proj/weight" for name in ("query", "key", "value", "output")]
    layers += ["mlp/layers/0/weight", "mlp/layers/1/weight", "cell/weight_ih", "cell/weight_hh"]
    expected = {f"{where}/{layer}" for where in ("first", "stack") for layer in layers}
    assert pruned_paths(model) == expected | {"patches/weight", "head/weight"}
    why = reasons(model)
    assert why["stack/norm/weight"] == why["norm/weight"] == "norm scale or statistic by name"
    assert (
        why["stack/attention/query_proj/bias"] == why["stack/mlp/layers/0/bias"] == "bias by name"
    )
    assert why["stack/cell/bias"] == why["patches/bias"] == why["norm/bias"] == "bias by name"
    assert why["embedding/weight"] == why["cls_token"] == "embedding by name"
    assert why["first/mlp/activation"] == "not an array"


# --- there and back -----------------------------------------------------------------------------


def test_a_pruned_nnx_model_runs():
    model = Nnx()
    graph, state = nnx.split(model)
    merged = nnx.merge(graph, jp.prune(state, jp.NM(2, 4))[0])
    expected = jp.prune(FIRST, jp.NM(2, 4))[0]
    chex.assert_trees_all_equal(merged.first.kernel[...], expected)
    chex.assert_trees_all_equal(merged.first.bias[...], BIAS)


def test_a_pruned_equinox_model_runs():
    layer = eqx.nn.MLP(8, 8, 8, 1, key=jax.random.key(0))
    pruned, _ = jp.prune(layer, jp.NM(2, 4))
    by_hand = eqx.tree_at(
        lambda mlp: [linear.weight for linear in mlp.layers],
        layer,
        [jp.prune(linear.weight, jp.NM(2, 4))[0] for linear in layer.layers],
    )
    chex.assert_trees_all_equal(pruned(BIAS), by_hand(BIAS))


def test_a_pruned_linen_model_runs_and_its_boxes_unbox():
    model = nn.Dense(
        8, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
    )
    params = model.init(jax.random.key(0), BIAS)["params"]
    pruned, _ = jp.prune(params, jp.NM(2, 4))
    kernel = jp.prune(params["kernel"].value, jp.NM(2, 4))[0]
    chex.assert_trees_all_equal(meta.unbox(pruned)["kernel"], kernel)
    chex.assert_trees_all_close(model.apply({"params": pruned}, BIAS), BIAS @ kernel, rtol=1e-5)


def test_partition_specs_of_a_pruned_tree_are_those_of_the_tree():
    params = plain(nn.Partitioned)
    pruned, mask = jp.prune(params, jp.NM(2, 4))
    assert nn.get_partition_spec(pruned) == nn.get_partition_spec(params)
    assert nn.get_partition_spec(mask)["first"]["kernel"] == jax.sharding.PartitionSpec("in", "out")


def test_a_tree_of_shapes_reads_as_the_tree_of_its_arrays():
    shapes = jax.eval_shape(LinenViT().init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))["params"]
    assert jp.plan(shapes, jp.NM(2, 4, axis=-1), where="blocks/up/kernel") == jp.plan(
        ones(shapes), jp.NM(2, 4, axis=-1), where="blocks/up/kernel"
    )
