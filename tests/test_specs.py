"""Specs and metrics are values: frozen, compared by what they say, pytrees of their sparsity."""

import copy
import dataclasses
import itertools
import math
import pickle
from collections import OrderedDict

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

WEIGHTS = jax.device_put(np.float32(np.random.default_rng(0).normal(size=(8, 16))))
HUNDRED = [i / 100 for i in range(100)]

# Pairwise different in one thing: the class, the sparsity, or one static field.
SPECS = [
    jp.Unstructured(0.5),
    jp.Unstructured(0.25),
    jp.Unstructured(0.5, per="global"),
    jp.Unstructured(0.5, per=0),
    jp.Unstructured(0.5, per="output"),
    jp.Unstructured(0.5, min_nonzero=2),
    jp.Rows(0.5),
    jp.Rows(0.25),
    jp.Rows(0.5, reduce="l2"),
    jp.Rows(0.5, min_nonzero=2),
    jp.Columns(0.5),
    jp.Columns(0.5, reduce="max"),
    jp.Channels(0.5),
    jp.Channels(0.5, axis=0),
    jp.Channels(0.5, axis="output"),
    jp.Channels(0.5, reduce="mean"),
    jp.NM(2, 4),
    jp.NM(1, 4),
    jp.NM(2, 8),
    jp.NM(2, 4, axis=0),
    jp.NM(2, 4, axis=None),
    jp.Block(0.5, (2, 4)),
    jp.Block(0.5, (4, 2)),
    jp.Block(0.25, (2, 4)),
    jp.Block(0.5, (2, 4), reduce="l2"),
]
METRICS = [jp.L1(), jp.L2(), jp.TaylorProxy(), jp.LCG(0), jp.LCG(1)]
VALUES = SPECS + METRICS
ONE_OF_EACH = [
    jp.Unstructured(0.5),
    jp.Rows(0.5),
    jp.Columns(0.5),
    jp.Channels(0.5),
    jp.Block(0.5, (2, 4)),
]


def named(value):
    return type(value).__name__


# --- values -------------------------------------------------------------------------------------


def test_defaults():
    assert jp.Unstructured(0.5) == jp.Unstructured(0.5, per="leaf", min_nonzero=1)
    assert jp.Rows(0.5) == jp.Rows(0.5, reduce="sum", min_nonzero=1)
    assert jp.Columns(0.5) == jp.Columns(0.5, reduce="sum", min_nonzero=1)
    assert jp.Channels(0.5) == jp.Channels(0.5, axis=-1, reduce="sum", min_nonzero=1)
    assert jp.Block(0.5, (2, 4)) == jp.Block(0.5, (2, 4), reduce="sum", min_nonzero=1)
    assert jp.NM(2, 4) == jp.NM(2, 4, axis=-1)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(VALUES, 2)), ids=repr)
def test_two_that_differ_are_never_equal(one, other):
    assert one != other
    assert len({one, other}) == 2
    # By this jit looks its traces up. JAX 0.10 leaves the class of a registered dataclass out,
    # and then now and then runs the trace of the one for the other.
    ours, theirs = (jax.tree.flatten(value) for value in (one, other))
    assert ours != theirs


@pytest.mark.parametrize("value", VALUES, ids=repr)
class TestValue:
    def test_equals_its_copies(self, value):
        for again in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
            assert again == value
            assert type(again) is type(value)
        assert dataclasses.replace(value) == value

    def test_hashes_as_its_copies(self, value):
        assert hash(value) == hash(copy.deepcopy(value))
        assert {value: 1}[copy.deepcopy(value)] == 1

    def test_prints_as_it_is_written(self, value):
        names = {name: getattr(jp, name) for name in jp.__all__}
        assert eval(repr(value), names) == value

    def test_is_frozen(self, value):
        for field in [*dataclasses.fields(value)]:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, 0)

    def test_has_slots(self, value):
        assert not hasattr(value, "__dict__")
        with pytest.raises((AttributeError, TypeError)):
            object.__setattr__(value, "sparsty", 0.9)

    def test_is_no_tuple(self, value):
        assert not isinstance(value, tuple)

    def test_goes_through_a_pytree_and_back(self, value):
        leaves, structure = jax.tree.flatten(value)
        assert structure.unflatten(leaves) == value
        assert hash(structure) == hash(jax.tree.structure(copy.deepcopy(value)))

    def test_has_its_sparsity_and_nothing_else_as_data(self, value):
        # Of N:M, how many stay is what a schedule changes.
        data = {name: getattr(value, name, None) for name in ("sparsity", "n")}
        expected = {f".{name}": number for name, number in data.items() if number is not None}
        assert jax.tree.leaves(value) == list(expected.values())
        keys = [
            jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(value)
        ]
        assert keys == list(expected)


