"""Measure how much pruning each layer tolerates, and share out one budget accordingly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import jaxprune as jp

MODEL = nn.Sequential([nn.Dense(256), nn.relu, nn.Dense(64), nn.relu, nn.Dense(10)])


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)

    def loss(params, batch):
        logits = MODEL.apply(params, images[batch])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    @jax.jit
    def train(params, batches):
        def step(carry, batch):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), batches)[0][0]

    tx = optax.adam(3e-3)
    start = MODEL.init(jax.random.key(0), images[:1])
    params = train(start, np.random.default_rng(0).integers(0, 1400, (300, 128)))

    # One layer at a time, at every sparsity, on the training images: one compiled program.
    sparsities = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98]
    measured = jp.sensitivity(lambda p: loss(p, np.arange(1400)), params, sparsities)
    print(measured)

    print("\nheld-out loss after one-shot pruning\n\nsparsity   equal     ERK  measured")
    for sparsity in (0.6, 0.7, 0.8, 0.9):
        losses = []
        for method in ("uniform", "erk", measured):
            pruned, _ = jp.prune(params, jp.allocate(params, sparsity, method))
            losses.append(float(loss(pruned, np.arange(1400, len(labels)))))
        print("{:8} {:7.3f} {:7.3f} {:9.3f}".format(sparsity, *losses))


if __name__ == "__main__":
    main()
