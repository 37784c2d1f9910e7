"""Residual networks made at random: without some of their branches they are the masked ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.tracing.test_models import quickly

WIDTH = 4


class Network:
    """Layers drawn from a seed: what they compute, how they are wrapped, what skips them."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.params = {}
        embed, head = self.weight(3, WIDTH), self.weight(WIDTH, 2)
        layers = [self.layer(0) for _ in range(self.random.integers(2, 5))]

        def f(params, x):
            x = x @ params[embed]
            for each in layers:
                x = each(params, x)
            return x @ params[head]

        self.f = f

    def weight(self, *shape):
        name = f"w{len(self.params):02d}"
        self.params[name] = self.random.normal(size=shape).astype(np.float32) * 0.5
        return name

    def branch(self, depth):
        kind = self.random.integers(4 if depth > 1 else 7)
        one, two = self.weight(WIDTH, WIDTH), self.weight(WIDTH, WIDTH)
        gain = self.weight(WIDTH)
        if kind == 0:
            return lambda p, x: jnp.tanh(x @ p[one]) @ p[two] + p[gain]
        if kind == 1:
            return lambda p, x: jnp.cos(x @ p[one]) * p[gain]
        if kind == 2:
            return lambda p, x: jax.nn.gelu(x @ p[one])
        if kind == 3:
            return lambda p, x: x @ p[one]
        inner = self.layer(depth + 1) if kind == 4 else self.branch(depth + 1)
        if kind == 6:
            other = self.branch(depth + 1)
            return lambda p, x: inner(p, x) + other(p, x)
        return lambda p, x: jax.nn.silu(inner(p, jnp.sin(x @ p[one]))) @ p[two]

    def layer(self, depth):
        branch, project, gain = self.branch(depth), self.weight(WIDTH, WIDTH), self.weight(WIDTH)
        skip, norm, last, wrap = self.random.integers((6, 2, 3, 4))

        def layer(p, x):
            y = jnp.tanh(x) * p[gain] if norm else x
            stream = (x @ p[project], x * 1.5, x)[min(skip, 2)]
            out = stream + branch(p, y)
            if last == 1:
                out = jax.nn.relu(out)
            if last == 2:
                out = out / jnp.sqrt(1 + jnp.sum(out * out, -1, keepdims=True))
            return out

        return (layer, jax.jit(layer), jax.checkpoint(layer), jax.jit(jax.checkpoint(layer)))[wrap]


@pytest.mark.parametrize("seed", range(4))
def test_network(seed):
    network = Network(seed)
    f, params = network.f, network.params
    x = network.random.normal(size=(3, 3)).astype(np.float32)
    deps = jp.dependencies(f, params, x)
    names = [block.name for block in deps.blocks if not block.refused]
    some = network.random.permutation(names)[: (len(names) + 1) // 2]
    cut = deps.choose(params, 0.5) | jp.Cut(dict.fromkeys(some, ()))
    small = deps.shrink(params, cut)
    expected = quickly(f)(jp.apply_mask(params, deps.mask(params, cut)), x)
    found = quickly(deps.function(cut))(small, x)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    # What is left costs what the small function is found to cost when it is read again.
    cost, again = deps.cost(cut), jp.dependencies(deps.function(cut), small, x).cost(jp.Cut({}))
    assert (cost.weights, cost.multiply_adds) == (again.weights, again.multiply_adds)
