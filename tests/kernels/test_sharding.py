"""Eight devices give the bits of one, leave every array where it was, and gather nothing."""

import functools
import re
from typing import NamedTuple

import chex
import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp
from jaxprune import compat
from tests import oracle

SPECS = {
    "leaf": jp.Unstructured(0.59375),
    "global": jp.Unstructured(0.59375, per="global", min_nonzero=20),
    "per input": jp.Unstructured(0.59375, per=-2),
    "per output": jp.Unstructured(0.59375, per=-1),
    "rows": jp.Rows(0.59375),
    "columns": jp.Columns(0.59375),
    "channels": jp.Channels(0.59375, reduce="l2"),
    "blocks": jp.Block(0.59375, (4, 2), reduce="max"),
    "2:4": jp.NM(2, 4),
    "2:4 input": jp.NM(2, 4, axis=-2),
    "2:4 flat": jp.NM(2, 4, axis=None),
}
BUDGETED = [name for name in SPECS if ":" not in name]
LAYOUTS = {"rows": P("x"), "columns": P(None, "x"), "both": P("x", "y")}

# 6 rows and 10 columns a device: no run of 16, and groups of 4 and blocks across two devices.
SMALL = (24, 40)
# Long enough for a sample that guides the search, and for runs.
LARGE = (128, 1024)

# What is compiled together. A block that lies across two devices of `SMALL` cannot be summed
# without an exchange, nor can a group of 4 be ranked; below, none of the first does.
ALONE = [name for name in BUDGETED if name != "blocks"]
TOGETHER = {SMALL: (ALONE, ["blocks", "2:4", "2:4 input", "2:4 flat"])}
REDUCED = ["leaf", "global", "per input", "columns"]
TOGETHER[LARGE] = (REDUCED, ["blocks"], ["2:4", "2:4 flat"])
OTHERS = ["leaf", "per output", "channels", "2:4 flat"]

every_mesh = pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
every_spec = pytest.mark.parametrize("spec", SPECS)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
# Kernels run under Auto axes whatever the mesh says: each layout by the stricter type, and one by
# both. Arrays of other ranks have three layouts more, by both.
every_placement = pytest.mark.parametrize(
    ("axis_type", "layout"), [("Auto", "both"), *(("Explicit", layout) for layout in LAYOUTS)]
)


@pytest.fixture(autouse=True)
def _mesh(request):
    """Every test runs under the mesh of its `axis_type`."""
    use_mesh = jax.set_mesh if hasattr(jax, "set_mesh") else jax.sharding.use_mesh
    with use_mesh(mesh(request.getfixturevalue("axis_type"))):
        yield


@functools.cache
def mesh(axis_type):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType[axis_type],) * 2)


def weights(shape, seed=0):
    """Whole numbers: many tie, and sums are exact whatever the order in which devices are added."""
    return np.random.default_rng(seed).integers(-90, 91, shape).astype(np.float32)


def spread(array, axis_type, layout):
    return jax.device_put(array, NamedSharding(mesh(axis_type), layout))


def score_and_mask(params, spec):
    return jp.make_mask(jp.importance(params, jp.L1()), spec, where=jp.any_leaf)


class Run(NamedTuple):
    """What a spec got and gave in a compiled call, leaf by leaf, and what the call was made of."""

    params: list[jax.Array]
    masks: list[jax.Array]
    instructions: list[tuple[str, str]]  # type and name


def run(axis_type, spec, layout, shape):
    """`importance` and `make_mask` of sharded parameters, jitted; other specs beside it."""
    every = TOGETHER.get(shape, [OTHERS])
    (names,) = [names for names in every if spec in names]
    return runs(axis_type, (*names,), layout, shape)[spec]


@functools.cache
def runs(axis_type, names, layout, shape):
    """By name what specs give in one jitted function: it compiles faster than one for each."""
    first = spread(weights(shape), axis_type, layout)
    both = {"first": first, "second": spread(weights((16, 10), 1), axis_type, P("y"))}
    params = {name: both if name == "global" else {"first": first} for name in names}

    @jax.jit
    def masks(params):
        return {name: score_and_mask(tree, SPECS[name]) for name, tree in params.items()}

    compiled = masks.lower(params).compile()
    found = re.findall(r"^ .*? = (\(.*?\)|\S+) ([\w-]+)\(", compiled.as_text(), re.MULTILINE)
    assert len(found) > 10  # or the pattern does not fit this compiler's text
    return {
        name: Run([*params[name].values()], [*given.values()], found)
        for name, given in compiled(params).items()
    }


def check_bits(result, spec):
    expected = oracle.masks(SPECS[spec], [np.abs(np.asarray(array)) for array in result.params])
    chex.assert_trees_all_equal([np.asarray(mask) for mask in result.masks], expected)


def check_placed(result):
    for array, mask in zip(result.params, result.masks, strict=True):
        assert_placed_like(mask, array)


def assert_placed_like(found, array):
    message = f"{found.sharding} is not {array.sharding}"
    assert found.sharding.is_equivalent_to(array.sharding, array.ndim), message