def test_a_key_is_data_of_its_metric():
    key = jax.random.key(0)
    assert jax.tree.leaves(jp.Random(key)) == [key]
    assert jax.tree.structure(jp.Random(key)) == jax.tree.structure(jp.Random(jax.random.key(1)))


# --- pytrees ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ONE_OF_EACH, ids=named)
def test_a_map_reaches_the_sparsity_alone(spec):
    halved = jax.tree.map(lambda s: s / 2, spec)
    assert halved == dataclasses.replace(spec, sparsity=0.25)


@pytest.mark.parametrize("spec", ONE_OF_EACH, ids=named)
@pytest.mark.parametrize(
    "stand_in",
    [None, object(), 7, "*", jax.ShapeDtypeStruct((), jnp.float32)],
    ids=lambda value: type(value).__name__,
)
def test_what_jax_puts_in_place_of_data_is_let_through(spec, stand_in):
    """JAX rebuilds specs of axes, shardings and descriptions, which must not be taken for data."""
    if stand_in in (7, "*"):
        with pytest.raises(jp.InvalidSparsity):
            dataclasses.replace(spec, sparsity=stand_in)
        return
    rebuilt = jax.tree.structure(spec).unflatten([stand_in])
    assert rebuilt.sparsity is stand_in


def test_sparsities_become_specs_by_a_map():
    params = {"a": jnp.ones((16, 16)), "b": jnp.ones((64, 64)), "bias": jnp.ones(4)}
    specs = jax.tree.map(jp.Rows, jp.allocate(params, 0.5, "uniform"))
    assert specs == {"a": jp.Rows(0.5), "b": jp.Rows(0.5), "bias": None}


def test_specs_go_into_jit_and_come_out():
    for spec in (*SPECS, {"a": jp.Rows(0.5), "b": jp.NM(2, 4)}):
        out = jax.jit(lambda s: s)(spec)
        assert jax.tree.structure(out) == jax.tree.structure(spec)
        chex.assert_trees_all_close(out, spec)


# --- sparsity is data ---------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ONE_OF_EACH, ids=named)
def test_a_hundred_sparsities_cost_one_trace(spec):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def kept(spec):
        return jp.make_mask(WEIGHTS, spec).sum()

    units = {"Unstructured": 128, "Rows": 8, "Columns": 16, "Channels": 16, "Block": 16}[
        named(spec)
    ]
    found = [int(kept(dataclasses.replace(spec, sparsity=s))) for s in HUNDRED]
    lost = [min(math.floor(np.float32(s) * np.float32(units)), units - 1) for s in HUNDRED]
    assert found == [128 - count * 128 // units for count in lost]


def test_jit_tells_specs_apart_by_class_and_by_static_field():
    traced = []

    @jax.jit
    def mask(spec):
        traced.append(spec)
        return jp.make_mask(WEIGHTS, spec)

    specs = [jp.NM(2, 4), jp.NM(1, 4), jp.NM(2, 4, axis=0), jp.Rows(0.5), jp.Columns(0.5)]
    for spec in specs + specs:
        chex.assert_trees_all_equal(mask(spec), jp.make_mask(WEIGHTS, spec))
    assert len(traced) == len(specs) - 1  # how many of m stay is data


def test_jit_tells_metrics_apart_by_class_and_by_static_field():
    scores = jax.jit(lambda metric: jp.importance(WEIGHTS, metric))
    for metric in METRICS + METRICS:
        chex.assert_trees_all_equal(scores(metric), jp.importance(WEIGHTS, metric))


@pytest.mark.parametrize("spec", ONE_OF_EACH, ids=named)
def test_vmap_over_a_spec_is_a_sensitivity_scan(spec):
    sparsities = jnp.array([0.0, 0.3, 0.5, 0.99])
    stacked = dataclasses.replace(spec, sparsity=sparsities)
    masks = jax.vmap(lambda s: jp.make_mask(WEIGHTS, s))(stacked)
    one_by_one = [jp.make_mask(WEIGHTS, dataclasses.replace(spec, sparsity=s)) for s in sparsities]
    chex.assert_trees_all_equal(masks, jnp.stack(one_by_one))


def test_vmap_over_sparsity_by_an_axis_in_the_spec():
    stacked = jp.Unstructured(jnp.array([0.25, 0.5]))
    axes = jax.tree.map(lambda _: 0, stacked)
    masks = jax.vmap(lambda s: jp.make_mask(WEIGHTS, s), in_axes=(axes,))(stacked)
    assert masks.sum((1, 2)).tolist() == [96, 64]


def test_a_schedule_feeds_a_tracer():
    def step(_, sparsity):
        return None, jp.make_mask(WEIGHTS, jp.Unstructured(sparsity)).sum()

    _, kept = jax.lax.scan(step, None, jnp.array([0.0, 0.25, 0.5]))
    assert kept.tolist() == [128, 96, 64]


def test_a_tree_and_a_mapping_of_specs_are_data_too():
    params = {"a": {"kernel": WEIGHTS}, "b": {"kernel": WEIGHTS}}
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=2)
    def kept(specs):
        return jax.tree.map(jnp.sum, jp.make_mask(params, specs))

    for s in (0.25, 0.5, 0.75):
        # JAX sorts the keys of a dict; an OrderedDict keeps the order of the rules.
        rules = OrderedDict([("b/*", jp.Unstructured(s)), ("*", s)])
        for specs in ({"a": s, "b": {"kernel": s}}, rules):
            expected = round(128 * (1 - s))
            assert kept(specs) == {"a": {"kernel": expected}, "b": {"kernel": expected}}


