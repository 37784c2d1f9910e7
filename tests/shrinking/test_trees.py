"""Trees like the parameters are cut as these are: states, averages, masks, boxes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import jaxprune as jp
from tests.shrinking.small import PARAMS, X, deps, model

CUT = jp.Cut({"embed": (0, 2, 3), "up": (1, 4, 5, 6)})


def shapes(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def small_state(tx):
    """A state cut, and one begun with the small parameters: they look alike."""
    state = tx.init(PARAMS)
    _, state = jax.jit(tx.update)(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
    cut = deps().shrink(state, CUT)
    return cut, tx.init(deps().shrink(PARAMS, CUT))


def label(params):
    return jax.tree.map(lambda leaf: "matrix" if leaf.ndim == 2 else "vector", params)


@pytest.mark.parametrize(
    "tx",
    [
        optax.adamw(1e-3),
        optax.lion(1e-3),
        optax.sgd(0.1, momentum=0.9),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3), optax.ema(0.9)),
        optax.masked(optax.adam(1e-3), lambda p: jax.tree.map(lambda leaf: leaf.ndim == 2, p)),
        optax.partition({"matrix": optax.adam(1e-3), "vector": optax.sgd(0.1, 0.9)}, label),
        optax.MultiSteps(optax.adam(1e-3), 2),
        optax.contrib.muon(1e-3),
    ],
    ids=["adamw", "lion", "sgd", "chain", "masked", "partition", "MultiSteps", "muon"],
)
def test_states_of(tx):
    cut, begun = small_state(tx)
    assert shapes(cut) == shapes(begun)
    assert jax.tree.structure(cut) == jax.tree.structure(begun)


def test_a_history_of_updates():
    tx = optax.lbfgs(memory_size=3)
    state = tx.init(PARAMS)
    assert shapes(deps().shrink(state, CUT)) == shapes(tx.init(deps().shrink(PARAMS, CUT)))


@pytest.mark.parametrize(
    "tx",
    [optax.adafactor(1e-3, min_dim_size_to_factor=2), optax.sm3(1e-3)],
    ids=["adafactor", "sm3"],
)
def test_factored_statistics_are_refused_in_words(tx):
    with pytest.raises(jp.StructureMismatch, match="a factored statistic cannot be cut: init"):
        deps().shrink(tx.init(PARAMS), CUT)


def test_several_statistics_of_a_leaf_that_is_gone_are_refused():
    with pytest.raises(jp.StructureMismatch, match="stands below `down/kernel`, which is gone as"):
        deps().shrink(optax.sm3(1e-3).init(PARAMS), jp.Cut({"down:branch": ()}))


def test_what_is_not_factored_is_cut():
    # No matrix here is large enough for Adafactor to factor it.
    assert shapes(small_state(optax.adafactor(1e-3))[0]) == shapes(
        optax.adafactor(1e-3).init(deps().shrink(PARAMS, CUT))
    )
    rows, *rest = optax.adafactor(1e-3, min_dim_size_to_factor=2).init(PARAMS)
    kept = deps().shrink([rows._replace(v_row=None, v_col=None), *rest], CUT)
    assert kept[0].v["up"]["bias"].shape == (4,)


def test_several_statistics_of_one_leaf_below_its_path():
    moments = {"up": {"kernel": {"mean": PARAMS["up"]["kernel"], "count": jnp.ones(())}}}
    small = deps().shrink({"moments": moments}, CUT)
    assert shapes(small) == {"moments/up/kernel/mean": (3, 4), "moments/up/kernel/count": ()}


def test_a_checkpoint_of_what_is_small_and_of_its_state(tmp_path):
    x, tx = X, optax.adam(1e-2)
    found = deps()
    blocks = jp.Cut({"down:branch": ()})
    for number, cut in enumerate((CUT, CUT | blocks)):
        small, faster = found.shrink(PARAMS, cut), found.function(cut)
        state = found.shrink(tx.init(PARAMS), cut)

        @jax.jit
        def step(params, state, faster=faster):
            slopes = jax.grad(lambda p: jnp.sum(faster(p, x) ** 2))(params)
            updates, state = tx.update(slopes, state, params)
            return optax.apply_updates(params, updates), state

        there = step(small, state)
        like = jax.eval_shape(lambda: (small, tx.init(small)))  # noqa: B023
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / str(number), there)
            checkpointer.wait_until_finished()
            again = checkpointer.restore(tmp_path / str(number), like)
        chex.assert_trees_all_equal(step(*there), step(*again))


def test_what_is_cut_holds_what_stays():
    small = deps().shrink(PARAMS, CUT)
    np.testing.assert_array_equal(small["up"]["bias"], PARAMS["up"]["bias"][np.array([1, 4, 5, 6])])
    expected = PARAMS["down"]["kernel"][np.array([1, 4, 5, 6])][:, np.array([0, 2, 3])]
    np.testing.assert_array_equal(small["down"]["kernel"], expected)
    assert deps().sizes(CUT) == shapes(small)


def test_types_and_dtypes_stay():
    def numbered(leaf):
        return np.asarray(leaf).astype(np.float16)

    for tree in (jax.tree.map(numbered, PARAMS), jax.eval_shape(lambda: PARAMS)):
        small = deps().shrink(tree, CUT)
        for leaf, of in zip(jax.tree.leaves(small), jax.tree.leaves(tree), strict=True):
            assert type(leaf) is type(of)
            assert leaf.dtype == of.dtype
        assert shapes(small) == shapes(deps().shrink(PARAMS, CUT))


def test_a_part_of_the_tree_and_masks_are_cut_by_their_paths():
    part = deps().shrink({"state": {"up": PARAMS["up"]}, "step": jnp.arange(3)}, CUT)
    assert shapes(part) == {"state/up/bias": (4,), "state/up/kernel": (3, 4), "step": (3,)}
    mask = jp.make_mask(PARAMS, 0.5)
    assert shapes(deps().shrink(mask, CUT))["down/kernel"] == (4, 3)


def test_boxes_of_nnx():
    graph, params = nnx.split(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Param)
    boxed = {"one": params, "two": jnp.ones((4, 2))}
    found = jp.dependencies(lambda p, x: nnx.merge(graph, p["one"])(x) @ p["two"], boxed, X)
    small = found.shrink(boxed, found.choose(boxed, 0.5))
    assert type(small["one"]) is type(params)
    assert type(small["one"]["kernel"]) is nnx.Param
    assert small["one"]["kernel"].shape == (3, 2)


def test_where_it_lies_on_devices():
    mesh = jax.make_mesh((2,), ("data",))
    spread = jax.NamedSharding(mesh, jax.P(None, "data"))
    laid = jax.tree.map(lambda x: jax.device_put(x, spread) if x.ndim == 2 else x, PARAMS)
    small = deps().shrink(laid, CUT)
    mask = deps().mask(laid, CUT)["up"]["kernel"]
    assert mask.sharding.is_equivalent_to(spread, 2)
    assert small["up"]["kernel"].sharding.is_equivalent_to(spread, 2)
    whole = jax.NamedSharding(mesh, jax.P())
    assert small["down"]["kernel"].sharding.is_equivalent_to(whole, 2)  # 3 columns for 2 devices


def test_what_is_cut_already_is_refused():
    small = deps().shrink(PARAMS, CUT)
    with pytest.raises(jp.StructureMismatch, match=r"`up/bias` has shape \(4,\)"):
        deps().shrink(small, CUT)


def test_a_path_that_fits_several_is_refused():
    def f(params, x):
        for name in ("one", "two"):
            x = jax.nn.relu(x @ params[name]["up"]["kernel"]) @ params[name]["down"]
        return x

    layer = {"up": {"kernel": jnp.ones((3, 4))}, "down": jnp.ones((4, 3))}
    params = {"one": layer, "two": layer}
    found = jp.dependencies(f, params, X)
    cut = jp.Cut({"one/up": (0, 1), "two/up": (2, 3)})
    with pytest.raises(jp.StructureMismatch, match="could be cut as `one/up/kernel` and `two/up"):
        found.shrink({"up": {"kernel": jnp.ones((3, 4))}}, cut)


def test_a_mask_keeps_what_is_not_cut():
    mask = deps().mask(PARAMS, CUT)
    assert mask["up"]["bias"].tolist() == [k in (1, 4, 5, 6) for k in range(8)]
    pruned = jp.apply_mask(PARAMS, mask)
    small = deps().function(CUT)(deps().shrink(PARAMS, CUT), X)
    np.testing.assert_allclose(small, model(pruned, X), rtol=1e-5)
    assert deps().cut_of(mask) == deps().cut_of(pruned) == CUT


def test_a_cut_is_saved_and_loaded(tmp_path):
    CUT.save(tmp_path / "cut.json")
    assert jp.Cut.load(tmp_path / "cut.json") == CUT
    assert jp.Cut.from_json(CUT.to_json()) == CUT
