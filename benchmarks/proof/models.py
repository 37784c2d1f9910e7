"""The models, and what each of them learns: an MLP and a ConvNet on digits, a transformer on text.

Weights are plain dicts of arrays, and batches are drawn by a key, so that a whole training is one
function of a key, and seeds are an axis.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.proof.data import characters, digits

_LAYERS, _CONTEXT = 2, 64


class Task(NamedTuple):
    """A model and its data.

    `start(key)` makes parameters, `batch(key)` draws a batch, `logits(params, inputs)` is the
    model, `loss(params, batch)` is trained and `measure(params)` is told, of data held out. A batch
    begins with its inputs, and both of the last take another model by `logits=`.
    """

    start: Callable[[Any], Any]
    batch: Callable[[Any], Any]
    logits: Callable[[Any, Any], Any]
    loss: Callable[..., Any]
    measure: Callable[..., Any]
    unit: str
    higher_is_better: bool
    rate: float


def mlp():
    """300 and 100 hidden units on the pixels."""
    train, test = digits()

    def start(key):
        return _denses(key, (train[0][0].size, 300, 100, 10))

    def logits(params, images):
        x = images.reshape(len(images), -1)
        return _dense(params["dense2"], _relus(params, ("dense0", "dense1"), x))

    return _classifier(start, logits, train, test)


def conv(channels=(16, 32), hidden=64):
    """Two convolutions that halve the image, and two dense layers."""
    train, test = digits()
    flat = channels[1] * int(np.prod([-(-size // 4) for size in train[0][0].shape]))

    def start(key):
        keys = jax.random.split(key, 3)
        kernels = {"conv0": (5, 5, 1, channels[0]), "conv1": (3, 3, *channels)}
        convs = {n: _layer(k, s) for k, (n, s) in zip(keys, kernels.items(), strict=False)}
        return convs | _denses(keys[2], (flat, hidden, 10))

    def logits(params, images):
        x = images[..., None]
        for name in ("conv0", "conv1"):
            x = jax.nn.relu(_conv(params[name], x))
        x = _relus(params, ("dense0",), x.reshape(len(x), -1))
        return _dense(params["dense1"], x)

    return _classifier(start, logits, train, test)


def text(width=64, heads=4, features=16, hidden=256):
    """A transformer that guesses the next character: two layers, each of heads of some features."""
    train, test, size = characters()
    windows = test[: len(test) // (_CONTEXT + 1) * (_CONTEXT + 1)].reshape(-1, _CONTEXT + 1)[:400]
    train = jnp.asarray(train)

    def start(key):
        keys = iter(jax.random.split(key, 4 * _LAYERS + 3))
        inside = heads * features
        shapes = {
            "qkv": (width, 3 * inside),
            "out": (inside, width),
            "up": (width, hidden),
            "down": (hidden, width),
        }
        params = {
            "embedding": 0.02 * jax.random.normal(next(keys), (size, width)),
            "pos_embedding": 0.02 * jax.random.normal(next(keys), (_CONTEXT, width)),
        }
        for i in range(_LAYERS):
            params[f"block{i}"] = {
                name: _layer(next(keys), shape, 1.0) for name, shape in shapes.items()
            }
        return params | {"head": _layer(next(keys), (width, size), 1.0)}

    def batch(key):
        starts = jax.random.randint(key, (8, 1), 0, len(train) - _CONTEXT)
        return _apart(train[starts + jnp.arange(_CONTEXT + 1)])

    def logits(params, tokens):
        return _transformer(params, tokens, heads)

    def measure(params, logits=logits):
        return _cross_entropy(logits, params, _apart(windows))

    loss = _loss(logits)
    return Task(start, batch, logits, loss, measure, "nats a character", False, 3e-3)


MODELS = {"mlp": mlp, "conv": conv, "text": text}


def _classifier(start, logits, train, test):
    images, labels = (jnp.asarray(part) for part in train)

    def batch(key):
        chosen = jax.random.randint(key, (128,), 0, len(labels))
        return images[chosen], labels[chosen]

    def measure(params, logits=logits):
        return 100 * jnp.mean(jnp.argmax(logits(params, test[0]), -1) == test[1])

    return Task(start, batch, logits, _loss(logits), measure, "% right", True, 1e-3)


def _loss(model):
    def loss(params, batch, logits=model):
        return _cross_entropy(logits, params, batch)

    return loss


def _cross_entropy(logits, params, batch):
    inputs, labels = batch
    each = optax.softmax_cross_entropy_with_integer_labels(logits(params, inputs), labels)
    return each.mean()


def _apart(windows):
    """What is read of windows of characters, and what is to be guessed: the next one each."""
    return windows[:, :-1], windows[:, 1:]


def _layer(key, shape, gain=2.0):
    """Kernel and bias; the variance of the kernel is `gain` over the fan-in."""
    scale = (gain / np.prod(shape[:-1])) ** 0.5
    return {"kernel": scale * jax.random.normal(key, shape), "bias": jnp.zeros(shape[-1])}


def _denses(key, sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = itertools.pairwise(sizes)
    return {f"dense{i}": _layer(keys[i], shape) for i, shape in enumerate(shapes)}


def _dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def _relus(params, names, x):
    for name in names:
        x = jax.nn.relu(_dense(params[name], x))
    return x


def _conv(layer, x):
    """A convolution of stride 2 as one product: in a loop on a CPU, ten times as fast."""
    kernel = layer["kernel"]
    (h, w, *_), (rows, columns) = kernel.shape, x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (h // 2, h // 2), (w // 2, w // 2), (0, 0)))
    seen = [x[:, i : i + rows : 2, j : j + columns : 2] for i in range(h) for j in range(w)]
    x = jnp.stack(seen, -2)  # not side by side, so that positions and channels can be told apart
    return x.reshape(*x.shape[:3], -1) @ kernel.reshape(-1, kernel.shape[-1]) + layer["bias"]


def _transformer(params, tokens, heads):
    x = params["embedding"][tokens] + params["pos_embedding"]
    for i in range(_LAYERS):
        block = params[f"block{i}"]
        qkv = _dense(block["qkv"], jax.nn.standardize(x))
        q, k, v = jnp.split(qkv.reshape(*x.shape[:2], 3 * heads, -1), 3, axis=2)
        seen = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x += _dense(block["out"], seen.reshape(*x.shape[:2], -1))
        x += _dense(block["down"], jax.nn.gelu(_dense(block["up"], jax.nn.standardize(x))))
    return _dense(params["head"], jax.nn.standardize(x))
