"""The model, the data and the optimizers that the tests of training share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

RNG = np.random.default_rng(0)


PARAMS = {
    "down": {"bias": jnp.zeros(12), "kernel": jnp.asarray(RNG.normal(size=(16, 12)), jnp.float32)},
    "up": {"bias": jnp.zeros(8), "kernel": jnp.asarray(RNG.normal(size=(12, 8)), jnp.float32)},
}


DATA = jnp.asarray(RNG.normal(size=(40, 5, 16)), jnp.float32)


def loss(params, x):
    hidden = jnp.tanh(x @ params["down"]["kernel"] + params["down"]["bias"])
    return jnp.mean((hidden @ params["up"]["kernel"] + params["up"]["bias"] - 1) ** 2)


def fit(tx, steps=14, params=PARAMS, loss=loss):
    """Trains, and yields what there is after every update; one compilation for all of them."""
    state = tx.init(params)
    traces = []

    @jax.jit
    def step(params, state, x):
        traces.append(1)
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    for count in range(1, steps + 1):
        params, state = step(params, state, DATA[count - 1])
        yield count, params, state
    assert len(traces) == 1


def kernels(tree):
    return {name: np.asarray(tree[name]["kernel"]) for name in ("down", "up")}


def zeros(params):
    return {name: int((kernel == 0).sum()) for name, kernel in kernels(params).items()}


def lost(sparsity, size):
    return int(np.floor(np.float32(sparsity) * np.float32(size)))


class SlowState(NamedTuple):
    memory: optax.Params


def homemade():
    """A transformation that no library knows: a momentum that starts at one."""

    def init(params):
        return SlowState(jax.tree.map(jnp.ones_like, params))

    def update(updates, state, params=None):
        del params
        memory = jax.tree.map(lambda m, g: 0.5 * m + g, state.memory, updates)
        return jax.tree.map(lambda m: -0.05 * m, memory), SlowState(memory)

    return optax.GradientTransformation(init, update)


def labels(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)


OPTIMIZERS = {
    "momentum": optax.sgd(0.05, momentum=0.9),
    "adam": optax.adam(0.02),
    "adamw": optax.adamw(0.02, weight_decay=0.1),
    "lion": optax.lion(0.005),
    "rmsprop": optax.rmsprop(0.01),
    "adagrad": optax.adagrad(0.05),
    "adafactor": optax.adafactor(0.02, min_dim_size_to_factor=2),
    "MultiSteps": optax.MultiSteps(optax.adam(0.02), 2),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(learning_rate=0.02),
    "masked": optax.masked(
        optax.adam(0.02), lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    ),
    "partition": optax.partition({"kernel": optax.adam(0.02), "bias": optax.sgd(0.02)}, labels),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.02)),
    "schedule-free": optax.contrib.schedule_free_adamw(0.02),
    "homemade": homemade(),
}


every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


GRADUAL = jp.gradual(begin=3, end=11, every=4)


ONE = jp.sparsify(optax.sgd(0.1), 0.5, schedule=jp.one_shot())


TX = jp.sparsify(optax.adam(0.05), 0.75, schedule=GRADUAL)


def plainly(steps=14):
    return list(fit(TX, steps))[-1]