# --- the same bits, at the same place -----------------------------------------------------------


@every_placement
@every_spec
def test_masks_are_those_of_one_device(axis_type, spec, layout):
    check_bits(run(axis_type, spec, LAYOUTS[layout], SMALL), spec)


@every_placement
@every_spec
def test_masks_lie_where_their_leaves_lie(axis_type, spec, layout):
    check_placed(run(axis_type, spec, LAYOUTS[layout], SMALL))


few_specs = pytest.mark.parametrize(
    "spec", ["leaf", "global", "per input", "columns", "blocks", "2:4", "2:4 flat"]
)


@every_mesh
@few_specs
def test_masks_of_large_leaves_are_those_of_one_device(axis_type, spec):
    check_bits(run(axis_type, spec, LAYOUTS["both"], LARGE), spec)


@every_mesh
@few_specs
def test_masks_of_large_leaves_lie_where_their_leaves_lie(axis_type, spec):
    check_placed(run(axis_type, spec, LAYOUTS["both"], LARGE))


@every_mesh
@pytest.mark.parametrize("spec", OTHERS)
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1000,), P(("x", "y"))),
        ((3, 16, 8), P(None, "y", "x")),
        ((8, 3, 20), P(("x", "y"), None, None)),
    ],
    ids=str,
)
def test_masks_of_other_ranks_are_those_of_one_device(axis_type, spec, shape, layout):
    result = run(axis_type, spec, layout, shape)
    check_bits(result, spec)
    check_placed(result)


@every_mesh
@pytest.mark.parametrize("spec", ["leaf", "global", "per input", "rows", "blocks", "2:4"])
def test_eager_masks_are_those_of_one_device(axis_type, spec):
    arrays = [weights(SMALL), weights((16, 10), 1)]
    if spec in ("blocks", "2:4"):
        arrays.pop()  # 10 is no multiple of 4
    params = [
        spread(array, axis_type, layout)
        for array, layout in zip(arrays, [P("x", "y"), P("y")], strict=False)
    ]
    result = Run(params, score_and_mask(params, SPECS[spec]), [])
    check_bits(result, spec)
    check_placed(result)


# --- what the devices tell each other -----------------------------------------------------------

MOVES_ARRAYS = {"all-gather", "all-to-all", "collective-permute", "collective-broadcast"}
SEARCHES = {"sort", "topk", "gather", "scatter"}


def check_instructions(result, shape):
    """Nothing is moved or sorted but short vectors: a number a leaf, or the scores of its units."""
    for kind, name in result.instructions:
        if name.removesuffix("-start") in MOVES_ARRAYS | SEARCHES:
            for dims in re.findall(r"\w+\[([\d,]*)\]", kind):
                assert np.prod([int(n) for n in dims.split(",") if n]) <= 2 * max(shape), kind


@every_placement
def test_budgets_compile_to_no_gather_and_no_sort(axis_type, layout):
    check_instructions(run(axis_type, ALONE[0], LAYOUTS[layout], SMALL), SMALL)


@every_mesh
@pytest.mark.parametrize("spec", [REDUCED[0], "blocks"])
def test_budgets_of_large_leaves_compile_to_no_gather_and_no_sort(axis_type, spec):
    check_instructions(run(axis_type, spec, LAYOUTS["both"], LARGE), LARGE)


@every_mesh
def test_what_is_reduced_over_devices_is_a_count_and_no_array(axis_type):
    result = run(axis_type, REDUCED[0], LAYOUTS["both"], LARGE)
    reduced = [kind for kind, name in result.instructions if name.startswith("all-reduce")]
    assert len(reduced) >= len(REDUCED)
    # Two numbers a group guide the search; ties are counted along one axis at a time, and what is
    # left of them is one row, or one run a group, of flags.
    for kind in reduced:
        for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", kind):
            most = (16 if dtype == "pred" else 2) * max(LARGE)
            assert np.prod([int(n) for n in dims.split(",") if n]) <= most, kind


# --- scores -------------------------------------------------------------------------------------


def score(params):
    """By every kind of metric, in one program."""
    metrics = {
        "L1": jp.L1(),
        "L2": jp.L2(),
        "LCG": jp.LCG(3),
        "Random": jp.Random(jax.random.key(0)),
    }
    return {name: jp.importance(params, metric) for name, metric in metrics.items()}


@every_mesh
@every_layout
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_scores_are_those_of_one_device(axis_type, layout, jitted):
    params = spread(weights(SMALL), axis_type, LAYOUTS[layout])
    found = (jax.jit(score) if jitted else score)(params)
    for name, expected in score(weights(SMALL)).items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
        # What depends on no weight is placed by the compiler, if the type says nothing of the mesh.
        if not (jitted and axis_type == "Auto" and name in ("LCG", "Random")):
            assert_placed_like(found[name], params)


# --- what is done with masks --------------------------------------------------------------------


