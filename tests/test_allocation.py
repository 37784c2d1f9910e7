"""A budget shared among leaves: met to the weight, by the formula it names, from shapes alone."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import jaxprune as jp


def removed(sparsity, size):
    """floor(float32(s) * float32(n)): what a mask takes of a leaf, or a budget of the whole."""
    return math.floor(np.float32(sparsity) * np.float32(size))


def shapes(**leaves):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in leaves.items()}


def losses(params, sparsities):
    """What each leaf loses at its sparsity, in the tree's order."""
    return [
        removed(sparsity, leaf.size)
        for leaf, sparsity in zip(
            jax.tree.leaves(params),
            jax.tree.leaves(sparsities, is_leaf=lambda s: s is None),
            strict=True,
        )
        if sparsity is not None
    ]


def total_size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def density(shape, power):
    """The ERK density of a shape, up to the common factor."""
    return (sum(shape) / math.prod(shape)) ** power


def erk_shares(leaves, budget, power):
    """The weights each leaf loses, in float64, not rounded; dense leaves drop out one by one."""
    sizes, dense, scale = [math.prod(s) for s in leaves], set(), 0.0
    while len(dense) < len(leaves):
        sparse = [i for i in range(len(leaves)) if i not in dense]
        kept = sum(sizes) - budget - sum(sizes[i] for i in dense)
        scale = kept / sum(density(leaves[i], power) * sizes[i] for i in sparse)
        densest = max(sparse, key=lambda i: density(leaves[i], power))
        if scale * density(leaves[densest], power) < 1:
            break
        dense.add(densest)
    return [
        0.0 if i in dense else sizes[i] * (1 - scale * density(leaves[i], power))
        for i in range(len(leaves))
    ]


leaf_shapes = st.lists(
    st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple), min_size=1, max_size=8
)
sparsities = st.floats(0, 1023 / 1024, width=32) | st.sampled_from([0.0, 0.1, 0.5, 0.8, 0.9, 0.95])
methods = st.sampled_from(["uniform", "erk"]) | st.floats(0, 3).map(jp.erk)


def feasible(leaves, sparsity):
    """Every leaf keeps a weight."""
    sizes = [math.prod(shape) for shape in leaves]
    return removed(sparsity, sum(sizes)) <= sum(size - 1 for size in sizes)


# --- the budget is met in integers --------------------------------------------------------------


@settings(max_examples=300)
@given(leaves=leaf_shapes, sparsity=sparsities, method=methods)
def test_the_budget_is_met_to_the_weight(leaves, sparsity, method):
    assume(feasible(leaves, sparsity))
    params = shapes(**{f"w{i}": shape for i, shape in enumerate(leaves)})
    found = jp.allocate(params, sparsity, method)
    lost = losses(params, found)
    assert sum(lost) == removed(sparsity, total_size(params))
    assert all(0 <= s < 1 for s in jax.tree.leaves(found))
    assert all(loss < math.prod(shape) for loss, shape in zip(lost, leaves, strict=True))


# Masks are made of few shapes: each is compiled once.
MODEL = {
    "conv": {
        "kernel": jax.device_put(np.float32(np.random.default_rng(0).normal(size=(3, 3, 4, 8))))
    },
    "big": {"kernel": jax.device_put(np.float32(np.random.default_rng(1).normal(size=(32, 48))))},
    "head": {"kernel": jax.device_put(np.float32(np.random.default_rng(2).normal(size=(48, 3))))},
    "bias": jnp.ones(8),
}
KERNELS = (288, 1536, 144)


@settings(max_examples=40)
@given(sparsity=sparsities, method=methods)
def test_the_masks_meet_the_budget_to_the_weight(sparsity, method):
    assume(removed(sparsity, sum(KERNELS)) <= sum(KERNELS) - 3)
    mask = jp.make_mask(jp.importance(MODEL, jp.L1()), jp.allocate(MODEL, sparsity, method))
    assert mask["bias"] is None
    lost = sum(int((~kept).sum()) for kept in jax.tree.leaves(mask))
    assert lost == removed(sparsity, sum(KERNELS))


