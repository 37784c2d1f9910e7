"""Equinox: alternating sparse and dense phases (AC/DC), compiled once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxprune as jp

STEPS = 400


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    test = slice(1400, None)

    net = eqx.nn.MLP(64, 10, width_size=128, depth=2, key=jax.random.key(0))
    params, static = eqx.partition(net, eqx.is_inexact_array)
    schedule = jp.periodic(begin=50, end=300, sparse=50, dense=50)
    spec = jp.Unstructured(0.9, per="global")
    tx = jp.sparsify(optax.adam(3e-3), spec, schedule=schedule, rule=jp.acdc(), steps=STEPS)

    @jax.jit
    def update(params, state, images, labels):
        def loss(params):
            logits = jax.vmap(eqx.combine(params, static))(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, rng = tx.init(params), np.random.default_rng(0)
    for step in range(1, STEPS + 1):
        batch = rng.integers(0, 1400, 128)
        params, state = update(params, state, images[batch], labels[batch])
        if step % 25 == 0:
            logits = jax.vmap(eqx.combine(params, static))(images[test])
            accuracy = jnp.mean(logits.argmax(-1) == labels[test])
            kept = jp.report(params, jp.current(state).mask).pruned.density
            print(f"after {step:3} updates: {accuracy:.1%}  |{'#' * round(40 * kept):40}| kept")


if __name__ == "__main__":
    main()
