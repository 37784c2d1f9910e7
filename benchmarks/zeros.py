"""What zeros are worth to a matrix product: nothing, until something knows of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

import jaxprune as jp
from benchmarks.race import Contender, Line, Row, race

_SIDE, _BATCH, _SPARSITY = 2048, 256, 0.9


def rows() -> list[Row]:
    """One product of a batch and a pruned kernel, beside the same one in other clothes."""
    return [Row("matrix product, 90 % zeros", _products)]


def _products(rounds: int) -> list[Line]:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((_BATCH, _SIDE)), jnp.float32)
    dense = jnp.asarray(rng.standard_normal((_SIDE, _SIDE)), jnp.float32)
    pruned, _ = jp.prune(dense, _SPARSITY)
    units, kept = jp.prune(dense, jp.Columns(_SPARSITY))
    narrow = units[:, np.asarray(kept.any(axis=0))]
    # Sparse formats want the sparse matrix on the left.
    listed = sparse.BCOO.fromdense(pruned.T)
    product = jax.jit(lambda a, b: a @ b)

    def run(a: Any, b: Any) -> Any:
        return lambda: product(a, b)

    return race(
        Contender("jaxprune", run(x, pruned)),
        [
            Contender("the same, no zeros", run(x, dense)),
            Contender("a list of nonzeros (BCOO)", run(listed, x.T)),
            Contender("90 % of the columns cut out", run(x, narrow)),
        ],
        rounds,
    )
