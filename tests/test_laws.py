"""The laws: a table of metrics, one of specs, one of trees, and every law over their product."""

import functools
import itertools

import chex
import equinox as eqx
import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import jaxprune as jp
from tests import oracle

# --- trees as people have them ------------------------------------------------------------------
#
# All weights are whole numbers: their sums are exact in whatever order a compiler adds them, and
# many tie. Most trees hold an (8, 16) and a (16, 8) matrix.


class LinenModel(nn.Module):
    boxed: bool = False

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal()
        if self.boxed:
            init = nn.with_partitioning(init, ("in", "out"))
        x = nn.Dense(16, kernel_init=init, name="first")(x)
        return nn.Dense(8, kernel_init=init, name="second")(nn.LayerNorm(name="norm")(x))


class ScannedLayer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(8, name="dense")(x), None


class ScannedModel(nn.Module):
    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            ScannedLayer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return scan(name="layers")(x, None)[0]


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(8, 16, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)  # brings a key and a counter into the state
        self.second = nnx.Linear(16, 8, rngs=rngs)


def linen_params(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8)))["params"]


def weights(shape, seed):
    return jax.device_put(np.random.default_rng(seed).integers(-7, 9, shape).astype(np.float32))


def is_float(leaf):
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def filled(tree, start=0):
    """The tree with whole numbers in place of its floats, whether described or real."""
    seeds = itertools.count(start)
    return jax.tree.map(
        lambda leaf: weights(leaf.shape, next(seeds)) if is_float(leaf) else leaf, tree
    )


def nested_dict():
    return linen_params(LinenModel())


TREES = {
    "dict": nested_dict,
    "FrozenDict": lambda: flax.core.freeze(linen_params(LinenModel())),
    "nnx.State": lambda: nnx.split(NnxModel(nnx.Rngs(0)))[1],
    "Equinox": lambda: eqx.filter_eval_shape(
        lambda key: eqx.nn.MLP(16, 16, 8, 1, key=key), jax.random.key(0)
    ),
    "nn.Partitioned": lambda: linen_params(LinenModel(boxed=True)),
    "nn.scan": lambda: linen_params(ScannedModel()),
    "tuple and list": lambda: (
        jnp.ones((8, 16)),
        [jnp.ones((16, 8)), jnp.ones(8), 3],
        jnp.array([True]),
    ),
    "bare array": lambda: jnp.ones((8, 16)),
}
PRUNED_LEAVES = {"nn.scan": 1, "bare array": 1}  # the others: 2


@functools.cache
def tree(kind):
    return filled(TREES[kind]())


def is_hole(node):
    return node is None


def pairs(tree, mask):
    """The leaves of `tree` that have a mask, and their masks."""
    leaves, masks = (jax.tree.leaves(t, is_leaf=is_hole) for t in (tree, mask))
    return [(leaf, m) for leaf, m in zip(leaves, masks, strict=True) if m is not None]


# --- specs and metrics --------------------------------------------------------------------------

SPECS = {
    "leaf": jp.Unstructured,
    "leaf with a floor": functools.partial(jp.Unstructured, min_nonzero=60),
    "global": functools.partial(jp.Unstructured, per="global"),
    "global with a floor": functools.partial(jp.Unstructured, per="global", min_nonzero=2),
    "per input": functools.partial(jp.Unstructured, per=-2),
    "per output": functools.partial(jp.Unstructured, per=-1),
    "rows": jp.Rows,
    "columns": jp.Columns,
    "channels": functools.partial(jp.Channels, axis=-2, reduce="l2"),
    "blocks": functools.partial(jp.Block, shape=(2, 4)),
    "2:4": lambda sparsity: jp.NM(2, 4),
    "1:4 input": lambda sparsity: jp.NM(1, 4, axis=-2),
    "3:8 flat": lambda sparsity: jp.NM(3, 8, axis=None),
}
METRICS = {
    "L1": lambda params: jp.L1(),
    "L2": lambda params: jp.L2(),
    "TaylorProxy": lambda params: jp.TaylorProxy(),
    "Random": lambda params: jp.Random(jax.random.key(5)),
    "LCG": lambda params: jp.LCG(42),
    "Taylor": lambda params: jp.Taylor(filled(params, 50)),
    "Movement": lambda params: jp.Movement(filled(params, 50)),
    "function": lambda params: lambda w: 10 - jnp.abs(w),
}
SPARSITIES = [0.0, 0.25, 0.59375, 0.96875]  # exact in float32


