"""Each leaf pruned alone, against a plain loop; and the allocation that the losses make."""

import itertools
import math

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp

RNG = np.random.default_rng(0)
SWEPT = (0.0, 0.3, 0.5, 0.8)


def normal(*shape):
    return jax.device_put(np.float32(RNG.normal(size=shape)))


# Two leaves of one shape, which share their code, and one of another; a bias stays dense.
PARAMS = {
    "first": {"kernel": normal(8, 8), "bias": normal(8)},
    "second": {"kernel": normal(8, 8)},
    "third": {"kernel": normal(8, 4)},
}
X = normal(16, 8)


def loss(params):
    hidden = jnp.tanh(X @ params["first"]["kernel"] + params["first"]["bias"])
    return jnp.mean(
        (hidden @ params["second"]["kernel"] @ params["third"]["kernel"] - X[:, :4]) ** 2
    )


def alone(params, path, spec, metric=None):
    """The loss and the count of zeros when one leaf is pruned, by the public functions."""
    pruned, mask = jp.prune(params, spec, where=path, metric=metric or jp.L1())
    return float(loss(pruned)), sum(int((~kept).sum()) for kept in jax.tree.leaves(mask))


# --- what is measured ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "at"),
    [
        (jp.Unstructured(0.9), jp.Unstructured),
        (jp.Unstructured(0.0, per="global"), jp.Unstructured),
        (jp.Rows(0.0, reduce="max"), lambda s: jp.Rows(s, reduce="max")),
        (jp.NM(1, 4), lambda s: jp.NM(4 - math.floor(s * 4 + 2**-8), 4)),
    ],
    ids=["unstructured", "global", "rows", "1:4"],
)
def test_every_loss_is_that_of_a_plain_loop(spec, at):
    found = jp.sensitivity(loss, PARAMS, SWEPT, spec)
    assert found.paths == ("first/kernel", "second/kernel", "third/kernel")
    assert found.sizes == (64, 64, 32)
    assert found.sparsities == SWEPT
    assert found.dense == pytest.approx(float(loss(PARAMS)), rel=1e-6)
    for row, path in enumerate(found.paths):
        for column, sparsity in enumerate(SWEPT):
            expected, zeros = alone(PARAMS, path, at(sparsity))
            assert found.removed[row, column] == zeros
            assert found.losses[row, column] == pytest.approx(expected, rel=1e-5)


def test_the_metric_where_and_rules_are_those_of_make_mask():
    metric = jp.Random(jax.random.key(3))
    spec = {"third": None, "*": jp.Columns(0.1)}
    found = jp.sensitivity(loss, PARAMS, [0.5], spec, metric=metric, where="*/kernel")
    assert found.paths == ("first/kernel", "second/kernel")
    for row, path in enumerate(found.paths):
        expected, zeros = alone(PARAMS, path, jp.Columns(0.5), metric)
        assert (found.removed[row, 0], zeros) == (32, 32)
        assert found.losses[row, 0] == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_compiled_once_for_all():
    traces = []

    def counted(params):
        traces.append(1)
        return loss(params)

    jp.sensitivity(counted, PARAMS, np.linspace(0.1, 0.9, 9))
    assert len(traces) == 2  # once to see what it returns


def test_an_array_in_two_places_is_pruned_in_each_alone():
    shared = normal(4, 4)
    found = jp.sensitivity(
        lambda p: jnp.sum(jnp.abs(p["a"])) + 3 * jnp.sum(jnp.abs(p["b"])),
        {"a": shared, "b": shared},
        [0.5],
    )
    magnitudes = np.sort(np.abs(np.asarray(shared)).ravel())
    kept, whole = magnitudes[8:].sum(), magnitudes.sum()
    np.testing.assert_allclose(found.losses, [[kept + 3 * whole], [whole + 3 * kept]], rtol=1e-5)


def test_inputs_are_what_the_loss_takes_after_the_parameters():
    def with_inputs(params, batch, scale):
        hidden = jnp.tanh(batch["x"] @ params["first"]["kernel"] + params["first"]["bias"])
        out = hidden @ params["second"]["kernel"] @ params["third"]["kernel"]
        return scale * jnp.mean((out - batch["x"][:, :4]) ** 2)

    found = jp.sensitivity(with_inputs, PARAMS, [0.25, 0.5], inputs=({"x": X}, 1.0))
    expected = jp.sensitivity(loss, PARAMS, [0.25, 0.5])
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-6)
    np.testing.assert_array_equal(found.removed, expected.removed)


