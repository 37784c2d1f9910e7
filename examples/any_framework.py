"""One multilayer perceptron in Flax Linen, Flax NNX and Equinox, pruned by the same three lines."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import jaxprune as jp


def linen_model():
    layers = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(8)])
    return layers.init(jax.random.key(0), jnp.ones((1, 16)))["params"]


def nnx_model():
    rngs = nnx.Rngs(0)
    layers = nnx.Sequential(nnx.Linear(16, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 8, rngs=rngs))
    return nnx.state(layers, nnx.Param)


def equinox_model():
    return eqx.nn.MLP(16, 8, width_size=32, depth=1, key=jax.random.key(0))


def main():
    models = {
        "Flax Linen, a dict": linen_model(),
        "Flax NNX, a State": nnx_model(),
        "Equinox, a Module": equinox_model(),
    }
    reports = []
    for name, params in models.items():
        pruned, mask = jp.prune(params, 0.75)
        report = jp.report(pruned, mask)
        print(f"{name}\n\n{report}\n")

        assert type(pruned) is type(params)  # the result has the type of the input
        reports.append(report)

    # Paths, layouts ([in, out] or [out, in]) and initial values differ, but the counts are equal.
    first, *others = reports
    assert all(report.pruned == first.pruned for report in others)
    print(f"All three keep {first.pruned.nonzero} of the {first.pruned.total} weights in scope.")


if __name__ == "__main__":
    main()
