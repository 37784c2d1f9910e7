"""Plans: a dry run says to the weight what masks then do, by which rule, and why the rest stays."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxprune as jp

rng = np.random.default_rng(0)
# The shapes hold every spec below: divisible by 4 along the last two axes.
SHAPES = {"a/kernel": (8, 12), "b/kernel": (4, 8), "c/kernel": (2, 8, 12)}


def tree_of(shapes):
    """A nested dict of the leaves at these paths."""
    tree = {}
    for path, shape in shapes.items():
        *above, name = path.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[name] = jax.device_put(np.float32(rng.normal(size=shape)))
    return tree


PARAMS = tree_of(SHAPES)
MATRICES = tree_of({path: shape for path, shape in SHAPES.items() if len(shape) == 2})
REDUCES = ("sum", "mean", "l2", "max")


def pruned_by(mask):
    return [int((~kept).sum()) for kept in jax.tree.leaves(mask)]


def planned(rows):
    return [row.prunes for row in rows if row.spec is not None]


def agree(tree, spec, **where):
    """The plan's counts are the masks' counts."""
    rows = jp.plan(tree, spec, **where).rows
    mask = jp.make_mask(jp.importance(tree, jp.L1()), spec, **where)
    assert planned(rows) == pruned_by(mask)
    return rows


# --- counts to the weight -----------------------------------------------------------------------

sparsities = st.floats(0, 1, width=32, exclude_max=True) | st.sampled_from([0.1, 0.3, 0.5, 0.9])
floors = st.integers(0, 9)


@settings(max_examples=40)
@given(sparsity=sparsities, per=st.sampled_from(["leaf", 0, 1, -1]), floor=floors)
def test_unstructured(sparsity, per, floor):
    agree(PARAMS, jp.Unstructured(sparsity, per=per, min_nonzero=min(floor, 4)))


@pytest.mark.parametrize("reduce", REDUCES)
@settings(max_examples=10)
@given(sparsity=sparsities, floor=floors)
def test_rows_and_columns(reduce, sparsity, floor):
    agree(MATRICES, jp.Rows(sparsity, reduce=reduce, min_nonzero=floor))
    agree(MATRICES, jp.Columns(sparsity, reduce=reduce, min_nonzero=floor))


@settings(max_examples=30)
@given(sparsity=sparsities, axis=st.sampled_from([0, 1, -1]), floor=floors)
def test_channels(sparsity, axis, floor):
    agree(PARAMS, jp.Channels(sparsity, axis=axis, min_nonzero=floor))


@settings(max_examples=30)
@given(sparsity=sparsities, shape=st.sampled_from([(1, 1), (4, 4), (2, 4), (4, 1)]), floor=floors)
def test_blocks(sparsity, shape, floor):
    agree(PARAMS, jp.Block(sparsity, shape, min_nonzero=floor))


@pytest.mark.parametrize("axis", [-1, -2, None], ids=str)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 4), (3, 4), (4, 4)])
def test_n_of_m(n, m, axis):
    agree(PARAMS, jp.NM(n, m, axis=axis))


@pytest.mark.parametrize("floor", [0, 1, 96])
def test_the_floor_is_in_the_count(floor):
    (row,) = agree(PARAMS["a"]["kernel"], jp.Unstructured(0.999, min_nonzero=floor))
    assert row.prunes == min(95, 96 - floor)


def test_a_sparsity_may_be_an_array():
    for sparsity in (np.float32(0.5), np.array(0.5), jnp.array(0.5)):
        assert planned(jp.plan(PARAMS, jp.Unstructured(sparsity)).rows) == [48, 16, 96]


def test_mixed_rules():
    rules = {
        "a": jp.NM(2, 4, axis=-2),
        re.compile(r"b/.*"): jp.Rows(0.5),
        "*": jp.Unstructured(0.3, per=-1),
    }
    rows = agree(PARAMS, rules)
    assert [row.rule for row in rows] == ["a", "b/.*", "*"]
    assert [row.spec for row in rows] == list(rules.values())


def test_a_tree_of_sparsities():
    rows = agree(PARAMS, {"a": 0.5, "b": {"kernel": 0.25}, "c": None})
    assert [row.rule for row in rows] == ["a", "b/kernel", ""]
    assert [row.prunes for row in rows] == [48, 8, 0]
    assert "leaves it dense" in rows[2].reason


def test_a_large_leaf_is_counted_as_float32_does():
    for size in (2**24 + 1, 3 * 2**24 + 5):
        leaf = jax.ShapeDtypeStruct((size,), jnp.float32)
        (row,) = jp.plan(leaf, 0.3).rows
        assert row.weights == size
        assert row.prunes == int(np.floor(np.float32(0.3) * np.float32(size)))


# --- what is not known leaf by leaf -------------------------------------------------------------


def test_a_global_budget_is_shared():
    rows = jp.plan(PARAMS, jp.Unstructured(0.5, per="global")).rows
    assert [row.prunes for row in rows] == [None] * 3


def test_a_traced_sparsity_is_not_known():
    seen = []

    def mask(sparsity):
        seen.extend(jp.plan(PARAMS, jp.Unstructured(sparsity)).rows)
        seen.extend(jp.plan(PARAMS, jp.NM(2, 4)).rows)
        return sparsity

    jax.eval_shape(mask, 0.5)
    assert [row.prunes for row in seen] == [None] * 3 + [48, 16, 96]


# --- shapes do as well as arrays ----------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [0.5, jp.NM(2, 4), jp.Channels(0.5), jp.Block(0.5, (4, 4)), {"a": jp.Rows(0.5), "*": 0.1}],
    ids=str,
)
def test_a_tree_of_shapes_has_the_same_plan(spec):
    shapes = jax.eval_shape(lambda: PARAMS)
    assert jp.plan(shapes, spec) == jp.plan(PARAMS, spec)
    assert str(jp.plan(shapes, spec)) == str(jp.plan(PARAMS, spec))


def test_a_plan_computes_nothing():
    huge = {"kernel": jax.ShapeDtypeStruct((2**20, 2**10), jnp.float32)}  # 4 GiB
    (row,) = jp.plan(huge, jp.NM(2, 4, axis=-2)).rows
    assert row.prunes == row.weights // 2 == 2**29


# --- a row's fields -----------------------------------------------------------------------------

MIXED = {
    "dense": {"kernel": jnp.ones((8, 12)), "bias": jnp.ones(12)},
    "half": {"kernel": jnp.ones((4, 8), jnp.bfloat16)},
    "hole": None,
    "key": jax.random.key(0),
    "name": "net",
    "norm": {"scale": jnp.ones((3, 4))},
    "step": jnp.int32(3),
    "wte": {"embedding": jnp.ones((16, 4))},
}


def test_every_leaf_has_a_row_in_the_tree_s_order():
    rows = jp.plan(MIXED, {"half": None, "*": jp.NM(2, 4)}).rows
    found = [(r.path, r.shape, r.dtype, r.weights, r.prunes, r.reason) for r in rows]
    assert found == [
        ("dense/bias", (12,), "float32", 12, 0, "rank 1"),
        ("dense/kernel", (8, 12), "float32", 96, 48, ""),
        ("half/kernel", (4, 8), "bfloat16", 32, 0, "rule 'half' leaves it dense"),
        ("hole", None, "NoneType", 0, 0, "empty place"),
        ("key", (), "key<fry>", 1, 0, "dtype key<fry>"),
        ("name", None, "str", 0, 0, "not an array"),
        ("norm/scale", (3, 4), "float32", 12, 0, "norm scale or statistic by name"),
        ("step", (), "int32", 1, 0, "dtype int32"),
        ("wte/embedding", (16, 4), "float32", 64, 0, "embedding by name"),
    ]
    assert [row.rule for row in rows] == ["", "*"] + [""] * 7
    assert [row.spec for row in rows] == [None, jp.NM(2, 4)] + [None] * 7


def test_a_row_is_either_pruned_or_has_a_reason():
    for spec in (0.5, {"dense": jp.Rows(0.5)}, {"dense": 0.5, "wte": None}):
        for row in jp.plan(MIXED, spec).rows:
            assert (row.spec is None) == bool(row.reason)
            assert row.prunes == 0 or row.spec is not None


def test_reasons_name_what_the_user_wrote():
    def reason(path, spec, **where):
        return {row.path: row.reason for row in jp.plan(MIXED, spec, **where).rows}[path]

    assert reason("half/kernel", {"dense": 0.5}) == "no rule names it"
    assert reason("half/kernel", 0.5, where="dense") == "left out by where="
    assert reason("half/kernel", 0.5, where=lambda path, leaf: leaf.ndim > 2 or "d" in path) == (
        "left out by where="
    )


def test_a_lone_sparsity_is_shown_as_the_spec_that_it_is():
    assert jp.plan(PARAMS, 0.5).rows[0].spec == jp.Unstructured(0.5)
    assert jp.plan(PARAMS, {"*": 0.5}).rows[0].spec == jp.Unstructured(0.5)


def test_plans_are_values():
    plan = jp.plan(PARAMS, 0.5)
    assert plan == jp.plan(PARAMS, 0.5)
    assert plan != jp.plan(PARAMS, 0.6)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.rows = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.rows[0].path = "other"


# --- the table ----------------------------------------------------------------------------------


def test_the_table():
    params = {
        "bias": jnp.ones(12),
        "big": {"kernel": jax.ShapeDtypeStruct((2048, 1024), jnp.bfloat16)},
        "hole": None,
        "kernel": jnp.ones((8, 12)),
    }
    table = str(jp.plan(params, {"big": jp.NM(2, 4, axis=-2), "*": jp.Rows(0.5)}))
    lines = table.splitlines()
    assert re.split(r"  +", lines[0]) == ["leaf", "shape", "dtype", "weights", "prunes", "how"]
    assert set(lines[1]) == {"-"}
    cells = [re.split(r"  +", line.strip(), maxsplit=5) for line in lines[2:]]
    assert cells == [
        ["bias", "12", "float32", "12", "0", "dense: rank 1"],
        [
            "big/kernel",
            "2048x1024",
            "bfloat16",
            "2,097,152",
            "1,048,576",
            "NM(n=2, m=4, axis=-2)  (rule 'big')",
        ],
        ["hole", "-", "NoneType", "0", "0", "dense: empty place"],
        [
            "kernel",
            "8x12",
            "float32",
            "96",
            "48",
            "Rows(sparsity=0.5, reduce='sum', min_nonzero=1)  (rule '*')",
        ],
    ]
    assert all(line == line.rstrip() for line in lines)


def test_the_table_of_a_bare_array_and_of_a_shared_budget():
    assert "(array)" in str(jp.plan(jnp.ones((8, 12)), 0.5))
    table = str(jp.plan(PARAMS, jp.Unstructured(0.5, per="global")))
    assert table.count(" shared ") == 3


def test_the_table_shows_an_array_s_sparsity_as_a_number():
    table = str(jp.plan(PARAMS["a"]["kernel"], jp.Unstructured(jnp.array(0.5))))
    assert "0.5" in table
    assert len(table.splitlines()) == 3


# --- it raises what make_mask raises ------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        (1.5, jp.is_weight),
        (jp.NM(2, 4, axis=0), jp.is_weight),
        (jp.Rows(0.5), jp.is_weight),
        ({"d": 0.5}, jp.is_weight),
        (0.5, "d"),
        (jp.Unstructured(0.5, min_nonzero=97), jp.is_weight),
        (jp.L1, jp.is_weight),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_plan_raises_what_make_mask_raises(spec, where):
    with pytest.raises(jp.PruningError) as ours:
        jp.plan(PARAMS, spec, where=where)
    with pytest.raises(jp.PruningError) as theirs:
        jp.make_mask(PARAMS, spec, where=where)
    assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))
