"""Counts beyond 2^31 in two int32 limbs, with and without `jax_enable_x64`.

A count is `high * 2**16 + low`: sums of a few thousand such limbs do not overflow.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Limbs: TypeAlias = tuple[jax.Array, jax.Array]

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


def limbs(count: Any, most: Any) -> Limbs:
    """A whole number of 0 or more in limbs, and at most `most`.

    Args:
        count: A Python integer, or whole numbers as float32 data.
        most: A Python integer, or as many of NumPy.
    """
    if isinstance(count, int):
        count = min(max(count, 0), most)
        return jnp.int32(count >> 16), jnp.int32(count & 0xFFFF)
    upper = jnp.floor(count / 2.0**16)
    high, low = upper.astype(jnp.int32), (count - upper * 2.0**16).astype(jnp.int32)
    limit = np.int32(most >> 16), np.int32(most & 0xFFFF)
    over = (high > limit[0]) | ((high == limit[0]) & (low > limit[1]))
    return jnp.where(over, limit[0], high), jnp.where(over, limit[1], low)


def split(counts: jax.Array) -> Limbs:
    """int32 counts in limbs."""
    return counts >> 16, counts & 0xFFFF


def minus(a: Limbs, b: Limbs) -> Limbs:
    """`a - b`, its low limb within 16 bits."""
    high, low = a[0] - b[0], a[1] - b[1]
    return high + (low >> 16), low & 0xFFFF


def saturated(count: Limbs) -> jax.Array:
    """A count, perhaps negative, as int32: the nearest it can hold."""
    high, low = count[0] + (count[1] >> 16), count[1] & 0xFFFF
    whole = jnp.clip(high, -(2**15), 2**15 - 1) * 2**16 + low
    return jnp.where(high < -(2**15), _LOWEST, jnp.where(high >= 2**15, _HIGHEST, whole))


def as_float(count: Limbs) -> jax.Array:
    """A count as float32, rounded."""
    return count[0].astype(jnp.float32) * 2.0**16 + count[1].astype(jnp.float32)