def test_the_plan_agrees():
    found = jp.allocate(MODEL, 0.8)
    rows = {row.path: row.prunes for row in jp.plan(MODEL, found).rows}
    assert sum(rows.values()) == removed(0.8, sum(KERNELS))
    assert rows["bias"] == 0


def test_a_report_sees_what_was_asked_for():
    pruned, mask = jp.prune(MODEL, jp.allocate(MODEL, 0.8, "erk"))
    assert jp.report(pruned, mask).pruned.nonzero == sum(KERNELS) - removed(0.8, sum(KERNELS))


# --- the formulas -------------------------------------------------------------------------------


@settings(max_examples=300)
@given(leaves=leaf_shapes, sparsity=sparsities, power=st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_erk(leaves, sparsity, power):
    """Within a weight of the formula, wherever every leaf keeps one."""
    params = shapes(**{f"w{i}": shape for i, shape in enumerate(leaves)})
    expected = erk_shares(leaves, removed(sparsity, total_size(params)), power)
    assume(all(e < math.prod(s) - 1 for e, s in zip(expected, leaves, strict=True)))
    for found, share in zip(
        losses(params, jp.allocate(params, sparsity, jp.erk(power))), expected, strict=True
    ):
        assert abs(found - share) < 1 + 1e-6 * abs(share)


def test_erk_by_hand():
    """Leaves of 100 x 100 and 10 x 10, that is 10,100 weights, at densities of 0.02 c and 0.2 c."""
    params = shapes(big=(100, 100), small=(10, 10))
    # 200 c + 20 c = 5050 makes the small one more than dense: it stays, and the big one gives all.
    assert losses(params, jp.allocate(params, 0.5, "erk")) == [5050, 0]
    # At 0.99, of 10,100 weights 101 stay: 200 c + 20 c = 101.
    assert losses(params, jp.allocate(params, 0.99, "erk")) == [10000 - 92, 100 - 9]


def test_the_power_scales_from_uniform_to_steep():
    params = shapes(big=(100, 100), small=(40, 40))
    by_power = [jp.allocate(params, 0.9, jp.erk(power)) for power in (0.0, 0.5, 1.0)]
    assert by_power[0] == jp.allocate(params, 0.9, "uniform")
    assert by_power[2] == jp.allocate(params, 0.9, "erk") == jp.allocate(params, 0.9)
    small = [s["small"] for s in by_power]
    assert small[0] > small[1] > small[2]


@settings(max_examples=100)
@given(leaves=leaf_shapes, sparsity=sparsities)
def test_uniform(leaves, sparsity):
    assume(feasible(leaves, sparsity))
    params = shapes(**{f"w{i}": shape for i, shape in enumerate(leaves)})
    sizes = [math.prod(shape) for shape in leaves]
    share = removed(sparsity, sum(sizes)) / sum(sizes)
    assume(all(size * share < size - 1 for size in sizes))
    for found, size in zip(
        losses(params, jp.allocate(params, sparsity, "uniform")), sizes, strict=True
    ):
        assert abs(found - share * size) < 1


def test_names_of_methods():
    params = shapes(big=(100, 100), small=(10, 20))
    assert jp.allocate(params, 0.9, "uniform") == jp.allocate(params, 0.9, jp.uniform)
    assert (
        jp.allocate(params, 0.9, "erk")
        == jp.allocate(params, 0.9, jp.erk())
        == jp.allocate(params, 0.9)
    )


def test_the_methods_as_functions_of_a_shape():
    assert jp.uniform((3, 4)) == jp.uniform((100, 7, 7)) == 1.0
    assert jp.erk()((4, 8)) == 12 / 32
    assert jp.erk(2.0)((3, 3, 4, 8)) == (18 / 288) ** 2
    assert jp.erk(power=0)((5, 9)) == 1.0


def test_a_function_is_a_method():
    """Densities three to one, whatever the factor."""
    params = shapes(a=(10, 30), b=(10, 20))
    for factor in (1, 7.5, 1e-6):
        sparsities = jp.allocate(params, 0.8, lambda s, f=factor: f * (3 if s[1] == 30 else 1))
        # 900 c + 200 c = 100 weights stay.
        assert losses(params, sparsities) == [300 - 82, 200 - 18]


def test_a_method_sees_shapes_as_tuples_of_integers():
    seen = []
    jp.allocate(MODEL, 0.5, lambda shape: seen.append(shape) or 1.0)
    assert set(seen) == {(3, 3, 4, 8), (32, 48), (48, 3)}
    assert {type(side) for shape in seen for side in shape} == {int}


def test_dense_leaves_redistribute_in_a_chain():
    """The first to fill up makes the next one fill up."""
    leaves = [(200, 200), (30, 30), (12, 12), (4, 4)]
    params = shapes(**{f"w{i}": shape for i, shape in enumerate(leaves)})
    for sparsity in (0.3, 0.6, 0.7, 0.8, 0.85, 0.9):
        budget = removed(sparsity, total_size(params))
        lost = losses(params, jp.allocate(params, sparsity, "erk"))
        assert sum(lost) == budget
        np.testing.assert_allclose(lost, erk_shares(leaves, budget, 1.0), atol=1)
    assert losses(params, jp.allocate(params, 0.3, "erk"))[1:] == [0, 0, 0]


def test_no_leaf_loses_its_last_weight():
    params = shapes(one=(1, 1), two=(1, 2), big=(50, 50))
    for method in ("uniform", "erk", jp.erk(5.0)):
        lost = losses(params, jp.allocate(params, 0.9985, method))
        assert sum(lost) == removed(0.9985, 2503) == 2499
        assert all(loss < size for loss, size in zip(lost, (2500, 1, 2), strict=True))


def test_nothing_to_remove():
    for method in ("uniform", "erk"):
        assert set(jax.tree.leaves(jp.allocate(MODEL, 0.0, method))) == {0.0}


# --- which leaves, and what is fixed ------------------------------------------------------------


def test_what_is_out_of_scope_gets_none():
    found = jp.allocate(MODEL, 0.5)
    assert found["bias"] is None
    assert jax.tree.structure(found) == jax.tree.structure({**MODEL, "bias": None})
    only_head = jp.allocate(MODEL, 0.5, where="head")
    assert [only_head[k] and only_head[k]["kernel"] for k in ("big", "conv", "bias")] == [None] * 3
    assert losses({"k": MODEL["head"]["kernel"]}, {"k": only_head["head"]["kernel"]}) == [72]


def test_where_may_take_everything():
    found = jp.allocate(MODEL, 0.5, "uniform", where=jp.any_leaf)
    assert sum(losses(MODEL, found)) == removed(0.5, sum(KERNELS) + 8)


def test_a_bare_array():
    assert jp.allocate(jnp.ones(100), 0.29) == pytest.approx(0.29)
    assert removed(jp.allocate(jnp.ones(100), 0.29), 100) == 29


def test_overrides_hold_and_the_others_make_up_for_them():
    found = jp.allocate(MODEL, 0.8, overrides={"head": 0.5, "conv/*": None})
    assert found["head"]["kernel"] == 0.5
    assert found["conv"]["kernel"] == 0.0
    lost = losses(MODEL, found)
    assert sum(lost) == removed(0.8, sum(KERNELS))
    assert dict(zip(("big", "conv", "head"), lost, strict=True)) == {
        "big": removed(0.8, sum(KERNELS)) - 72,
        "conv": 0,
        "head": 72,
    }


def test_the_first_override_that_covers_a_leaf_holds():
    found = jp.allocate(MODEL, 0.8, overrides={"head/kernel": 0.25, "head": 0.5, "c*": 0.9})
    assert found["head"]["kernel"] == 0.25
    assert found["conv"]["kernel"] == float(np.float32(0.9))


@settings(max_examples=100)
@given(leaves=leaf_shapes, sparsity=sparsities, fixed=sparsities, method=methods)
def test_the_budget_is_met_beside_an_override(leaves, sparsity, fixed, method):
    params = shapes(**{f"w{i}": shape for i, shape in enumerate(leaves)})
    budget, taken = removed(sparsity, total_size(params)), removed(fixed, math.prod(leaves[0]))
    rest = sum(math.prod(shape) - 1 for shape in leaves[1:])
    if not 0 <= budget - taken <= rest:
        with pytest.raises(jp.InvalidSparsity, match="Change the sparsity or the overrides"):
            jp.allocate(params, sparsity, method, overrides={"w0": fixed})
        return
    lost = losses(params, jp.allocate(params, sparsity, method, overrides={"w0": fixed}))
    assert lost[0] == taken
    assert sum(lost) == budget


def test_overrides_for_all_leaves_must_add_up():
    halves = {"*": 0.5}
    found = jp.allocate(shapes(a=(4, 4), b=(8, 8)), 0.5, overrides=halves)
    assert found == {"a": 0.5, "b": 0.5}
    with pytest.raises(jp.InvalidSparsity, match="overrides 40 of them"):
        jp.allocate(shapes(a=(4, 4), b=(8, 8)), 0.6, overrides=halves)


# --- large leaves -------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    sizes=st.lists(
        st.tuples(st.integers(2**12, 2**14), st.integers(2**12, 2**13)), min_size=1, max_size=4
    ),
    small=st.lists(st.tuples(st.integers(8, 4096), st.integers(64, 4096)), min_size=1, max_size=4),
    sparsity=st.floats(1 / 16, 31 / 32, width=32),
    method=st.sampled_from(["uniform", "erk"]),
)
def test_leaves_of_more_than_2_to_the_24_weights(sizes, small, sparsity, method):
    """float32 cannot name every count there; what is left over goes to leaves where it can."""
    params = shapes(**{f"w{i}": shape for i, shape in enumerate([*sizes, *small])})
    found = jp.allocate(params, sparsity, method)
    assert sum(losses(params, found)) == removed(sparsity, total_size(params))


