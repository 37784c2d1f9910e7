"""Flax Linen: a TrainState whose optimizer prunes gradually, to 90 %, while it trains."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits

import jaxprune as jp

STEPS = 300


class Net(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Dense(128)(images))
        return nn.Dense(10)(nn.relu(nn.Dense(64)(hidden)))


@jax.jit
def update(state, images, labels):
    def loss(params):
        logits = state.apply_fn({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    test = slice(1400, None)

    schedule = jp.gradual(begin=50, end=250, every=25)
    print(schedule, "\n")
    tx = jp.sparsify(optax.adam(3e-3), 0.9, schedule=schedule, steps=STEPS)  # the one changed line
    net = Net()
    params = net.init(jax.random.key(0), images[:1])["params"]
    state = TrainState.create(apply_fn=net.apply, params=params, tx=tx)

    rng = np.random.default_rng(0)
    print("updates  sparsity  accuracy")
    for step in range(1, STEPS + 1):
        batch = rng.integers(0, 1400, 128)
        state = update(state, images[batch], labels[batch])
        if step % 50 == 0:
            logits = net.apply({"params": state.params}, images[test])
            accuracy = jnp.mean(logits.argmax(-1) == labels[test])
            achieved = jp.report(state.params, jp.current(state.opt_state).mask).pruned.sparsity
            print(f"{step:7}  {achieved:8.1%}  {accuracy:8.1%}")

    print("\n", jp.report(state.params, jp.current(state.opt_state).mask), sep="")


if __name__ == "__main__":
    main()
