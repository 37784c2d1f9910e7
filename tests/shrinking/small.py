"""A model small enough to see through: two layers, a norm, a residual stream."""

import functools

import jax
import numpy as np

import jaxprune as jp


def model(params, x):
    x = x @ params["embed"]["kernel"]
    y = jax.nn.relu(x @ params["up"]["kernel"] + params["up"]["bias"])
    x = x + y @ params["down"]["kernel"]
    return x @ params["head"]["kernel"]


def random_params():
    random = np.random.default_rng(0)
    shapes = {
        "embed": {"kernel": (3, 6)},
        "up": {"kernel": (6, 8), "bias": (8,)},
        "down": {"kernel": (8, 6)},
        "head": {"kernel": (6, 2)},
    }
    return jax.tree.map(
        lambda shape: jax.device_put(np.float32(random.normal(size=shape))),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


PARAMS = random_params()
X = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)


@functools.cache
def deps():
    return jp.dependencies(model, PARAMS, X)
