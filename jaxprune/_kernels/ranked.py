"""Weights and how they rank: what the selection kernels see, on the device and on the host.

Scores that are a function of the weight alone are not written to memory: a kernel makes them where
it counts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._kernels.floats import GONE, HELD, keys
from jaxprune._tree import node


class Pointwise(NamedTuple):
    """A score that is a function of the weight alone, stated twice, equal to the bit.

    Attributes:
        compiled: From weights to floating scores, in JAX.
        host: The same in NumPy.
    """

    compiled: Callable[[jax.Array], jax.Array]
    host: Callable[[Any], Any]


def _itself(scores: Any) -> Any:
    return scores


ITSELF = Pointwise(_itself, _itself)


@node("values", "alive", "held")
@dataclass(frozen=True, slots=True)
class Ranked:
    """The weights (or scores) of one leaf, and their order.

    Attributes:
        values: Floats of any shape.
        score: What makes scores of them.
        dtype: The dtype in which the scores are compared; None for their own.
        alive: bool of the same shape, or None: where False, below every score.
        held: The same: where True, above every score.
    """

    values: Any
    score: Pointwise = ITSELF
    dtype: Any = None
    alive: Any = None
    held: Any = None

    @property
    def score_dtype(self) -> Any:
        """The dtype in which the scores are compared."""
        if self.dtype is not None:
            return self.dtype
        return self.score.host(np.empty(0, self.values.dtype)).dtype

    @property
    def key_dtype(self) -> Any:
        """The signed integers as wide as these scores."""
        return jnp.dtype(f"int{8 * jnp.dtype(self.score_dtype).itemsize}")

    def scores(self) -> jax.Array:
        """The scores, in the dtype in which they are compared, whatever is not alive or held."""
        scores = self.score.compiled(jax.lax.stop_gradient(self.values))
        return scores if self.dtype is None else scores.astype(self.dtype)

    def once_more(self, zero: jax.Array) -> "Ranked":
        """The same leaf, read through a 0 that the compiler does not know to be one.

        A loop that gets a new 0 in each turn makes keys in each turn. They would be made before it,
        and kept in memory, if they were the same in all turns. (A barrier around the leaf itself
        would do as much, and would copy it.)

        Args:
            zero: An integer 0.
        """
        return replace(self, values=jnp.where(zero == 0, self.values, 0))

    def keys(self) -> jax.Array:
        """Integers of the same order."""
        order = keys(self.scores())
        if self.alive is not None:
            order = jnp.where(self.alive, order, GONE(order.dtype))
        if self.held is not None:
            order = jnp.where(self.held, HELD(order.dtype), order)
        return order