def mask_of(params, metric, spec):
    return jp.make_mask(jp.importance(params, metric), spec)


def of_arrays(function, params):
    """`function` of the arrays in `params` alone (jit takes nothing else), and these arrays."""
    arrays, others = eqx.partition(params, eqx.is_array)
    return (lambda arrays, *args: function(eqx.combine(arrays, others), *args)), arrays


def product(*tables):
    """All combinations of names, less those of rows and columns with a stack of matrices."""
    every = itertools.product(*tables)
    return [
        names for names in every if "nn.scan" not in names or not {"rows", "columns"} & {*names}
    ]


def assert_same(found, expected):
    """Equal structures, holes, dtypes and values."""
    chex.assert_trees_all_equal_structs(found, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    chex.assert_trees_all_equal(found, expected)


# --- exact --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "spec", "kind"), product(METRICS, SPECS, TREES))
def test_exactly_the_lowest_go(metric, spec, kind):
    scores = jp.importance(tree(kind), METRICS[metric](tree(kind)))
    for sparsity in SPARSITIES:
        rule = SPECS[spec](sparsity)
        found = pairs(scores, jp.make_mask(scores, rule))
        assert len(found) == PRUNED_LEAVES.get(kind, 2)
        expected = oracle.masks(rule, [np.asarray(s) for s, _ in found])
        for (_, mask), right in zip(found, expected, strict=True):
            assert mask.dtype == bool
            assert np.count_nonzero(mask) == np.count_nonzero(right)
            np.testing.assert_array_equal(mask, right)


@pytest.mark.parametrize("spec", ["rows", "columns"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_rows_and_columns_of_a_stack_are_refused(spec, transform):
    words = r"`layers/dense/kernel` has shape \(3, 8, 8\).*needs 2 dimensions: use Channels"
    function = transform(lambda params: mask_of(params, jp.L1(), SPECS[spec](0.5)))
    with pytest.raises(jp.NotTwoDimensional, match=words):
        function(tree("nn.scan"))


# --- structure and dtype ------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "kind"), product(METRICS, TREES))
def test_scores_have_the_tree_the_shapes_and_the_holes_of_their_weights(metric, kind):
    params = tree(kind)
    scores = jp.importance(params, METRICS[metric](params))
    outline = functools.partial(jax.tree.structure, is_leaf=is_hole)
    assert outline(scores) == outline(params)
    scored = pairs(params, scores)
    assert len(scored) == sum(is_float(leaf) for leaf in jax.tree.leaves(params))
    for weight, score in scored:
        assert score.shape == weight.shape
        assert score.dtype == jnp.float32


@pytest.mark.parametrize(
    ("spec", "kind", "dtype"),
    [*product(SPECS, TREES, ["float32"]), *product(SPECS, ["dict"], ["bfloat16"])],
)
def test_pruning_keeps_structure_dtype_and_whatever_is_no_weight(spec, kind, dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype) if is_float(leaf) else leaf, tree(kind))
    pruned, mask = jp.prune(params, SPECS[spec](0.59375))
    chex.assert_trees_all_equal_structs(pruned, params)
    before, after, masks = (jax.tree.leaves(t, is_leaf=is_hole) for t in (params, pruned, mask))
    for old, new, kept in zip(before, after, masks, strict=True):
        if kept is None:
            assert new is old
        else:
            assert new.dtype == old.dtype
            np.testing.assert_array_equal(new, np.where(kept, old, np.zeros((), old.dtype)))


# For these it need not hold: they may score a pruned weight as high as others, or higher.
IDEMPOTENT = [name for name in METRICS if name not in ("function", "Taylor", "Movement")]


@pytest.mark.parametrize(
    ("metric", "spec", "kind"),
    [
        *product(IDEMPOTENT, SPECS, ["dict"]),
        *product(["L1"], SPECS, [k for k in TREES if k != "dict"]),
    ],
)
def test_pruning_the_pruned_again_removes_nothing_new(metric, spec, kind):
    how = METRICS[metric](tree(kind))
    once, _ = jp.prune(tree(kind), SPECS[spec](0.59375), metric=how)
    twice, _ = jp.prune(once, SPECS[spec](0.59375), metric=how)
    assert_same(eqx.filter(twice, is_float), eqx.filter(once, is_float))


# --- pure: the same bits eagerly, under jit, in scan and under vmap -----------------------------


# Under a transformation, how leaves are found and how they are pruned do not meet any more: every
# tree with a few specs and every spec with a few trees is enough. All specs of a tree are in one
# program, which compiles faster than one for each.
SOME = ["leaf", "global", "per output", "rows", "blocks", "2:4"]
OTHERS = [name for name in SPECS if name not in SOME]


def of_specs(names, kind, sparsity, params):
    """The mask of each of the named specs that takes the tree."""
    takes = [spec for spec, _ in product(names, [kind])]
    return {spec: mask_of(params, jp.L1(), SPECS[spec](sparsity)) for spec in takes}


def stacked(trees):
    return jax.tree.map(lambda *each: np.stack(each), *trees)


def check_each_alone(found, names, kind):
    """The eager masks at all `SPARSITIES`."""
    for spec, expected in stacked(
        [of_specs(names, kind, s, tree(kind)) for s in SPARSITIES]
    ).items():
        assert_same(jax.tree.map(np.asarray, found[spec]), expected)


@pytest.mark.parametrize(("names", "kind"), [*((SOME, kind) for kind in TREES), (OTHERS, "dict")])
def test_a_jitted_scan_over_sparsities_gives_the_eager_bits(names, kind):
    def masks(params, sparsities):
        def step(carry, sparsity):
            return carry, of_specs(names, kind, sparsity, params)

        return lax.scan(step, None, sparsities)[1]

    function, arrays = of_arrays(masks, tree(kind))
    found = jax.jit(function)(arrays, np.float32(SPARSITIES))
    check_each_alone(found, names, kind)


@pytest.mark.parametrize(("names", "kind"), [(SPECS, "dict"), (SOME, "nn.scan")])
def test_vmap_over_sparsities_gives_the_eager_bits(names, kind):
    def masks(params, sparsity):
        return of_specs(names, kind, sparsity, params)

    found = jax.jit(jax.vmap(masks, (None, 0)))(tree(kind), np.float32(SPARSITIES))
    check_each_alone(found, names, kind)


def test_vmap_over_scores_gives_the_eager_bits():
    rules = {spec: SPECS[spec](0.59375) for spec in [*SOME, "per input", "3:8 flat"]}

    def masks(scores):
        return {spec: jp.make_mask(scores, rule) for spec, rule in rules.items()}

    batch = [filled(nested_dict(), start) for start in (0, 100, 200)]
    found = jax.jit(jax.vmap(masks))(stacked(batch))
    for spec, expected in stacked([masks(scores) for scores in batch]).items():
        assert_same(jax.tree.map(np.asarray, found[spec]), expected)


def test_vmap_over_keys_gives_the_eager_bits():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"first": jnp.ones((8, 16)), "second": jnp.ones((16, 8))}

    def scores_and_mask(key):
        scores = jp.importance(params, jp.Random(key))
        return scores, jp.make_mask(scores, 0.5)

    found = jax.jit(jax.vmap(scores_and_mask))(keys)
    each = [scores_and_mask(key) for key in keys]
    assert_same(found, jax.tree.map(lambda *each: jnp.stack(each), *each))


def test_sparsity_may_be_an_array_of_any_float_type():
    expected = jp.make_mask(tree("bare array"), jp.Unstructured(0.25))
    for sparsity in (np.float32(0.25), np.float64(0.25), jnp.bfloat16(0.25), jnp.array(0.25)):
        assert_same(jp.make_mask(tree("bare array"), jp.Unstructured(sparsity)), expected)
        assert_same(jax.jit(jp.make_mask)(tree("bare array"), jp.Unstructured(sparsity)), expected)


# --- sparsity is data ---------------------------------------------------------------------------

SCHEDULE = np.linspace(0, 0.98, 100, dtype=np.float32)
BUDGETED = [name for name in SPECS if ":" not in name]

_compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: _compiled.append(event) if "backend_compile" in event else None
)