@pytest.mark.parametrize("wrong", [X, {"x": X}, None], ids=["array", "dict", "None"])
def test_inputs_that_are_no_tuple_are_refused(wrong):
    with pytest.raises(jp.PruningError, match=r"(?s)inputs as a tuple .* write inputs=\(batch,\)"):
        jp.sensitivity(loss, PARAMS, [0.5], inputs=wrong)


class Model(eqx.Module):
    weight: jax.Array
    steps: int
    act: object


@pytest.mark.parametrize(
    "tree",
    [
        pytest.param(normal(4, 4), id="array"),
        pytest.param(np.ones((4, 4), np.float32), id="numpy"),
        pytest.param(
            {"w": nn.Partitioned(normal(4, 4), ("x", None)), "n": jnp.arange(3)}, id="box"
        ),
        pytest.param(Model(normal(4, 4), 3, jnp.tanh), id="equinox"),
        pytest.param({"w": normal(4, 4).astype(jnp.bfloat16), "none": None}, id="bfloat16"),
    ],
)
def test_any_tree(tree):
    def total(params):
        floats = [x for x in jax.tree.leaves(params) if eqx.is_inexact_array(x)]
        return sum(jnp.sum(jnp.abs(x.astype(jnp.float32))) for x in floats)

    found = jp.sensitivity(total, tree, [0.25, 0.75])
    assert found.removed.tolist() == [[4, 12]]
    assert found.dense > found.losses[0, 0] > found.losses[0, 1] > 0


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
@pytest.mark.parametrize("spec", [jp.Unstructured(0.5), jp.Rows(0.5)], ids=["unstructured", "rows"])
def test_sharded_parameters_give_the_same_losses(axis_type, spec):
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType[axis_type],) * 2)
    tree = {"a": normal(8, 8), "b": normal(8, 8)}

    def total(params):
        return jnp.sum(jnp.abs(params["a"])) + jnp.sum(params["b"] ** 2)

    expected = jp.sensitivity(total, tree, [0.25, 0.5], spec)
    split = jax.device_put(tree, NamedSharding(mesh, P("x", "y")))
    found = jp.sensitivity(total, split, [0.25, 0.5], spec)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    np.testing.assert_array_equal(found.removed, expected.removed)


def test_it_prints_as_a_table():
    found = jp.sensitivity(loss, PARAMS, np.arange(20) / 20)
    lines = str(found).splitlines()
    assert lines[0].split() == [
        "leaf",
        "weights",
        "0",
        "0.15",
        "0.25",
        "0.4",
        "0.55",
        "0.7",
        "0.8",
        "0.95",
    ]
    assert lines[2].split()[:3] == ["first/kernel", "64", f"{found.dense:.4g}"]
    assert len(lines) == 6
    assert lines[-1] == f"The loss with nothing pruned is {found.dense:.4g}."


# --- the allocation -----------------------------------------------------------------------------


def removed(sparsity, size):
    return math.floor(np.float32(sparsity) * np.float32(size))


def synthetic(sizes, losses, swept, dense=1.0):
    """Losses as if measured, of params that are shapes alone."""
    params = {f"w{i}": jax.ShapeDtypeStruct((1, n), jnp.float32) for i, n in enumerate(sizes)}
    counts = [[min(removed(s, n), n - 1) for s in swept] for n in sizes]
    found = jp.Sensitivity(
        tuple(params), tuple(sizes), tuple(swept), dense, np.array(losses), np.array(counts)
    )
    return params, found


def shares(params, sparsities):
    return [removed(sparsities[path], leaf.size) for path, leaf in params.items()]


@st.composite
def measurements(draw):
    sizes = draw(st.lists(st.integers(2, 300), min_size=1, max_size=5))
    swept = sorted(draw(st.sets(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), min_size=1)))
    row = st.lists(st.integers(0, 40), min_size=len(swept), max_size=len(swept))
    losses = [[loss / 10 for loss in draw(row)] for _ in sizes]
    return (*synthetic(sizes, losses, swept), swept[-1])


