"""Prune a trained network once, then fine-tune it with a fixed mask."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxprune as jp

STEPS = 200


def start():
    keys = jax.random.split(jax.random.key(0))
    he = jax.nn.initializers.he_normal()
    return {"up": {"kernel": he(keys[0], (64, 256))}, "down": {"kernel": he(keys[1], (256, 10))}}


def logits(params, x):
    return jax.nn.relu(x @ params["up"]["kernel"]) @ params["down"]["kernel"]


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)

    def loss(params, batch):
        outputs = logits(params, images[batch])
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels[batch]).mean()

    def train(params, tx):
        @jax.jit
        def update(params, state, batch):
            updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
            return optax.apply_updates(params, updates), state

        state, rng = tx.init(params), np.random.default_rng(0)
        for _ in range(STEPS):
            params, state = update(params, state, rng.integers(0, 1400, 128))
        return params

    def accuracy(params):
        return float(jnp.mean(logits(params, images[1400:]).argmax(-1) == labels[1400:]))

    adam = optax.adam(3e-3)
    dense = train(start(), adam)
    print(f"dense: {accuracy(dense):.1%}\n\nat 95 % zeros     pruned  fine-tuned")

    def fisher(example):
        return jp.importance(dense, jp.Fisher(jax.grad(loss)(dense, example[None])))

    per_image = jax.jit(jax.vmap(fisher))(np.arange(1400))
    by_magnitude = jp.importance(dense, jp.L1())
    by_fisher = jax.tree.map(lambda scores: scores.mean(0), per_image)
    per_leaf, shared = jp.Unstructured(0.95), jp.Unstructured(0.95, per="global")
    ways = {
        "L1, per leaf": (by_magnitude, per_leaf),
        "L1, global": (by_magnitude, shared),
        "Fisher, per leaf": (by_fisher, per_leaf),
        "Fisher, global": (by_fisher, shared),
    }
    for name, (scores, spec) in ways.items():
        mask = jp.make_mask(scores, spec)
        pruned = jp.apply_mask(dense, mask)
        tuned = train(pruned, optax.chain(adam, jp.keep_mask(mask)))
        assert jp.report(tuned, mask).stray == 0  # every pruned weight is still zero
        print(f"{name:16} {accuracy(pruned):7.1%} {accuracy(tuned):11.1%}")
    print("\nMagnitudes are not comparable between layers; Fisher scores are.")


if __name__ == "__main__":
    main()