def test_a_hundred_sparsities_cost_one_trace():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def masks(params, specs):
        return {name: mask_of(params, jp.L1(), spec) for name, spec in specs.items()}

    sizes = {name: set() for name in BUDGETED}
    for sparsity in SCHEDULE:
        specs = {name: SPECS[name](sparsity) for name in BUDGETED}
        for name, mask in masks(tree("dict"), specs).items():
            sizes[name].add(sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(mask)))
    assert all(len(each) > 3 for each in sizes.values())


@pytest.mark.parametrize("spec", BUDGETED)
def test_a_hundred_eager_sparsities_compile_nothing_after_the_first(spec):
    jax.jit(lambda x: x + len(_compiled))(1.0)
    assert _compiled  # or the test would see nothing
    mask_of(tree("dict"), jp.L1(), SPECS[spec](0.5))
    before = len(_compiled)
    for sparsity in SCHEDULE:
        mask_of(tree("dict"), jp.L1(), SPECS[spec](float(sparsity)))
    assert len(_compiled) == before


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_is_a_pytree_whose_only_data_is_how_much_goes(spec):
    rule = SPECS[spec](0.5)
    if spec not in BUDGETED:  # of N:M, how many stay is data
        assert jax.tree.leaves(rule) == [rule.n]
        return
    assert jax.tree.leaves(rule) == [0.5]
    assert jax.tree.map(lambda s: s / 2, rule) == SPECS[spec](0.25)


