"""Sparse training of parameters that are spread over devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp
from tests.training.model import DATA, PARAMS, kernels, loss


def trained(step, params, state, grads):
    for g in grads:
        updates, state = step(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
def test_sharded_parameters(axis_type):
    mesh = jax.make_mesh((4, 2), ("a", "b"), (axis_type,) * 2)
    specs = {"kernel": P("a", "b"), "bias": P()}
    spread = {
        name: {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in layer.items()}
        for name, layer in PARAMS.items()
    }
    tx = jp.sparsify(optax.adam(0.05), 0.75, schedule=jp.constant(2, 8, 3), rule=jp.rigl())
    grads = [jax.grad(loss)(PARAMS, x) for x in DATA[:6]]  # of one device: the same bits
    _, alone_state = trained(jax.jit(tx.update), PARAMS, tx.init(PARAMS), grads)
    with jax.set_mesh(mesh):
        step, state = jax.jit(tx.update), tx.init(spread)
        here = [jax.tree.map(lambda x, w: jax.device_put(x, w.sharding), g, spread) for g in grads]
        assert "all-gather" not in step.lower(here[0], state, spread).compile().as_text()
        params, state = trained(step, spread, state, here)
    chex.assert_trees_all_equal(
        kernels(jp.current(state).mask), kernels(jp.current(alone_state).mask)
    )
    kernel = params["down"]["kernel"]
    assert jp.current(state).mask["down"]["kernel"].sharding.is_equivalent_to(kernel.sharding, 2)


SPECS = {
    "leaf": jp.Unstructured(0.5),
    "axis": jp.Unstructured(0.5, per=-1),
    "rows": jp.Rows(0.5),
    "columns": jp.Columns(0.5),
    "channels": jp.Channels(0.5),
    "block": jp.Block(0.5, (16, 4)),
    "n_of_m": jp.NM(2, 4, axis=0),
    "flat": jp.NM(2, 4, axis=None),
}


@pytest.mark.parametrize("rule", [jp.Rule(), jp.rigl()], ids=["only go", "rigl"])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
def test_every_spec_of_spread_parameters(axis_type, rule):
    # Integers, whose sums are exact in any order.
    weights = jnp.asarray(np.random.default_rng(3).permutation(64 * 64), jnp.float32)
    alone = {name: {"kernel": jnp.roll(weights, i).reshape(64, 64)} for i, name in enumerate(SPECS)}
    expected = jp.prune(alone, SPECS)[1]
    mesh = jax.make_mesh((8,), ("d",), (axis_type,))
    tx = jp.sparsify(optax.sgd(0.1), SPECS, schedule=jp.one_shot(1), rule=rule)
    with jax.set_mesh(mesh):
        spread = jax.device_put(alone, NamedSharding(mesh, P("d")))
        _, state = jax.jit(tx.update)(spread, tx.init(spread), spread)
        for name, layer in state.mask.items():
            np.testing.assert_array_equal(layer["kernel"], expected[name]["kernel"])
            like = spread[name]["kernel"].sharding
            assert layer["kernel"].sharding.is_equivalent_to(like, 2)
