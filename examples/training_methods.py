"""Methods to train a sparse network, side by side: an MLP on scikit-learn's digits at 95 %.

`python -m benchmarks.proof` compares more methods, on more data, with several seeds.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxprune as jp

IMAGES, LABELS = (jnp.asarray(part, jnp.float32) for part in load_digits(return_X_y=True))
TRAIN, TEST = np.split(np.random.default_rng(0).permutation(len(LABELS)), [1400])
MODEL = nn.Sequential([nn.Dense(300), nn.relu, nn.Dense(100), nn.relu, nn.Dense(10)])


def train(params, tx, steps, forward=lambda params: params):
    """An ordinary Optax loop. The methods differ in `tx`, or in the weights of the forward pass."""

    def loss(params, batch):
        logits, labels = MODEL.apply(forward(params), IMAGES[batch] / 16), LABELS[batch].astype(int)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def run(params, batches):
        def step(carry, batch):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), batches)[0][0]

    return run(params, np.random.default_rng(0).choice(TRAIN, (steps, 64)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    part = max(steps // 10, 1)
    params, adam = MODEL.init(jax.random.key(0), IMAGES), optax.adam(2e-3)
    spec = jp.allocate(params, 0.95, "erk")  # small layers stay denser than large ones
    random = jp.make_mask(jp.importance(params, jp.Random(jax.random.key(1))), spec)

    def sparse(schedule, **how):
        tx = jp.sparsify(adam, spec, schedule=schedule, key=jax.random.key(2), **how)
        return train(params, tx, steps)

    dense = train(params, adam, steps)
    pruned, mask = jp.prune(dense, spec)
    often = max(part // 4, 1)
    moving = jp.constant(often, 7 * part, often)
    phases = jp.periodic(part, 7 * part, sparse=part, dense=part)
    through = train(params, adam, steps, lambda p: jp.straight_through(p, spec, decay=2e-4))
    results = {
        "dense": dense,
        "one-shot": pruned,
        "and fine-tuned": train(pruned, optax.chain(adam, jp.keep_mask(mask)), steps),
        "gradual": sparse(jp.gradual(part, 7 * part, often)),
        "static, random": sparse(moving, mask=random),
        "SET": sparse(moving, mask=random, rule=jp.sparse_evolution()),
        "RigL": sparse(moving, mask=random, rule=jp.rigl()),
        "AC/DC": sparse(phases, rule=jp.acdc()),
        "SR-STE": jp.prune(through, spec)[0],
    }
    for name, trained in results.items():
        correct = MODEL.apply(trained, IMAGES[TEST] / 16).argmax(-1) == LABELS[TEST]
        zeros = jp.report(trained).pruned.sparsity
        print(f"{name:16} {100 * correct.mean():6.2f} % correct, {zeros:6.2%} zeros")


if __name__ == "__main__":
    main()