def test_masks_of_trees_beyond_32_bits_are_traced_without_a_weight_in_memory():
    params = {name: jax.ShapeDtypeStruct((40_000, 50_000), jnp.bfloat16) for name in "abc"}
    for spec in ("leaf", "global", "per output", "rows", "2:4"):
        mask = jax.eval_shape(lambda p, spec=spec: mask_of(p, jp.L1(), SPECS[spec](0.5)), params)
        assert {name: (m.shape, m.dtype) for name, m in mask.items()} == {
            name: ((40_000, 50_000), np.dtype(bool)) for name in "abc"
        }


# --- in place, and in other widths --------------------------------------------------------------


@pytest.mark.parametrize("kind", TREES)
def test_apply_mask_gives_up_the_buffers_it_is_donated(kind):
    _, mask = jp.prune(tree(kind), 0.5)
    expected = eqx.filter(jp.apply_mask(tree(kind), mask), is_float)
    params = jax.tree.map(lambda leaf: leaf.copy(), eqx.filter(tree(kind), is_float))
    found = jax.jit(jp.apply_mask, donate_argnums=0)(params, mask)
    assert_same(found, expected)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("spec", SPECS)
def test_x64_changes_no_bit_of_float32_masks(spec, x64):
    expected = mask_of(tree("dict"), jp.L1(), SPECS[spec](0.59375))
    with x64(True):
        found = mask_of(tree("dict"), jp.L1(), SPECS[spec](0.59375))
        chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize(
    ("metric", "spec"), [*product(["L1"], SPECS), *product(["L2"], ["leaf", "2:4"])]
)
def test_float64_weights_lose_exactly_the_lowest(metric, spec, x64):
    rule = SPECS[spec](0.59375)
    with x64(True):
        # 1 + i * 2**-40: in float32 they would all be equal.
        params = {
            "a": {"kernel": 1 + weights((8, 16), 0).astype(jnp.float64) * 2.0**-40},
            "b": {"kernel": 1 + weights((16, 8), 1).astype(jnp.float64) * 2.0**-40},
        }
        scores = jp.importance(params, METRICS[metric](params))
        found = [np.asarray(m) for m in jax.tree.leaves(jp.make_mask(scores, rule))]
        arrays = [np.asarray(s) for s in jax.tree.leaves(scores)]
    assert all(array.dtype == np.float64 for array in arrays)
    for mask, expected in zip(found, oracle.masks(rule, arrays), strict=True):
        np.testing.assert_array_equal(mask, expected)


# --- what is static is checked under jit too ----------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        (jp.NM(2, 3), jp.InvalidPattern, "`first/kernel` has 16 entries .* not divisible by m=3"),
        (jp.Unstructured(0.5, min_nonzero=129), jp.BelowMinNonzero, "min_nonzero=129 weights of"),
        (jp.Unstructured(0.5, per=2), jp.InvalidPattern, "no axis 2"),
        (jp.Block(0.5, (3, 3)), jp.InvalidPattern, "not divisible into blocks of 3x3"),
        ({"third": jp.Rows(0.5)}, jp.NoMatch, "'third' matches no leaf"),
    ],
    ids=["NM", "floor", "axis", "block", "pattern"],
)
@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.eval_shape], ids=lambda f: f.__name__)
def test_what_cannot_be_is_refused_while_tracing(spec, error, words, transform):
    def function(params):
        return mask_of(params, jp.L1(), spec)

    params = tree("dict")
    if transform is jax.vmap:
        params = jax.tree.map(lambda leaf: leaf[None], params)
    if transform is not jax.eval_shape:
        function, transform = transform(function), lambda function, params: function(params)
    with pytest.raises(error, match=words):
        transform(function, params)