def test_a_model_of_billions():
    """The shapes of a 7 B language model: the sum is beyond int32, every leaf beyond 2**24."""
    params = {
        "embed": {"embedding": jax.ShapeDtypeStruct((32000, 4096), jnp.bfloat16)},
        "layers": {
            "attention": {"kernel": jax.ShapeDtypeStruct((4096, 12288), jnp.bfloat16)},
            "up": {"kernel": jax.ShapeDtypeStruct((4096, 22016), jnp.bfloat16)},
            "down": {"kernel": jax.ShapeDtypeStruct((11008, 4096), jnp.bfloat16)},
            "gate": {"kernel": jax.ShapeDtypeStruct((4096, 64), jnp.bfloat16)},
        },
    }
    stack = {f"block_{i}": params["layers"] for i in range(32)}
    for sparsity in (0.5, 0.7, 0.9):
        found = jp.allocate(stack, sparsity, "erk")
        assert sum(losses(stack, found)) == removed(sparsity, total_size(stack))
    assert jp.allocate(params, 0.5)["embed"]["embedding"] is None


def test_the_sparsities_are_float32_values():
    for sparsity in jax.tree.leaves(jp.allocate(MODEL, 0.8)):
        assert type(sparsity) is float
        assert float(np.float32(sparsity)) == sparsity