@settings(max_examples=200)
@given(measurements(), st.floats(0, 1))
def test_the_budget_is_met_to_the_weight(measured, part):
    params, found, most = measured
    sparsity = part * most
    total = removed(sparsity, sum(found.sizes))
    if total > sum(min(math.ceil(most * n), n - 1) for n in found.sizes):
        return  # leaves so small that the weight they keep is what the budget wants
    lost = shares(params, jp.allocate(params, sparsity, found))
    assert sum(lost) == total
    assert all(0 <= k < n for k, n in zip(lost, found.sizes, strict=True))


@settings(max_examples=100)
@given(measurements(), st.floats(0, 0.95), st.floats(0, 0.95))
def test_a_larger_budget_spares_no_leaf(measured, one, other):
    params, found, most = measured
    low, high = sorted([one * most, other * most])
    try:
        more = shares(params, jp.allocate(params, high, found))
    except jp.InvalidSparsity:
        return
    less = shares(params, jp.allocate(params, low, found))
    assert all(a <= b for a, b in zip(less, more, strict=True))


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 20), min_size=3, max_size=3), min_size=2, max_size=3),
    st.integers(0, 18),
)
def test_no_other_allocation_is_predicted_to_cost_less(losses, budget):
    """Against every way to take the budget from two or three leaves of 8 weights."""
    params, found = synthetic([8] * len(losses), losses, [0.25, 0.5, 0.75], dense=3.0)
    budget = min(budget, 6 * len(losses))

    def cost(row, lost):
        """On the convex hull: no chord between measured points lies lower."""
        points = [(0, 0.0), *((k, losses[row][j] - 3.0) for j, k in enumerate((2, 4, 6)))]
        return min(
            a[1] if b[0] == a[0] else a[1] + (b[1] - a[1]) * (lost - a[0]) / (b[0] - a[0])
            for a, b in itertools.combinations_with_replacement(points, 2)
            if a[0] <= lost <= b[0]
        )

    def total(lost):
        return sum(cost(row, k) for row, k in enumerate(lost))

    best = min(
        total(lost)
        for lost in itertools.product(range(7), repeat=len(losses))
        if sum(lost) == budget
    )
    chosen = shares(params, jp.allocate(params, budget / (8 * len(losses)), found))
    assert sum(chosen) == budget
    assert total(chosen) == pytest.approx(best, abs=1e-9)


def test_by_hand():
    """Leaves of 10 and 20 weights. Up to half, the first costs 0.2 a weight, the second 0.1."""
    params, found = synthetic([10, 20], [[2.0, 9.0], [2.0, 6.0]], [0.5, 0.9])
    # Slopes: 1/5 and 7/4 for the first, 1/10 and 4/8 for the second.
    by_budget = {3: [0, 3], 10: [0, 10], 12: [2, 10], 15: [5, 10], 20: [5, 15], 25: [7, 18]}
    for budget, expected in by_budget.items():
        assert shares(params, jp.allocate(params, budget / 30, found)) == expected


def test_a_sensitive_leaf_gives_less():
    tree = {name: normal(16, 16) for name in ("low", "middle", "high")}
    factors = {"low": 1.0, "middle": 10.0, "high": 100.0}

    def distance(params):
        return sum(f * jnp.sum((params[k] - tree[k]) ** 2) for k, f in factors.items())

    found = jp.sensitivity(distance, tree, np.arange(1, 20) / 20)
    sparsities = jp.allocate(tree, 0.5, found)
    assert sparsities["low"] > sparsities["middle"] > sparsities["high"]
    _, mask = jp.prune(tree, sparsities)
    assert sum(int((~kept).sum()) for kept in jax.tree.leaves(mask)) == 384
    pruned, _ = jp.prune(tree, sparsities)
    alike, _ = jp.prune(tree, 0.5)
    assert distance(pruned) < distance(alike) / 2


def test_leaves_that_are_alike_stay_alike():
    params, found = synthetic([100] * 4, [[1.0, 2.0, 3.0]] * 4, [0.25, 0.5, 0.75], dense=0.0)
    assert shares(params, jp.allocate(params, 0.5, found)) == [50] * 4


def test_a_leaf_too_small_for_the_sparsities_tried_gives_last():
    """Nothing could be removed from the leaf of 2, so nothing is known of what that costs."""
    params, found = synthetic([2, 100], [[1.0], [9.0]], [0.4])
    assert shares(params, jp.allocate(params, 0.39, found)) == [0, 39]
    assert shares(params, jp.allocate(params, 0.4, found)) == [0, 40]


