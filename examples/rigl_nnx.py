"""Flax NNX: a network that is 95 % sparse from the first update on, by three methods."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import jaxprune as jp

STEPS, MOVES = 400, jp.constant(begin=0, end=300, every=25)
METHODS = {
    "static, random": {"metric": jp.Random(jax.random.key(1)), "schedule": jp.one_shot()},
    "SET": {"rule": jp.sparse_evolution(), "schedule": MOVES, "key": jax.random.key(2)},
    "RigL": {"rule": jp.rigl(decay=0.9), "schedule": MOVES},
}


class Net(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(64, 300, rngs=rngs)
        self.across = nnx.Linear(300, 100, rngs=rngs)
        self.down = nnx.Linear(100, 10, rngs=rngs)

    def __call__(self, images):
        return self.down(nnx.relu(self.across(nnx.relu(self.up(images)))))


@nnx.jit
def update(net, optimizer, images, labels):
    def loss(net):
        return optax.softmax_cross_entropy_with_integer_labels(net(images), labels).mean()

    optimizer.update(net, nnx.grad(loss)(net))


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    test = slice(1400, None)

    for name, how in METHODS.items():
        net = Net(nnx.Rngs(0))
        # 95 % in total, shared out by the layers' shapes: the small last layer stays denser.
        spec = jp.allocate(nnx.state(net, nnx.Param), 0.95, "erk")
        optimizer = nnx.Optimizer(net, jp.sparsify(optax.adam(3e-3), spec, **how), wrt=nnx.Param)

        rng, trained = np.random.default_rng(0), False
        for _ in range(STEPS):
            batch = rng.integers(0, 1400, 128)
            update(net, optimizer, images[batch], labels[batch])
            trained |= np.asarray(net.up.kernel[...]) != 0
        accuracy = jnp.mean(net(images[test]).argmax(-1) == labels[test])
        print(f"{name:15} {accuracy:.1%} correct; ", end="")
        print(f"{trained.mean():.1%} of the first layer's weights were trained at some time")

    sparsities = jp.sparsities(optimizer.opt_state, nnx.state(net, nnx.Param))
    for name in ("up", "across", "down"):
        print(f"{name:15} {sparsities[name].kernel[...]:.2%} pruned throughout")


if __name__ == "__main__":
    main()
