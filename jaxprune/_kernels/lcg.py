"""The reference's generator: a 64-bit linear congruential one, jumped ahead instead of stepped.

    state[i + 1] = state[i] * A + C  (mod 2**64),    value[i] = float32(state[i + 1] >> 32) / 2**32

Any number of steps at once is one multiplication and one addition,

    state[i] = state[0] * A**i + C * (1 + A + ... + A**(i - 1))

so the values are laid out as a grid: the host jumps to the start of every row, and the device jumps
from there to every column. It is exact without `jax_enable_x64`, on 32-bit limbs.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._errors import PruningError
from jaxprune._kernels.uint64 import Wide, add, multiply
from jaxprune._text import shown

# One-element arrays: unlike scalars they wrap around without a warning.
_A = np.array([6364136223846793005], np.uint64)
_C = np.array([1442695040888963407], np.uint64)
_COLUMNS = 2048


def check_seed(seed: object) -> int:
    """`seed` as a Python integer that fits 64 unsigned bits; anything else is refused."""
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool) and 0 <= seed < 2**64:
        return int(seed)
    raise PruningError(
        "an LCG seed is a Python integer in [0, 2**64), known before compilation, got "
        f"{shown(seed)}."
    )


def uniform(seed: int, shape: tuple[int, ...]) -> jax.Array:
    """The first values of the stream of `seed`, in row-major order.

    Args:
        seed: An integer in [0, 2**64).
        shape: The shape of the values.

    Returns:
        float32 in [0, 1]: the highest states round up to 1.
    """
    rows = -(-math.prod(shape) // _COLUMNS)
    powers, sums = _powers(_A, _COLUMNS + 1)  # one row's jump: state * A**2048 + C * (1 + A + ...)
    scales, offsets = _powers(powers[-1], rows)
    starts = np.uint64(seed) * scales + _C * sums[-1] * offsets
    return _values(_limbs(starts[:, None]), shape)


def on_host(seed: int, count: int) -> np.ndarray[Any, Any]:
    """The same values in NumPy: the first `count` of the stream."""
    powers, sums = _powers(_A, count + 1)
    states = np.uint64(seed) * powers[1:] + _C * sums[1:]
    return (states >> np.uint64(32)).astype(np.float32) * np.float32(2.0**-32)


def unit_values(seed: int, units: int) -> np.ndarray[Any, Any]:
    """The first values of the streams `seed`, `seed + 1`, ...: how the reference scores units."""
    seeds = np.uint64(seed) + np.arange(units, dtype=np.uint64)
    return ((seeds * _A + _C) >> np.uint64(32)).astype(np.float32) * np.float32(2.0**-32)


@functools.partial(jax.jit, static_argnames="shape")
def _values(starts: Wide, shape: tuple[int, ...]) -> jax.Array:
    powers, sums = _powers(_A, _COLUMNS + 1)
    scales, offsets = _limbs(powers[1:]), _limbs(_C * sums[1:])
    states = add(multiply(starts, scales), offsets)
    values = states.high.astype(jnp.float32) * np.float32(2.0**-32)
    return lax.slice_in_dim(values.reshape(-1), 0, math.prod(shape)).reshape(shape)


def _powers(base: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`base**i` and the sum of the powers below the i-th, for the first `count` i, modulo 2**64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    powers = np.multiply.accumulate(factors)
    return powers, np.concatenate([np.zeros(1, np.uint64), np.add.accumulate(powers)[:-1]])[:count]


def _limbs(values: np.ndarray) -> Wide:
    return Wide(
        jnp.asarray((values >> np.uint64(32)).astype(np.uint32)),
        jnp.asarray(values.astype(np.uint32)),
    )
