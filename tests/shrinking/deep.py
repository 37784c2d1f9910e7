"""Models whose layers can be left out: residual branches, and a stack of layers."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxprune as jp
from tests.shrinking.models import filled
from tests.tracing.models import MODELS, Model, initial, normal

# --- a pre-norm transformer with remat and dropout (Linen) ----------------------------------------


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(name="norm_1")(x)
        y = nn.MultiHeadDotProductAttention(2, name="attention")(y)
        x = x + nn.Dropout(0.5, deterministic=True)(y)
        y = nn.gelu(nn.Dense(12, name="up")(nn.LayerNorm(name="norm_2")(x)))
        return x + nn.Dense(8, name="down")(y)


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="embed")(x)
        for k in range(2):
            x = nn.remat(Layer)(name=f"layer_{k}")(x)
        return nn.Dense(3, name="head")(nn.LayerNorm(name="norm")(x))


def transformer():
    model, x = Transformer(), normal(2, 4, 5)
    return Model(model.apply, initial(model, x), (x,), {})


# --- a residual network whose skips are plain, strided or projected (NNX) -------------------------


class Unit(nnx.Module):
    def __init__(self, into, out, rngs):
        self.first = nnx.Conv(into, out, (3, 3), use_bias=False, rngs=rngs)
        self.norm_1 = nnx.BatchNorm(out, use_running_average=True, rngs=rngs)
        self.second = nnx.Conv(out, out, (3, 3), rngs=rngs)
        self.norm_2 = nnx.BatchNorm(out, use_running_average=True, rngs=rngs)
        self.project = None if into == out else nnx.Conv(into, out, (1, 1), rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.norm_1(self.first(x)))
        skip = x if self.project is None else self.project(x)
        return nnx.relu(self.norm_2(self.second(y)) + skip)


class ResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.one, self.two, self.three = Unit(4, 4, rngs), Unit(4, 6, rngs), Unit(6, 6, rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        return self.head(self.three(self.two(self.one(x))).mean((1, 2)))


def resnet():
    graph, params, state = nnx.split(
        nnx.eval_shape(lambda: ResNet(nnx.Rngs(0))), nnx.Param, nnx.BatchStat
    )
    return Model(
        lambda both, x: nnx.merge(graph, *both)(x), (params, state), (normal(2, 4, 4, 3),), {}
    )


# --- an MLP-mixer (Equinox) -----------------------------------------------------------------------


class Mixing(eqx.Module):
    norms: list
    tokens: eqx.nn.MLP
    channels: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key, 2)
        self.norms = [eqx.nn.LayerNorm(6), eqx.nn.LayerNorm(6)]
        self.tokens = eqx.nn.MLP(4, 4, 7, 1, key=keys[0])
        self.channels = eqx.nn.MLP(6, 6, 9, 1, key=keys[1])

    def __call__(self, x):
        y = jax.vmap(self.norms[0])(x)
        x = x + jax.vmap(self.tokens)(y.T).T
        return x + jax.vmap(self.channels)(jax.vmap(self.norms[1])(x))


class Mixer(eqx.Module):
    embed: eqx.nn.Linear
    mixing: list
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.embed, self.head = eqx.nn.Linear(5, 6, key=keys[0]), eqx.nn.Linear(6, 3, key=keys[1])
        self.mixing = [Mixing(keys[2]), Mixing(keys[3])]

    def __call__(self, x):
        x = jax.vmap(self.embed)(x)
        for mixing in self.mixing:
            x = mixing(x)
        return self.head(x.mean(0))


def mixer():
    return Model(
        lambda model, x: jax.vmap(model)(x),
        eqx.filter_eval_shape(Mixer, jax.random.key(0)),
        (normal(2, 4, 5),),
        {},
    )


# --- a stack of layers, in a precision of its own (plain JAX) -------------------------------------


def layer(p, x):
    y = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * p["norm"]
    return x + jnp.tanh(y @ p["up"]) @ p["down"] + jnp.sin(y) @ p["side"]


def stacked(params, x):
    layers = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(jnp.float32), params["layers"])
    x, _ = jax.lax.scan(lambda x, p: (layer(p, x), None), x @ params["embed"], layers)
    return x @ params["head"]


def draw(**shapes):
    random = np.random.default_rng(0)
    return {
        name: draw(**shape)
        if isinstance(shape, dict)
        else jax.device_put(np.float32(random.normal(size=shape) * 0.5))
        for name, shape in shapes.items()
    }


STACK = draw(
    embed=(5, 6),
    layers={"norm": (4, 6), "up": (4, 6, 7), "down": (4, 7, 6), "side": (4, 6, 6)},
    head=(6, 3),
)


def stack():
    return Model(stacked, STACK, (normal(2, 5),), {})


BUILDERS = {make.__name__: make for make in (transformer, resnet, mixer, stack)} | {
    name: MODELS[name] for name in ("decoder", "encoder_decoder", "mixture_of_experts")
}


@functools.cache
def built(name):
    model = BUILDERS[name]()
    return model, filled(model.params), jp.dependencies(model.f, model.params, *model.inputs)


def droppable(deps):
    return {block.name: block for block in deps.blocks if not block.refused}


def without(deps, *names):
    """The cut of these blocks; of a stack, of all layers but the last."""
    blocks = droppable(deps)
    return jp.Cut({n: () if blocks[n].units == 1 else (blocks[n].units - 1,) for n in names})


NAMES = {
    "transformer": [
        f"params/layer_{k}/{branch}:branch" for k in (0, 1) for branch in ("attention", "down")
    ],
    "resnet": ["0/one:branch", "0/three:branch"],
    "mixer": [
        f"mixing/{k}/{branch}/layers:branch" for k in (0, 1) for branch in ("tokens", "channels")
    ],
    "stack": ["layers:layers"],
    "decoder": [f"layers/{k}/{last}:branch" for k in (0, 1) for last in ("out", "down")],
    "encoder_decoder": [
        f"params/{name}:branch" for name in ("encoder", "encoder_mlp", "decoder", "cross/out")
    ],
    "mixture_of_experts": ["dispatch:branch", "ragged:branch"],
}
