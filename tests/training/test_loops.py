"""Training loops of every kind: scan, TrainState, NNX, Equinox, boxes, accumulation."""

import functools

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

import jaxprune as jp
from tests.training.model import DATA, GRADUAL, PARAMS, TX, fit, kernels, loss, plainly, zeros


def test_scan_over_steps():
    @jax.jit
    def train(params):
        def step(carry, x):
            params, state = carry
            updates, state = TX.update(jax.grad(loss)(params, x), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, TX.init(params)), DATA[:14])[0]

    params, state = train(PARAMS)
    _, expected, _ = plainly()
    chex.assert_trees_all_close(params, expected, rtol=1e-5)
    assert zeros(params) == zeros(expected)
    assert int(jp.current(state).count) == 14


def test_a_train_state():
    state = TrainState.create(apply_fn=None, params=PARAMS, tx=TX)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, x):
        return state.apply_gradients(grads=jax.grad(loss)(state.params, x))

    state = jax.tree.map(jnp.copy, state)
    for x in DATA[:14]:
        state = step(state, x)
    assert zeros(state.params) == zeros(plainly()[1])
    assert int(jp.current(state.opt_state).count) == 14


def test_an_nnx_optimizer():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.down, self.up = nnx.Linear(16, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)

        def __call__(self, x):
            return self.up(jnp.tanh(self.down(x)))

    for rule in (jp.Rule(), jp.rigl()):
        tx = jp.sparsify(optax.adam(0.05), jp.Unstructured(0.75), schedule=GRADUAL, rule=rule)
        model = Net(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x):
            grads = nnx.grad(lambda model: jnp.mean((model(x) - 1) ** 2))(model)
            optimizer.update(model, grads)

        for x in DATA[:14]:
            step(model, optimizer, x)
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        found = zeros(params)
        assert found == {"down": 144, "up": 72}
        assert int(np.asarray(jax.tree.leaves(jp.current(optimizer.opt_state).count)[0])) == 14
    moving = optax.chain(tx, optax.scale(0.5))
    optimizer = nnx.Optimizer(model, moving, wrt=nnx.Param)
    for x in DATA[:9]:
        step(model, optimizer, x)
    with pytest.warns(UserWarning, match="sparsify must be the outermost transformation"):
        jp.current(optimizer.opt_state)


def test_an_equinox_module():
    model = eqx.nn.MLP(16, 8, 12, 1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, x):
        return jnp.mean((jax.vmap(eqx.combine(params, static))(x) - 1) ** 2)

    *_, (_, params, _) = fit(TX, params=params, loss=loss)
    assert int((params.layers[0].weight == 0).sum()) == 144
    assert int((params.layers[1].weight == 0).sum()) == 72


def test_boxed_parameters():
    model = nn.Dense(
        8, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
    )
    params = model.init(jax.random.key(0), DATA[0])["params"]
    *_, (_, params, _) = fit(
        TX, params=params, loss=lambda p, x: jnp.mean((model.apply({"params": p}, x) - 1) ** 2)
    )
    assert int((params["kernel"].value == 0).sum()) == 96


@pytest.mark.parametrize("outside", [False, True], ids=["sparsify outside", "MultiSteps outside"])
def test_gradient_accumulation_both_ways_round(outside):
    if outside:
        tx = optax.MultiSteps(jp.sparsify(optax.adam(0.05), 0.75, schedule=jp.gradual(1, 4)), 3)
    else:
        tx = jp.sparsify(optax.MultiSteps(optax.adam(0.05), 3), 0.75, schedule=GRADUAL)
    for _, params, state in fit(tx, 14):
        for leaf, mask in kernels(jp.current(state).mask).items():
            assert (kernels(params)[leaf][~mask] == 0).all()
    assert zeros(params) == {"down": 144, "up": 72}
    assert int(jp.current(state).count) == (4 if outside else 14)
