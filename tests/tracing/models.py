"""Ten small models in the manner of public ones, and what each of their leaves is used for.

The truth is written by hand from each model's code: path pattern -> (use, input, output, batch).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

ELEMENTWISE = ("elementwise", (), (), ())
DENSE = ("product", (0,), (1,), ())
CONV = ("convolution", (0, 1, 2), (3,), ())


@dataclasses.dataclass
class Model:
    f: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    truth: dict[str, Any]


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def initial(model, *inputs):
    """What a Linen model's parameters look like."""
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)


def described(shapes):
    """A tree of descriptions of float32 arrays of the given shapes."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


# --- residual network with batch norm (Linen) ---------------------------------------------------


class Residual(nn.Module):
    features: int
    strides: int

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.BatchNorm, use_running_average=True)
        y = nn.Conv(self.features, (3, 3), strides=self.strides, use_bias=False, name="first")(x)
        y = nn.relu(norm(name="norm_1")(y))
        y = norm(name="norm_2")(nn.Conv(self.features, (3, 3), use_bias=False, name="second")(y))
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), strides=self.strides, name="shortcut")(x)
        return nn.relu(x + y)


class ResidualNetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), name="stem")(x)
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = Residual(6, 1, name="stage_1")(x)
        x = Residual(10, 2, name="stage_2")(x)
        return nn.Dense(7, name="head")(x.mean((1, 2)))


def residual_network():
    model, x = ResidualNetwork(), normal(1, 8, 8, 3)
    return Model(
        model.apply,
        initial(model, x),
        (x,),
        {
            "params/head/kernel": DENSE,
            "params/*/kernel": CONV,
            "*": ELEMENTWISE,
        },
    )


# --- depthwise separable network (Equinox: kernels are [out, in, *window]) -----------------------


class Separable(eqx.Module):
    depthwise: eqx.nn.Conv2d
    pointwise: eqx.nn.Conv2d

    def __init__(self, into, out, key):
        one, two = jax.random.split(key)
        self.depthwise = eqx.nn.Conv2d(into, into, 3, padding=1, groups=into, key=one)
        self.pointwise = eqx.nn.Conv2d(into, out, 1, key=two)

    def __call__(self, x):
        return jax.nn.relu(self.pointwise(jax.nn.relu(self.depthwise(x))))


class SeparableNetwork(eqx.Module):
    stem: eqx.nn.Conv2d
    blocks: list
    head: eqx.nn.Linear
    act: Callable

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.stem = eqx.nn.Conv2d(3, 6, 3, stride=2, key=keys[0])
        self.blocks = [Separable(6, 8, keys[1]), Separable(8, 10, keys[2])]
        self.head = eqx.nn.Linear(10, 5, key=keys[3])
        self.act = jax.nn.relu

    def __call__(self, x):
        x = self.act(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


def separable_network():
    return Model(
        lambda model, x: jax.vmap(model)(x),
        eqx.filter_eval_shape(SeparableNetwork, jax.random.key(0)),
        (normal(2, 3, 7, 7),),
        {
            "head/weight": ("product", (1,), (0,), ()),
            "*/weight": ("convolution", (1, 2, 3), (0,), ()),
            "*": ELEMENTWISE,
        },
    )


# --- vision transformer (NNX) --------------------------------------------------------------------


class EncoderBlock(nnx.Module):
    def __init__(self, dim, heads, hidden, rngs):
        self.norm_1 = nnx.LayerNorm(dim, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, dim, decode=False, rngs=rngs)
        self.norm_2 = nnx.LayerNorm(dim, rngs=rngs)
        self.up = nnx.Linear(dim, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, dim, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm_1(x))
        return x + self.down(jax.nn.gelu(self.up(self.norm_2(x))))


class VisionTransformer(nnx.Module):
    def __init__(self, rngs):
        self.patches = nnx.Conv(3, 8, (4, 4), strides=(4, 4), padding="VALID", rngs=rngs)
        self.token = nnx.Param(jax.random.normal(rngs(), (1, 1, 8)))
        self.positions = nnx.Param(jax.random.normal(rngs(), (1, 3, 8)))
        self.block = EncoderBlock(8, 2, 12, rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], 1) + self.positions[...]
        return self.head(self.norm(self.block(x))[:, 0])


def vision_transformer():
    graph, params, rest = nnx.split(
        nnx.eval_shape(lambda: VisionTransformer(nnx.Rngs(0))), nnx.Param, ...
    )
    return Model(
        lambda params, x: nnx.merge(graph, params, rest)(x),
        params,
        (normal(1, 8, 4, 3),),
        {
            "patches/kernel": CONV,
            "block/attention/out/kernel": ("product", (0, 1), (2,), ()),
            "block/attention/*/kernel": ("product", (0,), (1, 2), ()),
            "*/kernel": DENSE,
            "*": ELEMENTWISE,
        },
    )


# --- decoder with grouped queries, rotary positions and a tied embedding (plain JAX) -------------


def rotated(x):
    """Rotary positions for x [time, heads, features]."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[0])[:, None] / 100 ** (jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    one, two = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([one * cos - two * sin, two * cos + one * sin], -1)