# --- what it is made for ------------------------------------------------------------------------


def test_it_works_on_shapes_alone_and_does_not_look_at_values():
    described = jax.eval_shape(lambda: MODEL)
    other = jax.tree.map(lambda leaf: leaf * jnp.nan, MODEL)
    chex.assert_trees_all_equal(jp.allocate(described, 0.8), jp.allocate(MODEL, 0.8))
    chex.assert_trees_all_equal(jp.allocate(other, 0.8), jp.allocate(MODEL, 0.8))


def test_it_is_a_spec_as_it_stands_and_makes_others_by_a_map():
    found = jp.allocate(MODEL, 0.5, "uniform")
    specs = jax.tree.map(lambda s: jp.Channels(s, axis="output"), found)
    mask = jp.make_mask(MODEL, specs)
    for layer, units in (("big", 48), ("conv", 8), ("head", 3)):
        dead = ~np.asarray(mask[layer]["kernel"]).reshape(-1, units).any(0)
        assert dead.sum() == removed(found[layer]["kernel"], units)


# --- by values and by data ----------------------------------------------------------------------


def lamp_statement(params, budget):
    """The masks of the lowest LAMP scores of all weights, in float64."""
    scores = {}
    for path, weights in params.items():
        squares = np.square(np.asarray(weights, np.float64)).reshape(-1)
        order = np.argsort(squares, kind="stable")  # among equals, the lower index goes first
        for i, at in enumerate(order):
            scores[path, at] = squares[at] / np.sum(squares[order[i:]])
    gone = sorted(scores, key=scores.get)[:budget]
    masks = {path: np.ones(weights.size, bool) for path, weights in params.items()}
    for path, at in gone:
        masks[path][at] = False
    return {path: mask.reshape(params[path].shape) for path, mask in masks.items()}


