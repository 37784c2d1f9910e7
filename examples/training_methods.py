"""Every way to train a sparse network, side by side: an MLP on handwritten digits, over seeds.

python examples/training_methods.py --steps 1000 --seeds 3 --sparsities 0.8 0.9 0.95 0.98
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp


def digits(path):
    """MNIST from a file of `images` and `labels`, or scikit-learn's digits: train and test."""
    if path and pathlib.Path(path).exists():
        with np.load(path) as file:
            images, labels = file["images"] / 255.0, file["labels"]
    else:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = images / 16.0
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images.reshape(len(labels), -1)[order].astype(np.float32), labels[order]
    split = len(labels) * 4 // 5
    return (images[:split], labels[:split]), (images[split:], labels[split:])


def start(seed, width, sizes=(300, 100, 10)):
    params = {}
    for i, (fan_in, fan_out) in enumerate(zip((width, *sizes), sizes, strict=False)):
        key = jax.random.fold_in(jax.random.key(seed), i)
        kernel = jax.nn.initializers.he_normal()(key, (fan_in, fan_out))
        params[f"layer{i}"] = {"kernel": kernel, "bias": jnp.zeros(fan_out)}
    return params


def logits(params, x):
    *hidden, last = params.values()
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


def loss(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


@functools.partial(jax.jit, static_argnames=("tx", "loss"))
def train(params, state, batches, data, *, tx, loss=loss):
    def step(carry, batch):
        params, state = carry
        grads = jax.grad(loss)(params, data[0][batch], data[1][batch])
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), batches)[0][0]


def methods(s, steps, params):
    """Name, and how parameters are trained with `fit(params, tx, part of the steps)`."""
    adam = optax.adam(1e-3)
    late, often = 3 * steps // 4, max(steps // 30, 1)
    gradual = jp.gradual(steps // 10, late, often)
    moving = jp.constant(0, late, often)

    def sparse(spec=s, schedule=gradual, **how):
        tx = jp.sparsify(adam, spec, schedule=schedule, key=jax.random.key(7), **how)
        return lambda fit, params: fit(params, tx)

    def tuned(fit, params):
        pruned, mask = jp.prune(fit(params, adam, 0.5), s)
        return fit(pruned, optax.chain(adam, jp.keep_mask(mask)), 0.5)

    def ticket(fit, params, rounds=4):
        tuned, mask = fit(params, adam), None
        for i in range(1, rounds + 1):  # rewound to the start, and trained again, sparser each time
            _, mask = jp.prune(tuned, 1 - (1 - s) ** (i / rounds))
            tuned = fit(jp.apply_mask(params, mask), optax.chain(adam, jp.keep_mask(mask)))
        return tuned

    def through(spec, decay):
        def forward_loss(params, x, y):
            return loss(jp.straight_through(params, spec, decay=decay), x, y)

        return lambda fit, params: jp.prune(fit(params, adam, loss=forward_loss), spec)[0]

    erk = jp.allocate(params, s, "erk")
    everywhere = jp.Unstructured(s, per="global")
    taylor = jp.averaged(jp.Taylor, 0.9)
    phases = jp.periodic(steps // 10, late, sparse=3 * often, dense=3 * often)
    return {
        "dense": lambda fit, params: fit(params, adam),
        "one-shot": lambda fit, params: jp.prune(fit(params, adam), s)[0],
        "one-shot, global": lambda fit, params: jp.prune(fit(params, adam), everywhere)[0],
        "one-shot + fine-tuning": tuned,
        "gradual": sparse(),
        "gradual, global": sparse(everywhere),
        "gradual, Taylor": sparse(metric=taylor),
        "static, random": sparse(erk, jp.one_shot(), metric=jp.Random(jax.random.key(3))),
        "SET": sparse(schedule=moving, rule=jp.sparse_evolution()),
        "RigL": sparse(schedule=moving, rule=jp.rigl()),
        "AC/DC": sparse(schedule=phases, rule=jp.acdc()),
        "STE": through(jp.Unstructured(s), 0.0),
        "SR-STE": through(jp.Unstructured(s), 2e-4),
        "lottery ticket, 4 rounds": ticket,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data/mnist10k.npz")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9])
    options = parser.parse_args()
    data, (x, y) = digits(options.data)
    accuracy = jax.jit(lambda params: 100 * jnp.mean(jnp.argmax(logits(params, x), -1) == y))

    def fit(params, tx, part=1.0, *, seed, loss=loss):
        shape = (int(options.steps * part), 128)
        batches = np.random.default_rng(seed).integers(0, len(data[0]), shape)
        return train(params, tx.init(params), batches, data, tx=tx, loss=loss)

    for sparsity in options.sparsities:
        print(f"\nsparsity {sparsity}: accuracy in %, mean and spread of {options.seeds} seeds")
        for name, method in methods(sparsity, options.steps, start(0, x.shape[1])).items():
            found = []
            for seed in range(options.seeds):
                params = method(functools.partial(fit, seed=seed), start(seed, x.shape[1]))
                achieved = jp.report(params).pruned.sparsity
                found.append(float(accuracy(params)))
            spread = max(found) - min(found)
            print(f"  {name:26} {np.mean(found):6.2f} ±{spread / 2:5.2f}  at {achieved:.2%} zeros")


if __name__ == "__main__":
    main()