def rms(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * scale


def attend(p, x):
    q = rotated(jnp.einsum("td,dhk->thk", x, p["q"]))
    k, v = jnp.einsum("td,dghk->gthk", x, p["kv"])
    k, v = (jnp.repeat(each, q.shape[1] // each.shape[1], axis=1) for each in (rotated(k), v))
    weights = jnp.einsum("thk,shk->hts", q, k) / q.shape[-1] ** 0.5
    causal = jnp.tril(jnp.ones(weights.shape[1:], bool))
    weights = jax.nn.softmax(jnp.where(causal, weights, -1e9))
    return jnp.einsum("hts,shk->thk", weights, v).reshape(len(x), -1) @ p["out"]


def decode(params, tokens):
    x = params["embedding"][tokens] * 3.0
    for p in params["layers"]:
        x = x + attend(p, rms(x, p["norm_1"]))
        y = rms(x, p["norm_2"])
        gate, up = y @ p["gate"], y @ p["up"]
        x = x + (jax.nn.silu(gate) * up) @ p["down"].T
    return rms(x, params["norm"]) @ params["embedding"].T


def decoder():
    layer = {
        "norm_1": (8,),
        "q": (8, 4, 4),
        "kv": (8, 2, 2, 4),
        "out": (16, 8),
        "norm_2": (8,),
        "gate": (8, 12),
        "up": (8, 12),
        "down": (8, 12),
    }
    params = described({"embedding": (11, 8), "layers": [layer, layer], "norm": (8,)})
    return Model(
        decode,
        params,
        (np.array([3, 7]),),
        {
            "embedding": [("lookup", (), (), ()), ("product", (1,), (0,), ())],
            "layers/*/q": ("product", (0,), (1, 2), ()),
            "layers/*/kv": ("product", (0,), (1, 2, 3), ()),
            "layers/*/down": ("product", (1,), (0,), ()),
            "*norm*": ELEMENTWISE,
            "*": DENSE,
        },
    )


# --- encoder and decoder with cross-attention (Linen) --------------------------------------------


class EncoderDecoder(nn.Module):
    @nn.compact
    def __call__(self, source, target):
        embed = nn.Embed(9, 8, name="embed")
        attention = functools.partial(nn.MultiHeadDotProductAttention, num_heads=2)
        x, y = embed(source), embed(target)
        x = x + attention(name="encoder")(nn.LayerNorm(name="norm_1")(x))
        x = x + nn.Dense(8, name="encoder_mlp")(nn.gelu(x))
        y = y + attention(name="decoder")(nn.LayerNorm(name="norm_2")(y))
        y = y + attention(name="cross")(nn.LayerNorm(name="norm_3")(y), x)
        return nn.Dense(9, name="head")(y)


def encoder_decoder():
    model, tokens = EncoderDecoder(), (np.array([[1, 4, 2]]), np.array([[5, 8]]))
    return Model(
        model.apply,
        initial(model, *tokens),
        tokens,
        {
            "params/embed/embedding": ("lookup", (), (), ()),
            "params/head/kernel": DENSE,
            "params/encoder_mlp/kernel": DENSE,
            "params/*/out/kernel": ("product", (0, 1), (2,), ()),
            "params/*/kernel": ("product", (0,), (1, 2), ()),
            "*": ELEMENTWISE,
        },
    )


# --- state space with a causal convolution (plain JAX) -------------------------------------------


def state_space(params, x):
    """x [time, features]; the state is [channels, states]."""
    u, gate = jnp.split(x @ params["into"], 2, axis=-1)
    channels = u.shape[-1]
    u = jax.lax.conv_general_dilated(
        u[None],
        params["conv"],  # [channels, 1, taps]
        (1,),
        [(params["conv"].shape[-1] - 1, 0)],
        dimension_numbers=("NWC", "OIW", "NWC"),
        feature_group_count=channels,
    )[0]
    u = jax.nn.silu(u + params["conv_bias"])
    states = params["A"].shape[1]
    step, b, c = jnp.split(u @ params["select"], [channels, channels + states], axis=-1)
    step = jax.nn.softplus(step)
    decay = jnp.exp(-jnp.exp(params["A"]) * step[..., None])

    def turn(state, now):
        decay, drive, c = now
        state = decay * state + drive
        return state, state @ c

    drive = step[..., None] * b[:, None] * u[..., None]
    _, y = jax.lax.scan(turn, jnp.zeros((channels, states)), (decay, drive, c))
    return ((y + params["D"] * u) * jax.nn.silu(gate)) @ params["out"]


def state_space_model():
    shapes = {
        "into": (6, 16),
        "conv": (8, 1, 3),
        "conv_bias": (8,),
        "select": (8, 16),
        "A": (8, 4),
        "D": (8,),
        "out": (8, 6),
    }
    return Model(
        state_space,
        described(shapes),
        (normal(2, 6),),
        {
            "into": DENSE,
            "select": DENSE,
            "out": DENSE,
            "conv": ("convolution", (1, 2), (0,), ()),
            "*": ELEMENTWISE,
        },
    )


# --- mixture of experts, by one-hot dispatch and by ragged products (plain JAX) ------------------


def by_dispatch(p, x, chosen):
    """Every expert has room for every token: dispatch is [token, expert, place]."""
    place = jnp.cumsum(jax.nn.one_hot(chosen, len(p["up"])), 0).astype(int) - 1
    dispatch = jax.nn.one_hot(place, len(x)) * jax.nn.one_hot(chosen, len(p["up"]))[..., None]
    gathered = jnp.einsum("td,tec->ecd", x, dispatch)
    hidden = jax.nn.relu(jnp.einsum("ecd,edf->ecf", gathered, p["up"]))
    return jnp.einsum("ecf,efd,tec->td", hidden, p["down"], dispatch)


def by_ragged_dot(p, x, chosen):
    order = jnp.argsort(chosen)
    sizes = jnp.bincount(chosen, length=len(p["up"]))
    hidden = jax.nn.relu(jax.lax.ragged_dot(x[order], p["up"], sizes))
    return jax.lax.ragged_dot(hidden, p["down"], sizes)[jnp.argsort(order)]


def route(params, x):
    for name, experts in (("dispatch", by_dispatch), ("ragged", by_ragged_dot)):
        p = params[name]
        gates = jax.nn.softmax(x @ p["router"])
        x = x + jnp.max(gates, -1, keepdims=True) * experts(p, x, jnp.argmax(gates, -1))
    return x


def mixture_of_experts():
    layer = {"router": (6, 3), "up": (3, 6, 10), "down": (3, 10, 6)}
    return Model(
        route,
        described({"dispatch": layer, "ragged": layer}),
        (normal(4, 6),),
        {"*/router": DENSE, "*": ("product", (1,), (2,), (0,))},
    )


# --- U-Net with skips and a transposed convolution (Equinox) -------------------------------------


class UNet(eqx.Module):
    down: eqx.nn.Conv2d
    middle: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    norm: eqx.nn.GroupNorm
    out: eqx.nn.Conv2d

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.down = eqx.nn.Conv2d(3, 6, 3, padding=1, key=keys[0])
        self.middle = eqx.nn.Conv2d(6, 10, 3, stride=2, padding=1, key=keys[1])
        self.up = eqx.nn.ConvTranspose2d(10, 8, 2, stride=2, key=keys[2])
        self.norm = eqx.nn.GroupNorm(2, 14)
        self.out = eqx.nn.Conv2d(14, 3, 1, key=keys[3])

    def __call__(self, x):
        skip = jax.nn.relu(self.down(x))
        up = self.up(jax.nn.relu(self.middle(skip)))
        return self.out(self.norm(jnp.concatenate([up, skip])))


def u_net():
    return Model(
        lambda model, x: jax.vmap(model)(x),
        eqx.filter_eval_shape(UNet, jax.random.key(0)),
        (normal(1, 3, 4, 4),),
        {
            "norm/*": ELEMENTWISE,
            "*/weight": ("convolution", (1, 2, 3), (0,), ()),
            "*": ELEMENTWISE,
        },
    )


# --- LSTM whose gates are concatenated (Linen) ---------------------------------------------------


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.RNN(nn.OptimizedLSTMCell(8), name="rnn")(x)
        return nn.Dense(5, name="head")(x[:, -1])


def lstm():
    model, x = Recurrent(), normal(1, 3, 6)
    return Model(model.apply, initial(model, x), (x,), {"*/kernel": DENSE, "*": ELEMENTWISE})


# --- scanned and rematerialised layers (Linen) ---------------------------------------------------


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.LayerNorm(name="norm")(x)
        y = nn.MultiHeadDotProductAttention(2, name="attention")(y)
        return x + nn.Dense(8, name="mlp")(nn.relu(y)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            nn.remat(Layer),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(5, name="head")(x)


def scanned_transformer():
    model, x = Scanned(), normal(1, 2, 8)
    return Model(
        model.apply,
        initial(model, x),
        (x,),
        {
            "params/head/kernel": DENSE,
            "params/head/bias": ELEMENTWISE,
            "params/layers/attention/out/kernel": ("product", (1, 2), (3,), (0,)),
            "params/layers/attention/*/kernel": ("product", (1,), (2, 3), (0,)),
            "params/layers/mlp/kernel": ("product", (1,), (2,), (0,)),
            "*": ("elementwise", (), (), (0,)),
        },
    )


MODELS = {
    make.__name__: make
    for make in (
        residual_network,
        separable_network,
        vision_transformer,
        decoder,
        encoder_decoder,
        state_space_model,
        mixture_of_experts,
        u_net,
        lstm,
        scanned_transformer,
    )
}
