"""A ConvNet on scikit-learn's digits: pruned to three patterns, and cut to half its work."""

import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, traverse_util
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from tqdm import tqdm

import jaxprune as jp

PATTERNS = {
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
    print(f"A ConvNet of {jp.report(dense).all.total:,} parameters: {right(dense):.1%} correct.")
    print("\npattern       zeros  one-shot  gradual")
    results = {}
    for name, specs in PATTERNS.items():
        rows = []
        for spec in specs:
            rules = {"conv1": None, "head": None, "*": spec}  # first and last layer stay dense
            once, _ = jp.prune(dense, rules)
            tx = jp.sparsify(optax.adam(1e-3), rules, schedule=jp.gradual(0, 150, 15))
            slowly = train(dense, tx, 200, f"{name}, gradually")
            rows.append((jp.report(once).all.sparsity, right(once), right(slowly)))
            print("{:12} {:6.1%} {:9.1%} {:8.1%}".format(name, *rows[-1]))
        results[name] = 100 * np.array(rows)
    cut_in_half(dense, lambda params, x: nnx.merge(graph, params)(x), x, y)
    os.makedirs("demo", exist_ok=True)
    draw(results, 100 * right(dense)).savefig("demo/accuracy.png", dpi=150, bbox_inches="tight")
    np.savez("demo/net.npz", **traverse_util.flatten_dict(nnx.to_pure_dict(dense), sep="/"))
    print("\nSaved: demo/net.npz, the dense network, and demo/accuracy.png.")


def cut_in_half(dense, model, x, y):
    """The channels that matter least are cut out: a smaller model, not only a sparse one."""
    deps = jp.dependencies(model, dense, x)
    cut = deps.choose(dense, 0.5, budget="multiply_adds", multiple_of=8)
    small, smaller = deps.shrink(dense, cut), deps.function(cut)

    @jax.jit
    def update(params, state, batch):
        def loss(params):
            logits = smaller(params, x[batch])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    tx, rng = optax.adam(1e-3), np.random.default_rng(1)
    state = tx.init(small)
    for _ in tqdm(range(200), "training the small model", leave=False, disable=None):
        small, state = update(small, state, rng.integers(0, 1400, 128))
    print(f"\nHalf of the multiply-adds cut out:\n{deps.cost(cut)}")
    calls = {"whole": (jax.jit(model), dense), "small": (jax.jit(smaller), small)}
    times = {name: [] for name in calls}
    for _ in range(30):
        for name, (call, params) in calls.items():
            start = time.perf_counter()
            scores = jax.block_until_ready(call(params, x))
            times[name].append(time.perf_counter() - start)
            right = float(jnp.mean(scores[1400:].argmax(-1) == y[1400:]))
            times[name + ", right"] = right
    whole, after = (statistics.median(times[name]) for name in calls)
    print(
        f"{after / whole:.0%} of the time, {times['small, right']:.1%} correct after fine-tuning."
    )


def draw(results, dense):
    """Accuracy against zeros: a panel for each pattern, so that no series hides another."""
    widths = {"width_ratios": [2, 2, 1]}
    figure, panels = plt.subplots(1, 3, figsize=(9, 3.6), sharey=True, gridspec_kw=widths)
    for ax, (name, rows) in zip(panels, results.items(), strict=True):
        zeros, once, slowly = rows.T
        ax.axhline(dense, color="gray", ls="--", label=f"dense: {dense:.1f} %")
        ax.plot(zeros, once, "s-", color="C1", label="pruned in one shot")
        ax.plot(zeros, slowly, "o-", color="C0", label="pruned gradually")
        ax.set(title=name, xlabel="zeros, % of all parameters", ylim=(0, 100))
        ax.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("correct, % of 397 test images")
    panels[0].legend(fontsize="small")
    panels[2].set(xlim=(40, 60), xlabel="zeros, %")
    return figure


if __name__ == "__main__":
    main()