def three_leaves(seed):
    rng = np.random.default_rng(seed)
    return {
        "even": jax.device_put(np.float32(1 + 0.01 * rng.normal(size=(8, 12)))),
        "normal": jax.device_put(np.float32(100 * rng.normal(size=(6, 5)))),
        "wide": jax.device_put(np.float32(rng.standard_cauchy(size=(4, 9)))),
    }


@settings(max_examples=30)
@given(seed=st.integers(0, 5), sparsity=st.floats(0, 31 / 32, width=32))
@example(seed=2, sparsity=0.82421875)  # two equal weights of which one goes
def test_lamp_prunes_the_lowest_scores_of_all(seed, sparsity):
    params = three_leaves(seed)
    found = jp.allocate(params, sparsity, "lamp", where=jp.any_leaf)
    expected = lamp_statement(params, removed(sparsity, total_size(params)))
    mask = jp.make_mask(jax.tree.map(jnp.abs, params), found, where=jp.any_leaf)
    for path in params:
        np.testing.assert_array_equal(mask[path], expected[path])


def test_lamp_by_hand():
    """Squares 1, 4, 9 score 1/14, 4/13, 1; and 9, 9, 9, 9 score 1/4, 1/3, 1/2, 1."""
    params = {"a": jnp.array([[1.0, -2.0, 3.0]]), "b": jnp.full((1, 4), -3.0)}
    lost = [losses(params, jp.allocate(params, k / 7, "lamp", where=jp.any_leaf)) for k in range(6)]
    assert lost == [[0, 0], [1, 0], [1, 1], [2, 1], [2, 2], [2, 3]]


def test_lamp_meets_the_budget_with_zeros_ties_and_broken_weights():
    params = {
        "zeros": jnp.zeros((8, 8)),
        "ones": jnp.ones((8, 8), jnp.bfloat16),
        "broken": jnp.ones((8, 8)).at[0, 0].set(jnp.nan).at[0, 1].set(jnp.inf),
    }
    for sparsity in (0.0, 0.1, 0.33, 0.5, 0.9, 0.98):
        found = jp.allocate(params, sparsity, "lamp", where=jp.any_leaf)
        lost = dict(zip(sorted(params), losses(params, found), strict=True))
        assert sum(lost.values()) == removed(sparsity, 192)
        assert lost["zeros"] == min(removed(sparsity, 192), 63)


@settings(max_examples=20)
@given(leaves=leaf_shapes, sparsity=sparsities, seed=st.integers(0, 9))
def test_lamp_meets_the_budget_to_the_weight(leaves, sparsity, seed):
    assume(feasible(leaves, sparsity))
    rng = np.random.default_rng(seed)
    params = {f"w{i}": rng.normal(size=s).astype(np.float32) for i, s in enumerate(leaves)}
    lost = losses(params, jp.allocate(params, sparsity, "lamp"))
    assert sum(lost) == removed(sparsity, total_size(params))


