"""Flax NNX: a ConvNet pruned in one shot, by its weights alone and with 256 images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import jaxprune as jp

SPECS = {
    "60 %": jp.Unstructured(0.6, per="output"),
    "80 %": jp.Unstructured(0.8, per="output"),
    "2:4": jp.NM(2, 4, axis="input"),
}
METHODS = {
    "magnitude": jp.L1(),
    "Wanda": jp.Wanda,
    "Wanda, refitted": jp.Refit(jp.Wanda),
    "SparseGPT": jp.SparseGPT(),
}


class ConvNet(nnx.Module):
    def __init__(self, rngs):
        self.one = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.two = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(512, 10, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.two(nnx.relu(self.one(images[..., None]))))
        return self.head(x.reshape(len(x), -1))


@nnx.jit
def update(net, optimizer, images, labels):
    def loss(net):
        return optax.softmax_cross_entropy_with_integer_labels(net(images), labels).mean()

    optimizer.update(net, nnx.grad(loss)(net))


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images.reshape(-1, 8, 8) / 16, jnp.float32), jnp.asarray(labels)
    net, rng = ConvNet(nnx.Rngs(0)), np.random.default_rng(0)
    optimizer = nnx.Optimizer(net, optax.adam(3e-3), wrt=nnx.Param)
    for _ in range(300):
        batch = rng.integers(0, 1400, 128)
        update(net, optimizer, images[batch], labels[batch])

    graph, params = nnx.split(net)

    def forward(params, images):  # all that pruning has to know of the model
        return nnx.merge(graph, params)(images)

    @jax.jit
    def accuracy(params):
        return jnp.mean(forward(params, images[1400:]).argmax(-1) == labels[1400:])

    batches = [(images[k : k + 64],) for k in range(0, 256, 64)]
    # The first kernel sees one channel: its nine inputs are no whole groups of four.
    where = ["two/kernel", "head/kernel"]
    print(f"{'dense':16} {accuracy(params):.1%}")
    for name, spec in SPECS.items():
        for how, method in METHODS.items():
            pruned, _ = jp.prune_with_data(
                forward, params, batches, spec, method=method, where=where
            )
            print(f"{how:16} {accuracy(pruned):.1%} at {name}")


if __name__ == "__main__":
    main()
