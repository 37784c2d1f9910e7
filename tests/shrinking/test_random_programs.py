"""Programs made at random of what moves, joins and multiplies features: small is masked."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.tracing.test_models import quickly

ROWS = 3


class Program:
    """A function of vectors of features, drawn from a seed; its parameters come as it runs."""

    def __init__(self, seed, steps=9):
        self.seed, self.steps = seed, steps
        self.shapes = {}
        jax.eval_shape(lambda x: self.run(None, x), jnp.zeros((ROWS, 4)))

    def run(self, params, x):
        random = np.random.default_rng(self.seed)

        def param(*shape):
            if params is None:
                self.shapes[f"p{len(self.shapes):02d}"] = shape
                return jnp.zeros(shape)
            name = f"p{next(count):02d}"
            return params[name]

        count = iter(range(1000))
        values = [x @ param(4, 12), jnp.tanh(x @ param(4, 6))]
        for _ in range(self.steps):
            move = MOVES[random.integers(len(MOVES))]
            values.append(move(random, values, param))
        out = sum(
            (value.reshape(ROWS, -1) @ param(value[0].size, 2)) * 0.3 for value in values[-4:]
        )
        return jnp.tanh(out) + out


def pick(random, values):
    return values[random.integers(len(values))]


def linear(random, values, param):
    value = pick(random, values)
    return jnp.tanh(value @ param(value.shape[-1], int(random.choice([4, 6, 8]))))


def scale(random, values, param):
    value = pick(random, values)
    return jax.nn.silu(value * param(value.shape[-1]) + param(value.shape[-1]))


def add(random, values, param):
    value = pick(random, values)
    same = [other for other in values if other.shape == value.shape]
    return value + pick(random, same)[..., ::1]


def concat(random, values, param):
    value = pick(random, values)
    same = [other for other in values if other.shape[:-1] == value.shape[:-1]]
    return jnp.concatenate([value, pick(random, same)], -1)


def cut(random, values, param):
    value = pick(random, values)
    n = value.shape[-1]
    start = int(random.integers(0, max(n - 1, 1)))
    return value[..., start : start + max(n // 2, 1)]


def strided(random, values, param):
    value = pick(random, values)
    return value[..., ::2] if value.shape[-1] % 2 == 0 else value


def divide(random, values, param):
    value = pick(random, values)
    n = value[0].size
    factors = [k for k in range(2, n) if n % k == 0]
    if not factors:
        return value
    k = int(random.choice(factors))
    return value.reshape(ROWS, k, n // k)


def flatten(random, values, param):
    return pick(random, values).reshape(ROWS, -1)


def swap(random, values, param):
    value = pick(random, values)
    return value.swapaxes(-1, -2) if value.ndim == 3 else value


def pad(random, values, param):
    value = pick(random, values)
    widths = [(0, 0)] * (value.ndim - 1) + [(1, 2)]
    return jnp.pad(value, widths, constant_values=float(random.integers(0, 2)))


def repeat(random, values, param):
    value = pick(random, values)
    how = [jnp.repeat, lambda x, k, axis: jnp.tile(x, k)][random.integers(2)]
    return how(value, 2, axis=-1) if value.shape[-1] <= 8 else value


def pool(random, values, param):
    value = pick(random, values)
    return value.sum(1) / 2 if value.ndim == 3 else value


def normalize(random, values, param):
    value = pick(random, values)
    return value * jax.lax.rsqrt(jnp.mean(value**2, -1, keepdims=True) + 1)


def meet(random, values, param):
    value = pick(random, values)
    if value.ndim != 3:
        return value
    other = value @ param(value.shape[-1], value.shape[-1])
    return jnp.einsum("rhk,rgk->rhg", value, other) * 0.1


def scan(random, values, param):
    value = pick(random, values)
    n = value.shape[-1]
    if n > 12:
        return value

    def turn(carry, w):
        return jnp.tanh(carry @ w), carry * 2

    carry, every = jax.lax.scan(turn, value, param(2, n, n))
    return carry + every[1]


MOVES = [
    linear, linear, scale, scale, add, add, concat, cut, strided, divide, divide, flatten, swap,
    pad, repeat, pool, normalize, meet, scan,
]  # fmt: skip


def difference_of(seed):
    """The difference that a random cut makes, and what was cut."""
    program, random = Program(seed), np.random.default_rng(seed)
    params = {k: random.normal(size=s).astype(np.float32) for k, s in program.shapes.items()}
    x = random.normal(size=(ROWS, 4)).astype(np.float32)
    deps = jp.dependencies(program.run, params, x)
    free = [group for group in deps.groups if not group.refused and not group.inexact]
    if not free:
        return 0.0, {}
    kept = {
        group.name: random.permutation(group.units)[: math.ceil(group.units / 2)] for group in free
    }
    cut = jp.Cut({name: sorted(units.tolist()) for name, units in kept.items()})
    expected = quickly(program.run)(jp.apply_mask(params, deps.mask(params, cut)), x)
    found = quickly(deps.function(cut))(deps.shrink(params, cut), x)
    return float(np.abs(expected - found).max() / np.abs(expected).max()), cut.kept


@pytest.mark.parametrize("seed", range(4))
def test_program(seed):
    difference, _ = difference_of(seed)
    assert difference < 1e-5