def outlying(fractions):
    """Square matrices of ones with so many weights of 99, a model of them, and its stats."""
    params = {}
    for name, fraction in fractions.items():
        weights = np.ones(400, np.float32)
        weights[: int(400 * fraction)] = 99
        params[name] = {"kernel": jax.device_put(weights.reshape(20, 20))}

    def model(params, x):
        return [x @ layer["kernel"] for layer in params.values()]

    return params, jp.calibrate(model, params, [(jnp.ones((2, 20)),)])


def test_owl_is_denser_where_there_are_outliers():
    """The paper: sparsities range over 2 lambda, in proportion to the ratio of outliers."""
    params, stats = outlying({"a": 0.0, "b": 0.01, "c": 0.02, "d": 0.01})
    found = {k: v["kernel"] for k, v in jp.allocate(params, 0.6, "owl", stats=stats).items()}
    expected = {"a": 0.68, "b": 0.6, "c": 0.52, "d": 0.6}
    assert {k: round(400 * s) for k, s in found.items()} == {
        k: round(400 * s) for k, s in expected.items()
    }
    assert sum(losses(params, jp.allocate(params, 0.6, "owl", stats=stats))) == 960


def test_owl_of_other_multiples_spreads_and_layers():
    params, stats = outlying({"a": 0.0, "b": 0.01, "c": 0.02, "d": 0.01})

    def shares(**options):
        found = jp.allocate(params, 0.5, jp.OWL(**options), stats=stats)
        return [round(400 * one["kernel"]) for one in found.values()]

    assert shares(spread=0.2) == [280, 200, 120, 200]
    assert shares(multiple=99.0) == shares(spread=0) == [200] * 4
    assert shares(layer=lambda path: path[0] in "ab") == [232, 232, 168, 168]
    # Beyond what a leaf can give, the others make up.
    assert shares(spread=0.9) == [399, 201, 0, 200]


@settings(max_examples=30)
@given(sparsity=st.floats(0, 127 / 128, width=32), spread=st.floats(0, 0.99))
def test_owl_meets_the_budget_to_the_weight(sparsity, spread):
    params, stats = OUTLYING
    found = jp.allocate(params, sparsity, jp.OWL(spread=spread), stats=stats)
    assert sum(losses(params, found)) == removed(sparsity, 1200)


OUTLYING = outlying({"a": 0.0, "b": 0.02, "c": 0.013})


class TestMethodsThatReadValuesRefuse:
    @pytest.mark.parametrize("method", ["lamp", "owl"])
    def test_descriptions(self, method):
        described = jax.eval_shape(lambda: OUTLYING[0])
        stats = OUTLYING[1] if method == "owl" else None
        with pytest.raises(jp.PruningError, match="expected arrays, got a description"):
            jp.allocate(described, 0.5, method, stats=stats)

    def test_tracers(self):
        with pytest.raises(jp.PruningError, match="is a tracer, and allocate"):
            jax.jit(lambda params: jp.allocate(params, 0.5, "lamp"))(OUTLYING[0])

    def test_stats_that_are_missing_or_read_by_nothing(self):
        with pytest.raises(jp.PruningError, match=r'"owl" needs stats=jp.calibrate.*got none'):
            jp.allocate(OUTLYING[0], 0.5, "owl")
        with pytest.raises(jp.PruningError, match=r'stats= is for "owl", and method is \'erk\''):
            jp.allocate(OUTLYING[0], 0.5, "erk", stats=OUTLYING[1])
        more = {**OUTLYING[0], "e": {"kernel": jnp.ones((4, 4))}}
        with pytest.raises(jp.StructureMismatch, match="no stats of `e/kernel`"):
            jp.allocate(more, 0.5, "owl", stats=OUTLYING[1])

    def test_options_that_make_no_sense(self):
        with pytest.raises(
            jp.PruningError, match=r"spread is a number of 0 or more, below 1, got 2"
        ):
            jp.OWL(spread=2)
        with pytest.raises(jp.PruningError, match="multiple is a number of 0 or more, got -1"):
            jp.OWL(multiple=-1)
