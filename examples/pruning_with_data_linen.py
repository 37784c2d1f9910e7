"""Flax Linen: a transformer of scanned layers, pruned layer after layer with what reaches them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxprune as jp


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x)))), None


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, images):  # eight rows of eight pixels are eight tokens
        x = nn.Dense(32, name="embed")(images) + self.param(
            "position", nn.initializers.normal(0.1), (8, 32)
        )
        layers = nn.scan(
            nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=4
        )
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(10, name="head")(nn.LayerNorm()(x.mean(1)))


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images.reshape(-1, 8, 8) / 16, jnp.float32), jnp.asarray(labels)
    model, tx = Transformer(), optax.adam(2e-3)
    params = model.init(jax.random.key(0), images[:1])
    draws = jnp.asarray(np.random.default_rng(0).integers(0, 1400, (600, 128)))

    def loss(params, batch):
        outputs = model.apply(params, images[batch])
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels[batch]).mean()

    def update(carry, batch):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jax.jit(lambda params: jax.lax.scan(update, (params, tx.init(params)), draws)[0][0])(
        params
    )

    @jax.jit
    def accuracy(params):
        return jnp.mean(model.apply(params, images[1400:]).argmax(-1) == labels[1400:])

    print(f"{'dense':28} {accuracy(params):.1%}")
    batches = [(images[k : k + 64],) for k in range(0, 512, 64)]
    spec = {"params/head": None, "params/embed": None, "*": jp.NM(2, 4, axis="input")}
    for name, method in (
        ("magnitude", jp.L1()),
        ("Wanda", jp.Wanda),
        ("SparseGPT", jp.SparseGPT()),
    ):
        for order in ("at_once", "sequential"):
            pruned, _ = jp.prune_with_data(
                model.apply, params, batches, spec, method=method, order=order
            )
            print(f"{name + ', ' + order:28} {accuracy(pruned):.1%} at 2:4")


if __name__ == "__main__":
    main()
