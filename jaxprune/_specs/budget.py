"""How many go: `floor(float32(sparsity) * float32(n))`, less what a floor holds back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._kernels.limbs import Limbs, limbs
from jaxprune._specs.checks import Scalar


class Budget(NamedTuple):
    """How many of something go.

    Attributes:
        wanted: A whole number as float32: of NumPy, or of JAX as the sparsity is.
        most: How many can go.
    """

    wanted: Any
    most: int

    @property
    def known(self) -> bool:
        """Whether the number is known now, and not only when compiled code runs."""
        return not isinstance(self.wanted, jax.core.Tracer)

    def __int__(self) -> int:
        return min(max(int(self.wanted), 0), self.most)

    def as_int32(self) -> jax.Array:
        """The number as int32, of fewer than 2^31."""
        if self.known:
            return jnp.int32(int(self))
        return jnp.minimum(self.wanted, 2.0**30).astype(jnp.int32).clip(0, self.most)


def all_limbs(sparsities: Sequence[Scalar], sizes: Sequence[int], most: Sequence[int]) -> Limbs:
    """How many of each of `sizes` go, and of each at most `most`: in limbs, as vectors."""
    shared = all(sparsity is sparsities[0] for sparsity in sparsities)
    sparsity = sparsities[0] if shared else jnp.stack([jnp.float32(s) for s in sparsities])
    return limbs(pruned_count(sparsity, np.array(sizes)), np.array(most, np.int64))


def budget(sparsity: Scalar, size: int, held: int) -> Budget:
    """How many of `size` go at a sparsity, if `held` stay in any case."""
    return Budget(pruned_count(sparsity, size), max(size - held, 0))


def pruned_count(sparsity: Any, size: Any) -> Any:
    """`floor(float32(sparsity) * float32(size))`, still as a float32; of arrays, for each."""
    # NumPy takes a hundredth of the time that JAX does for a scalar.
    xp: Any = jnp if isinstance(sparsity, jax.core.Tracer) else np
    # A traced sparsity cannot be refused: NaN and negative ones remove nothing.
    return xp.floor(xp.fmax(xp.asarray(sparsity, np.float32), np.float32(0)) * np.float32(size))
