"""Small models beyond those of the trace: what couples axes in further ways."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxprune._tree import Leaf, is_array, leaves, rebuild
from tests.tracing.models import MODELS as TRACED
from tests.tracing.models import Model, described, initial, normal


def filled(tree):
    """The tree with random values everywhere.

    Variances and scales are positive; so are biases, lest a unit be dead whatever its weights are.
    """
    random = np.random.default_rng(0)

    def value(leaf: Leaf):
        if not is_array(leaf.value):
            return leaf.value
        positive = any(word in leaf.path for word in ("var", "scale", "norm", "bias"))
        draw = random.uniform(0.5, 1.5, leaf.value.shape)
        if not positive:
            draw = random.normal(size=leaf.value.shape) * 0.3 + 0.05
        return jax.device_put(draw.astype(leaf.value.dtype))

    return rebuild(tree, [value(leaf) for leaf in leaves(tree)])


# --- dense block, multi-scale skips (Linen) -------------------------------------------------------


class DenseBlock(nn.Module):
    """Each layer reads what all before it have made; a transition halves the sizes."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), name="stem")(x)
        for k in range(3):
            y = nn.BatchNorm(use_running_average=True, name=f"norm_{k}")(x)
            y = nn.Conv(4, (3, 3), name=f"grow_{k}")(nn.relu(y))
            x = jnp.concatenate([x, y], -1)
        fine = nn.avg_pool(x, (2, 2), (2, 2))
        coarse = nn.Conv(5, (3, 3), strides=(2, 2), name="coarse")(x)
        x = jnp.concatenate([fine, nn.relu6(coarse)], -1)
        return nn.Dense(3, name="head")(x.reshape(x.shape[0], -1))


def dense_block():
    model, x = DenseBlock(), normal(2, 4, 4, 3)
    return Model(model.apply, initial(model, x), (x,), {})


# --- batch norm in training: the statistics are returned, and cut as well (Linen) -----------------


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), name="first")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False, name="norm")(x))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


def trained_norm():
    model, x = Normalized(), normal(4, 4, 4, 3)
    variables = initial(model, x)

    def f(params_and_state, x):
        params, state = params_and_state
        return model.apply({"params": params, **state}, x, mutable=["batch_stats"])

    return Model(f, (variables["params"], {"batch_stats": variables["batch_stats"]}), (x,), {})


# --- variational autoencoder with a transposed convolution (NNX) ----------------------------------


class Autoencoder(nnx.Module):
    def __init__(self, rngs):
        self.into = nnx.Conv(3, 6, (3, 3), strides=(2, 2), rngs=rngs)
        self.mean = nnx.Linear(6 * 4, 5, rngs=rngs)
        self.spread = nnx.Linear(6 * 4, 5, rngs=rngs)
        self.back = nnx.Linear(5, 6 * 4, rngs=rngs)
        self.out = nnx.ConvTranspose(6, 3, (2, 2), strides=(2, 2), rngs=rngs)

    def __call__(self, x, key):
        h = nnx.relu(self.into(x)).reshape(x.shape[0], -1)
        mean, spread = self.mean(h), self.spread(h)
        z = mean + jnp.exp(0.1 * spread) * jax.random.normal(key, mean.shape)
        h = nnx.relu(self.back(z)).reshape(x.shape[0], 2, 2, 6)
        divergence = jnp.sum(jnp.square(mean) + jnp.square(spread), -1)
        return self.out(h), divergence


def autoencoder():
    graph, params = nnx.split(nnx.eval_shape(lambda: Autoencoder(nnx.Rngs(0))), nnx.Param)
    key = jax.random.key(1)
    return Model(
        lambda params, x: nnx.merge(graph, params)(x, key), params, (normal(2, 4, 4, 3),), {}
    )


# --- grouped convolution and channel shuffle (Equinox) --------------------------------------------


class Shuffled(eqx.Module):
    first: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    second: eqx.nn.Conv2d
    last: eqx.nn.Conv2d
    act: eqx.nn.PReLU

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(3, 8, 1, key=keys[0])
        self.norm = eqx.nn.GroupNorm(4, 8)
        self.second = eqx.nn.Conv2d(8, 12, 3, padding=1, groups=4, key=keys[1])
        self.last = eqx.nn.Conv2d(12, 3, 1, key=keys[2])
        self.act = eqx.nn.PReLU()

    def __call__(self, x):
        x = self.act(self.first(x))
        x = self.second(x)
        x = x.reshape(4, 3, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
        return self.last(self.act(x))


def grouped():
    return Model(
        lambda model, x: jax.vmap(model)(x),
        eqx.filter_eval_shape(Shuffled, jax.random.key(0)),
        (normal(2, 3, 4, 4),),
        {},
    )


# --- attention of Equinox, whose norms are of two passes ------------------------------------------


class Attending(eqx.Module):
    embed: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.embed = eqx.nn.Linear(5, 8, key=keys[0])
        self.norm = eqx.nn.LayerNorm(8)
        self.attention = eqx.nn.MultiheadAttention(2, 8, key=keys[1])
        self.mlp = eqx.nn.MLP(8, 8, 12, 1, key=keys[2])
        self.head = eqx.nn.Linear(8, 3, key=keys[3])
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, key):
        x = jax.vmap(self.embed)(x)
        y = jax.vmap(self.norm)(x)
        x = x + self.attention(y, y, y)
        x = x + self.dropout(jax.vmap(self.mlp)(x), key=key)
        return jax.vmap(self.head)(x)


def attention():
    return Model(
        lambda model, x, key: jax.vmap(model, (0, None))(x, key),
        eqx.filter_eval_shape(Attending, jax.random.key(0)),
        (normal(2, 4, 5), jax.random.key(3)),
        {},
    )


# --- fused queries, keys and values; interleaved rotary positions; tied ends (plain JAX) ----------


def turned(x):
    """Rotary positions for pairs of neighbours, x [time, heads, features]."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[0])[:, None] / 100 ** (jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    one, two = x[..., ::2], x[..., 1::2]
    return jnp.stack([one * cos - two * sin, two * cos + one * sin], -1).reshape(x.shape)


def fused(params, tokens):
    x = params["embedding"][tokens]
    for p in params["layers"]:
        q, k, v = jnp.split((x @ p["qkv"]).reshape(len(x), -1, 4), (2, 4), axis=1)
        weights = jax.nn.softmax(jnp.einsum("thk,shk->hts", turned(q), turned(k)) / 2)
        x = x + jnp.einsum("hts,shk->thk", weights, v).reshape(len(x), -1) @ p["out"]
        up = jnp.einsum("td,ndf->ntf", x, p["up"])
        x = x + (jax.nn.gelu(up[0]) * up[1]) @ p["down"]
    x = jax.lax.cond(jnp.sum(tokens) > 3, lambda x: x * 2.0, lambda x: x / 3.0, x)
    x = jax.lax.fori_loop(0, 2, lambda k, x: x + jnp.tanh(x) * params["gain"], x)
    return x @ params["embedding"].T


def fused_decoder():
    layer = {"qkv": (8, 24), "out": (8, 8), "up": (2, 8, 10), "down": (10, 8)}
    params = described({"embedding": (11, 8), "gain": (8,), "layers": [layer, layer]})
    return Model(fused, params, (np.array([3, 7, 1]),), {})


MODELS = TRACED | {
    make.__name__: make
    for make in (dense_block, trained_norm, autoencoder, grouped, attention, fused_decoder)
}
