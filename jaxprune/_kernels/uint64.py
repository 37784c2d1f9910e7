"""64-bit unsigned integers in two uint32 limbs: exact with and without `jax_enable_x64`.

Without x64 JAX has no 64-bit integer at all, and quietly makes a `uint64` a `uint32`. The few
places that need one (a generator of 64-bit state, an exact square, a count over billions of
weights) use these.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Wide(NamedTuple):
    """The integer `high * 2**32 + low` in uint32 arrays; arithmetic wraps at 2**64."""

    high: jax.Array
    low: jax.Array


def add(a: Wide, b: Wide) -> Wide:
    """`a + b`."""
    low = a.low + b.low
    return Wide(a.high + b.high + (low < a.low).astype(jnp.uint32), low)


def multiply(a: Wide, b: Wide) -> Wide:
    """`a * b`."""
    full = product(a.low, b.low)
    return Wide(full.high + a.low * b.high + a.high * b.low, full.low)


def product(a: jax.Array, b: jax.Array) -> Wide:
    """All the bits of the product of unsigned integers, in limbs of the width of `a`.

    By the schoolbook on halves.
    """
    kind, width = a.dtype.type, 4 * a.dtype.itemsize
    shift, half = kind(width), kind((1 << width) - 1)
    a0, a1, b0, b1 = a & half, a >> shift, b & half, b >> shift
    low = a0 * b0
    middle = a1 * b0 + (low >> shift)  # at most (2^16-1)^2 + 2^16-1: it fits
    cross = a0 * b1 + (middle & half)
    return Wide(a1 * b1 + (middle >> shift) + (cross >> shift), (cross << shift) | (low & half))
