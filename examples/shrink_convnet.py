"""A residual ConvNet is trained until whole channels are zero, then they are cut out (Linen)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits
from tqdm import tqdm

import jaxprune as jp

STEPS = 500


class Block(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.Conv(self.hidden, (3, 3), name="first")(x))
        return nn.relu(x + nn.Conv(x.shape[-1], (3, 3), name="second")(y))


class Net(nn.Module):
    width: int = 16
    hidden: int = 32

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.width, (3, 3), name="stem")(x))
        x = Block(self.hidden, name="block_1")(x)
        x = Block(self.hidden, name="block_2")(x)
        return nn.Dense(10, name="head")(x.mean((1, 2)))


def main():
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images.reshape(-1, 8, 8, 1) / 16, jnp.float32), jnp.asarray(labels)
    model = Net()
    params = model.init(jax.random.key(0), x[:1])

    deps = jp.dependencies(model.apply, params, x[:64])
    print(deps)
    # Half of the channels of every group go step by step, in every leaf that they are a part of.
    schedule = jp.gradual(begin=100, end=STEPS - 200, every=10)
    tx = jp.sparsify(
        optax.adam(1e-2), jp.Coupled(deps, 0.5), schedule=schedule, metric=jp.L2(), steps=STEPS
    )

    @jax.jit
    def update(params, state, batch):
        def loss(params):
            logits = model.apply(params, x[batch])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, rng = tx.init(params), np.random.default_rng(0)
    for _ in tqdm(range(STEPS), "training", leave=False, disable=None):
        params, state = update(params, state, rng.integers(0, 1400, 64))

    cut = deps.cut_of(params)  # the channels that are zero
    small, faster = deps.shrink(params, cut), jax.jit(deps.function(cut))
    print(f"\n{deps.cost(cut)}")
    for name, logits in (("whole", model.apply(params, x)), ("small", faster(small, x))):
        print(f"{name}: {jnp.mean(logits[1400:].argmax(-1) == y[1400:]):.1%} correct")
    print(f"They differ by {deps.verify(params, cut, x[:64]):.0e}, relative.")


if __name__ == "__main__":
    main()
