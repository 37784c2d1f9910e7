"""Lottery tickets: prune a trained network, rewind it in one of three ways, and train it again."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxprune as jp

SIZES, STEPS, ROUNDS = (64, 128, 64, 10), 200, 4


def start():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = itertools.pairwise(SIZES)
    return [
        {"kernel": jax.nn.initializers.he_normal()(key, shape), "bias": jnp.zeros(shape[1])}
        for key, shape in zip(keys, shapes, strict=True)
    ]


def logits(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    batches = jnp.asarray(np.random.default_rng(0).integers(0, 1400, (STEPS, 128)))

    def loss(params, batch):
        outputs = logits(params, images[batch])
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels[batch]).mean()

    @jax.jit
    def train_between(params, mask, begin, end):
        # The number of the update sets the batch and the learning rate, so rewinding repeats both.
        rate = optax.cosine_decay_schedule(3e-3, STEPS)
        tx = optax.chain(optax.adam(lambda count: rate(begin + count)), jp.keep_mask(mask))

        def update(i, carry):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, batches[i]), state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(begin, end, update, (params, tx.init(params)))[0]

    def train(params, mask, steps):
        return train_between(params, mask, steps.start, steps.stop)

    ways = {
        "to the initial weights": {},
        "to the weights after update 20": {"to": 20},
        "only the learning rate": {"to": 20, "rewind": "rate"},
    }
    for name, how in ways.items():
        print(f"rewound: {name}")
        for ticket in jp.lottery_tickets(train, start(), 0.95, steps=STEPS, rounds=ROUNDS, **how):
            correct = logits(ticket.trained, images[1400:]).argmax(-1) == labels[1400:]
            kept = jp.report(ticket.params, ticket.mask).pruned.density
            print(f"  round {ticket.round}: {kept:6.1%} kept, {correct.mean():.1%} correct")


if __name__ == "__main__":
    main()
