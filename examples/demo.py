"""Real digits: a ConvNet trained, pruned in three ways at once and gradually, drawn and saved."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, traverse_util
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from tqdm import tqdm

import jaxprune as jp

WAYS = {
    "unstructured": [jp.Unstructured(sparsity) for sparsity in (0.5, 0.8, 0.9, 0.95)],
    "channels": [jp.Channels(sparsity) for sparsity in (0.25, 0.5, 0.75)],
    "2:4": [jp.NM(2, 4, axis="input")],
}


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.up, self.head = nnx.Linear(512, 64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv2(nnx.relu(self.conv1(x))))
        return self.head(nnx.relu(self.up(x.reshape(len(x), -1))))


def main():
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images.reshape(-1, 8, 8, 1) / 16, jnp.float32), jnp.asarray(labels)
    graph, start = nnx.split(Net(nnx.Rngs(0)))

    def loss(params, batch):
        logits = nnx.merge(graph, params)(x[batch])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

    def train(params, tx, steps, what):
        @jax.jit
        def update(params, state, batch):
            updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
            return optax.apply_updates(params, updates), state

        state, rng = tx.init(params), np.random.default_rng(1)
        for _ in tqdm(range(steps), what, leave=False, disable=None):
            params, state = update(params, state, rng.integers(0, 1400, 128))
        return params

    right = jax.jit(lambda p: jnp.mean(nnx.merge(graph, p)(x[1400:]).argmax(-1) == y[1400:]))
    dense = train(start, optax.adam(1e-3), 300, "training")
    print(f"A ConvNet of {jp.report(dense).all.total:,} parameters: {right(dense):.1%} right.")
    print("\npattern       zeros  one-shot  gradual")
    ax = plt.figure(figsize=(6.4, 4), layout="constrained").subplots()
    for name, specs in WAYS.items():
        found = []
        for spec in specs:
            rules = {"conv1": None, "head": None, "*": spec}  # first and last layer stay dense
            once, _ = jp.prune(dense, rules)
            tx = jp.sparsify(optax.adam(1e-3), rules, schedule=jp.gradual(0, 150, 15))
            slowly = train(dense, tx, 200, f"{name}, gradually")
            found.append((jp.report(once).all.sparsity, right(once), right(slowly)))
            print("{:12} {:6.1%} {:9.1%} {:8.1%}".format(name, *found[-1]))
        zeros, *both = np.array(found).T
        ax.plot(zeros, np.array(both).T, "o-", label=[f"{name}, one-shot", f"{name}, gradual"])
    ax.set(xlabel="zeros among all parameters", ylabel="right, of 397 test images")
    ax.legend()
    os.makedirs("demo", exist_ok=True)
    ax.figure.savefig("demo/accuracy.png", dpi=150)
    np.savez("demo/net.npz", **traverse_util.flatten_dict(nnx.to_pure_dict(dense), sep="/"))
    print("\nSaved: demo/net.npz, the dense network, and demo/accuracy.png.")


if __name__ == "__main__":
    main()
