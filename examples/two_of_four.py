"""2:4 in one shot, and by training with a sparse forward pass (STE, SR-STE)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxprune as jp

STEPS, SPEC = 300, jp.NM(2, 4, axis="input")  # groups along the inputs, for sparse tensor cores


def start():
    keys = jax.random.split(jax.random.key(0))
    he = jax.nn.initializers.he_normal()
    return {"up": {"kernel": he(keys[0], (64, 32))}, "down": {"kernel": he(keys[1], (32, 10))}}


def logits(params, x):
    return jax.nn.relu(x @ params["up"]["kernel"]) @ params["down"]["kernel"]


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    batches = jnp.asarray(np.random.default_rng(0).integers(0, 1400, (STEPS, 128)))
    tx = optax.adam(3e-3)

    def train(forward):
        """Trains dense weights; the forward pass uses `forward(params)`."""

        def loss(params, batch):
            outputs = logits(forward(params), images[batch])
            return optax.softmax_cross_entropy_with_integer_labels(outputs, labels[batch]).mean()

        def update(carry, batch):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(update, (start(), tx.init(start())), batches)[0][0]

    ways = {
        "dense, pruned at the end": lambda params: params,
        "STE": lambda params: jp.straight_through(params, SPEC),
        "SR-STE": lambda params: jp.straight_through(params, SPEC, decay=2e-4),
    }
    for name, forward in ways.items():
        trained = jax.jit(train, static_argnums=0)(forward)
        pruned, _ = jp.prune(trained, SPEC)
        patterns = {row.pattern for row in jp.report(pruned).rows}
        dense, sparse = (
            jnp.mean(logits(params, images[1400:]).argmax(-1) == labels[1400:])
            for params in (trained, pruned)
        )
        print(f"{name:25} {dense:.1%} correct, {sparse:.1%} when pruned to {patterns}")


if __name__ == "__main__":
    main()