def test_overrides_and_where_are_those_of_every_method():
    found = jp.sensitivity(loss, PARAMS, SWEPT)
    sparsities = jp.allocate(PARAMS, 0.5, found, overrides={"third": 0.75})
    assert sparsities["third"]["kernel"] == 0.75
    assert sum(row.prunes for row in jp.plan(PARAMS, sparsities).rows) == 80
    alone = jp.allocate(PARAMS, 0.5, found, where="second")
    assert (alone["first"]["kernel"], alone["second"]["kernel"]) == (None, 0.5)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "swept",
    [[], 0.5, [0.5, 0.5], [0.8, 0.5], [0.5, 1.0], [-0.1], [math.nan], ["0.5"], [[0.5]]],
    ids=repr,
)
def test_sparsities_that_are_none(swept):
    with pytest.raises(jp.InvalidSparsity, match=r"got .*: write "):
        jp.sensitivity(loss, PARAMS, swept)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda p: p["first"]["bias"], r"one float, a scalar, got float32\[8\]: return jnp.mean"),
        (lambda p: (loss(p), 0), r"a scalar, got \(ShapeDtypeStruct.*no auxiliary outputs"),
        (lambda p: jnp.sum(p["third"]["kernel"] > 0), r"one float, a scalar, got int32\[\]"),
        (lambda p: loss(p) * jnp.nan, "nothing pruned is nan, expected a finite number"),
        (
            lambda p: sum(
                1 / (jnp.sum(jnp.any(p[n]["kernel"] != 0, 1)) - 4.0) for n in ("first", "second")
            ),
            "2 problems:\n  `first/kernel` pruned to 0.5 makes the loss not finite: measure lower"
            "(.|\n)*`second/kernel`.*by a rule",
        ),
    ],
    ids=["vector", "auxiliary", "integer", "nan", "pruned to infinity"],
)
def test_losses_that_are_none(bad, words):
    with pytest.raises(jp.PruningError, match=words):
        jp.sensitivity(bad, PARAMS, [0.25, 0.5], jp.Rows(0.0))


def test_traced_parameters_are_refused():
    with pytest.raises(jp.PruningError, match="call sensitivity outside jit"):
        jax.jit(lambda p: jp.sensitivity(loss, p, [0.5]).dense)(PARAMS)


def test_a_spec_that_does_not_fit_is_refused_before_the_loss_is_called():
    def never(params):
        raise AssertionError

    with pytest.raises(jp.InvalidPattern, match="not divisible"):
        jp.sensitivity(never, PARAMS, [0.5], jp.NM(2, 3))
    with pytest.raises(jp.NoMatch, match="head"):
        jp.sensitivity(never, PARAMS, [0.5], where="head")


def test_an_allocation_beyond_what_was_measured_is_refused():
    params, found = synthetic([100, 200], [[1.0], [2.0]], [0.5])
    with pytest.raises(jp.InvalidSparsity, match=r"between 0 and 150: .*measure higher sparsities"):
        jp.allocate(params, 0.6, found)


def test_an_allocation_for_other_leaves_is_refused():
    _, found = synthetic([100], [[1.0]], [0.5])
    other = {"w0": jnp.ones((1, 50)), "w1": jnp.ones((1, 50))}
    with pytest.raises(jp.StructureMismatch) as raised:
        jp.allocate(other, 0.2, found)
    assert "`w0` holds 50 weights, and held 100" in str(raised.value)
    assert "`w1` was not measured: pass the where=" in str(raised.value)


def test_an_array_in_two_places_is_measured_in_each_and_shares_by_path():
    tied = jnp.arange(16.0).reshape(4, 4)
    params = {"x": tied, "y": tied, "z": jnp.ones((4, 4))}

    def loss(p):
        return jnp.sum(p["x"] @ p["y"] @ p["z"])

    copies = {name: jnp.array(leaf) for name, leaf in params.items()}
    found, apart = (jp.sensitivity(loss, tree, [0.25, 0.5]) for tree in (params, copies))
    np.testing.assert_array_equal(found.losses, apart.losses)
    assert jp.allocate(params, 0.25, found) == jp.allocate(copies, 0.25, apart)