@every_mesh
@every_layout
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_apply_mask_keeps_bits_and_place(axis_type, layout, jitted):
    array, mask = weights(SMALL), weights(SMALL, 1) > 0
    params = spread(array, axis_type, LAYOUTS[layout])
    apply = jax.jit(jp.apply_mask) if jitted else jp.apply_mask
    found = apply(params, spread(mask, axis_type, LAYOUTS[layout]))
    np.testing.assert_array_equal(found, np.where(mask, array, 0))
    assert_placed_like(found, params)


@every_mesh
@every_layout
def test_mask_from_zeros_keeps_bits_and_place(axis_type, layout):
    array = weights(SMALL) * (weights(SMALL, 1) > 0)
    params = spread(array, axis_type, LAYOUTS[layout])
    found = jp.mask_from_zeros(params)
    np.testing.assert_array_equal(found, array != 0)
    assert_placed_like(found, params)


@every_mesh
@every_layout
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_pack_and_unpack_keep_bits_and_place(axis_type, layout, jitted):
    transform = jax.jit if jitted else lambda function: function
    masks = {"ragged": weights(SMALL) > 0, "whole": weights((16, 64)) > 0}
    spread_masks = {n: spread(mask, axis_type, LAYOUTS[layout]) for n, mask in masks.items()}
    packed = transform(jp.pack)(spread_masks)
    found = transform(jp.unpack)(packed, spread_masks)
    for name, mask in masks.items():
        np.testing.assert_array_equal(packed[name], np.packbits(mask, axis=-1))
        np.testing.assert_array_equal(found[name], mask)
    # 8 bytes a row: every device still holds whole ones.
    assert_placed_like(packed["whole"], spread_masks["whole"])
    assert_placed_like(found["whole"], spread_masks["whole"])


@every_mesh
@every_layout
def test_a_report_counts_what_one_device_counts(axis_type, layout):
    mask = oracle.mask(jp.NM(2, 4), np.abs(weights(SMALL)))
    array = np.where(mask, weights(SMALL), 0).astype(np.float32)
    params = {"first": spread(array, axis_type, LAYOUTS[layout])}
    found = jp.report(params, {"first": spread(mask, axis_type, LAYOUTS[layout])})
    assert found == jp.report({"first": jax.device_put(array)}, {"first": jax.device_put(mask)})
    assert found.rows[0].pattern == "2:4 along axis -1"
    assert found.all.nonzero == np.count_nonzero(array)


@every_mesh
def test_one_call_prunes_sharded_parameters(axis_type):
    arrays = {"first": weights(SMALL), "second": weights((16, 10), 1)}
    layouts = {"first": P("x", "y"), "second": P("y")}
    params = {
        name: {"kernel": spread(array, axis_type, layouts[name])} for name, array in arrays.items()
    }
    pruned, mask = jp.prune(params, 0.59375)
    for name, array in arrays.items():
        expected = oracle.mask(SPECS["leaf"], np.abs(array))
        np.testing.assert_array_equal(pruned[name]["kernel"], np.where(expected, array, 0))
        assert_placed_like(pruned[name]["kernel"], params[name]["kernel"])
        assert_placed_like(mask[name]["kernel"], params[name]["kernel"])


# --- training -----------------------------------------------------------------------------------


@every_mesh
@pytest.mark.parametrize("begin", [0, 5])
def test_what_init_makes_lies_where_the_parameters_lie(axis_type, begin):
    layouts = {"first": P("x"), "second": P(None, "y")}
    params = {name: spread(weights(SMALL), axis_type, layouts[name]) for name in layouts}
    metric = jp.averaged(jp.Taylor)
    tx = jp.sparsify(
        optax.adam(0.1),
        0.5,
        schedule=jp.one_shot(at=begin),
        metric=metric if begin else jp.L1(),
        where=jp.any_leaf,
    )
    state = tx.init(params)
    adam = state.inner[0]
    average = [state.average] if begin else []
    for tree in [state.mask, adam.mu, adam.nu, *average]:
        for name, array in params.items():
            assert_placed_like(tree[name], array)
    compiled = jax.jit(tx.init)(params)
    np.testing.assert_array_equal(state.mask["first"], compiled.mask["first"])


@every_mesh
def test_a_compiled_update_leaves_the_state_where_it_lies(axis_type):
    params = {"first": spread(weights(SMALL), axis_type, P("x", "y"))}
    tx = jp.sparsify(optax.adam(0.1), 0.5, schedule=jp.one_shot(at=1), where=jp.any_leaf)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    trained, state = step(params, tx.init(params))
    for tree in [trained, state.mask, state.inner[0].mu, state.inner[0].nu]:
        assert_placed_like(tree["first"], params["first"])
    assert jp.report(trained, state.mask).stray == 0


@every_mesh
@pytest.mark.parametrize("granularity", ["unstructured", "structured_row", "structured_column"])
def test_the_reference_s_pruning_is_that_of_one_device(axis_type, granularity):
    here = weights(SMALL)
    there = spread(here, axis_type, P("x", "y"))
    case = {"sparsity": 0.5, "granularity": granularity}
    for ours, theirs in zip(compat.prune(there, **case), compat.prune(here, **case), strict=True):
        np.testing.assert_array_equal(ours, theirs)
