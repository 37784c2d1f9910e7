"""What sparse training costs: a hundred steps of a training loop, beside the plain ones."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from benchmarks.race import Contender, Line, Row, race

_STEPS = 100
_NEVER, _LONG = jp.one_shot(10**6), 10**6


def rows() -> list[Row]:
    """A step between masks, and a hundred steps with one choice of a mask in them."""
    models: dict[str, Callable[[], tuple[Any, Any, Any]]] = {"MLP": _mlp, "transformer": _blocks}
    kinds: dict[str, tuple[dict[str, Any], float]] = {
        "no new mask": ({"schedule": _NEVER}, 1.05),
        "no new mask, packed": ({"schedule": _NEVER, "packed": True}, 1.05),
        "RigL, no new mask": ({"schedule": jp.constant(0, _LONG, _LONG), "rule": jp.rigl()}, 1.05),
        "a mask every 100 steps": ({"schedule": jp.gradual(0, _LONG, _STEPS)}, 1.10),
        "RigL every 100 steps": (
            {"schedule": jp.constant(0, _LONG, _STEPS), "rule": jp.rigl()},
            1.10,
        ),
    }
    return [
        _row(f"100 steps of Adam, {model}: {kind}", make, how, must)
        for model, make in models.items()
        for kind, (how, must) in kinds.items()
    ]


def _row(name: str, make: Callable[[], Any], how: dict[str, Any], must: float) -> Row:
    def measure(rounds: int) -> list[Line]:
        params, loss, x = make()
        adam = optax.adam(1e-3)
        plain = Contender("plain Adam", _loop(adam, params, loss, x), must=must)
        tx = jp.sparsify(adam, 0.9, **how)
        lines = race(Contender("jaxprune", _loop(tx, params, loss, x)), [plain], rounds)
        ours, theirs = (_bytes(t.init(params)) for t in (tx, adam))
        scope = sum(row.weights for row in jp.plan(params, 0.9).rows if row.spec is not None)
        extra = 8 * (ours - theirs) / scope
        return [*lines, Line(f"{extra:.2f} bits", "a weight in scope", "of state", extra, None)]

    return Row(name, measure)


def _loop(tx: Any, params: Any, loss: Any, x: Any) -> Callable[[], Any]:
    # Donated, as in any training loop: else all of the state, masks too, is copied at each update.
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    now = [jax.tree.map(jnp.copy, params), tx.init(params)]

    def run() -> Any:
        for _ in range(_STEPS):
            now[:] = step(*now)
        return now

    return run


def _bytes(state: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def _mlp() -> tuple[Any, Any, Any]:
    sizes = (784, 512, 512, 10)
    params = {
        f"layer{i}": {"kernel": 0.05 * _normal(i, *pair), "bias": jnp.zeros(pair[1])}
        for i, pair in enumerate(itertools.pairwise(sizes))
    }

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for layer in params.values():
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        return jnp.mean((x - 1) ** 2)

    return params, loss, _normal(9, 128, 784)


def _blocks() -> tuple[Any, Any, Any]:
    """Four layers of a transformer of width 128, with four heads, on 8 sequences of 64."""
    width, heads = 128, 4
    shapes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width)}
    shapes["down"] = (4 * width, width)
    params = {
        f"block{i}": {
            name: {"kernel": 0.05 * _normal(10 * i + j, *shape), "bias": jnp.zeros(shape[1])}
            for j, (name, shape) in enumerate(shapes.items())
        }
        for i in range(4)
    }

    def dense(layer: Any, x: jax.Array) -> jax.Array:
        return x @ layer["kernel"] + layer["bias"]

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for block in params.values():
            parts = dense(block["qkv"], jax.nn.standardize(x)).reshape(*x.shape[:2], 3, heads, -1)
            seen = jax.nn.dot_product_attention(*jnp.moveaxis(parts, 2, 0), is_causal=True)
            x += dense(block["out"], seen.reshape(x.shape))
            x += dense(block["down"], jax.nn.gelu(dense(block["up"], jax.nn.standardize(x))))
        return jnp.mean((x - 1) ** 2)

    return params, loss, _normal(99, 8, 64, width)