def test_the_float32_of_a_sparsity_decides_however_it_came():
    """0.29 * 100 is 28.999999999999996, and float32(0.29) * 100 is 29."""
    scores = jnp.arange(100.0)
    for sparsity in (0.29, np.float64(0.29), np.float32(0.29), jnp.float32(0.29), np.array(0.29)):
        assert int(jp.make_mask(scores, jp.Unstructured(sparsity)).sum()) == 71
        assert (
            int(jax.jit(lambda s: jp.make_mask(scores, s).sum())(jp.Unstructured(sparsity))) == 71
        )


def test_the_float32_of_a_sparsity_decides_under_x64_too(x64):
    with x64(True):
        scores = jnp.arange(100.0)
        for sparsity in (0.29, np.array(0.29), jnp.float64(0.29)):
            assert int(jp.make_mask(scores, jp.Unstructured(sparsity)).sum()) == 71


# --- more specs ---------------------------------------------------------------------------------


def test_a_class_becomes_a_spec_by_registering_it():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True, slots=True)
    class Last:
        """Prunes the last weights of a leaf, whatever they are."""

        sparsity: float

    @jp.extend.fit.register
    def _(spec: Last, leaf):
        small = leaf.value.size < 8
        return jp.extend.Problem(jp.InvalidPattern, f"{leaf.name} is small") if small else None

    @jp.extend.mask.register
    def _(spec: Last, scores):
        place = jnp.arange(scores.size).reshape(scores.shape)
        return place < scores.size - jnp.floor(spec.sparsity * scores.size)

    params = {"a": WEIGHTS, "b": WEIGHTS}
    assert int(jp.make_mask(WEIGHTS, Last(0.25)).sum()) == 96
    mask = jp.make_mask(params, {"a": Last(0.25), "b": jp.NM(2, 4)})
    assert [int(kept.sum()) for kept in jax.tree.leaves(mask)] == [96, 64]
    assert [row.prunes for row in jp.plan(params, Last(0.25)).rows] == [32, 32]
    with pytest.raises(jp.InvalidPattern, match="the array is small"):
        jp.make_mask(jnp.ones(4), Last(0.25))
    tx = jp.sparsify(optax.sgd(0.1), Last(0.5), schedule=jp.gradual(1, 2))
    state = tx.init(params)
    for sparsity in (0.0, 0.5):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
        assert float(jp.sparsities(state, params)["a"]) == sparsity
    loss = jp.sensitivity(lambda p: jnp.sum(p["a"] ** 2), params, [0.25], Last(0.0))
    assert loss.removed.tolist() == [[32], [32]]
