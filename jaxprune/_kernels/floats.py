"""Floats read as integers: exact where backends flush the smallest numbers to zero.

CPUs under XLA, and TPUs, take subnormal numbers for zero in arithmetic and comparisons. Integers
are spared, so what must not lose them is done on the bits: the order of scores, whether a weight is
zero, the square of a small weight, and the sums of numbers of any size.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._kernels.uint64 import product


class _Format(NamedTuple):
    """How a float type lies in its bits."""

    signed: Any
    unsigned: Any
    width: int
    mantissa: int  # explicit bits of the mantissa
    bias: int
    infinity: int  # the bits of it; those of a NaN are higher
    lowest: int  # the lowest signed integer


def _format(dtype: Any) -> _Format:
    width, info = 8 * np.dtype(dtype).itemsize, jnp.finfo(dtype)  # type: ignore[no-untyped-call]
    signed, unsigned = (np.dtype(f"{kind}{width}").type for kind in ("int", "uint"))
    bias = int(info.maxexp) - 1
    infinity = (2 * bias + 1) << info.nmant
    return _Format(signed, unsigned, width, info.nmant, bias, infinity, -1 << (width - 1))


def keys(scores: jax.Array) -> jax.Array:
    """Signed integers of the scores' width that order as the scores do.

    -0.0 and 0.0 share a key, subnormals keep theirs, and every NaN gets the one highest key. `GONE`
    lies below all of them, and `HELD` above.
    """
    kind, *_, infinity, lowest = _format(scores.dtype)
    bits = lax.bitcast_convert_type(scores, kind)
    # Zero is shifted so that -inf is the lowest integer but one, and a negative float is as far
    # below zero as its magnitude says: zero + lowest - bits, which is infinity + 1 - bits when
    # integers wrap around.
    zero = lowest + infinity + 1
    order = jnp.where(bits < 0, kind(infinity + 1) - bits, bits + kind(zero))
    broken = (bits & kind(-1 - lowest)) > kind(infinity)
    return jnp.where(broken, kind(infinity + 1 + zero), order)


def GONE(dtype: Any) -> Any:  # noqa: N802  # a constant of each dtype
    """The key below those of all scores."""
    return np.iinfo(dtype).min


def HELD(dtype: Any) -> Any:  # noqa: N802
    """The key above those of all scores."""
    return np.iinfo(dtype).max - 1


def from_keys(order: jax.Array, dtype: Any) -> jax.Array:
    """The scores that have these keys: the positive zero, and a NaN, of those that share one."""
    kind, *_, infinity, lowest = _format(dtype)
    zero = kind(lowest + infinity + 1)
    return lax.bitcast_convert_type(
        jnp.where(order < zero, kind(infinity + 1) - order, order - zero), dtype
    )


def nonzero(weights: Any) -> jax.Array:
    """Where floats are neither 0.0 nor -0.0. NumPy's float64 is read as it is, without x64 too."""
    if not isinstance(weights, jax.Array):
        with np.errstate(invalid="ignore"):  # NumPy warns of bfloat16's signalling NaNs
            return jnp.asarray(np.asarray(weights) != 0)
    return _nonzero(weights)


@jax.jit
def _nonzero(weights: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(weights, _format(weights.dtype).unsigned) << 1 != 0


def square(weights: jax.Array) -> jax.Array:
    """The square of floats of 32 or 64 bits, correctly rounded."""
    of = _format(weights.dtype)
    magnitude = lax.bitcast_convert_type(weights, of.unsigned) & of.unsigned(
        2 ** (of.width - 1) - 1
    )
    # Below this the square is subnormal.
    tiny = magnitude < of.unsigned((of.bias - of.bias // 2) << of.mantissa)
    exact = lax.bitcast_convert_type(_tiny_square(magnitude, of), weights.dtype)
    return jnp.where(tiny, exact, weights * weights)


def _tiny_square(magnitude: jax.Array, of: _Format) -> jax.Array:
    """The bits of a square that is subnormal, rounded half to even."""
    unit = of.unsigned
    implicit = unit(1 << of.mantissa)
    exponent = magnitude >> unit(of.mantissa)
    mantissa = (magnitude & (implicit - unit(1))) | implicit
    # The square is mantissa**2 times a power of two of the smallest subnormal. Half of its digits,
    # at least, go; of these only whether any is 1 matters.
    digits = of.mantissa + 1
    high, low = product(mantissa, mantissa)
    kept = (high << unit(of.width - digits)) | (low >> unit(digits))
    sticky = (low & unit((1 << digits) - 1)) != 0
    shift = jnp.minimum(unit(of.bias) - unit(2) * exponent, unit(of.width - 1))
    whole, lost, half = (
        kept >> shift,
        kept & ((unit(1) << shift) - unit(1)),
        unit(1) << (shift - unit(1)),
    )
    up = (lost > half) | ((lost == half) & (sticky | (whole & unit(1) == 1)))
    return whole + up.astype(unit)


def exponent(values: jax.Array) -> jax.Array:
    """The int32 power of two of each magnitude: the least for zeros, the most for infinities."""
    of = _format(values.dtype)
    bits = lax.bitcast_convert_type(values, of.unsigned) & of.unsigned(2 ** (of.width - 1) - 1)
    of_subnormal = of.width - 1 - lax.clz(bits).astype(jnp.int32) - (of.bias - 1 + of.mantissa)
    normal = (bits >> of.unsigned(of.mantissa)).astype(jnp.int32)
    return jnp.where(normal > 0, normal - of.bias, of_subnormal)


def scaled_down(values: jax.Array, by: jax.Array) -> jax.Array:
    """`values / 2**by`, for a `by` that leaves them of magnitude below 2.

    What becomes subnormal beside them is lost.
    """
    of = _format(values.dtype)
    half = -by // 2
    normal = values * _power(half, of, values.dtype) * _power(-by - half, of, values.dtype)
    bits = lax.bitcast_convert_type(values, of.signed)
    digits = bits & of.signed((1 << of.mantissa) - 1)
    least = 1 - of.bias - of.mantissa  # the power of the smallest subnormal
    unit = _power(jnp.maximum(least - by, 1 - of.bias), of, values.dtype)
    subnormal = jnp.where(bits < 0, -digits, digits).astype(values.dtype) * unit
    return jnp.where(bits & of.signed(of.infinity) == 0, subnormal, normal)


def scaled_up(values: jax.Array, by: jax.Array) -> jax.Array:
    """`values * 2**by` for values of magnitude below 2, rounded half to even where subnormal."""
    of = _format(values.dtype)
    least = 1 - of.bias - of.mantissa
    units = values * _power(jnp.clip(by - least, 1 - of.bias, of.bias), of, values.dtype)
    size = lax.bitcast_convert_type(jnp.round(jnp.abs(units)).astype(of.signed), values.dtype)
    normal = values * _power(jnp.clip(by, 1 - of.bias, of.bias), of, values.dtype)
    few = (by - least <= of.bias) & (jnp.abs(units) < 2 ** (of.mantissa + 1))
    return jnp.where(few, jnp.where(values < 0, -size, size), normal)


def _power(exponents: jax.Array, of: _Format, dtype: Any) -> jax.Array:
    """Two to the power of integers that a normal float can have."""
    bits = (exponents + of.bias).astype(of.signed) << of.signed(of.mantissa)
    return lax.bitcast_convert_type(bits, dtype)
