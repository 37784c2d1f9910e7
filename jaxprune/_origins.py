"""Which weights scores were made of, so that a kernel can score where it counts.

Inside `jit`, `make_mask(importance(params, metric), spec)` names a tree of scores that a search
would have to keep in memory, since a compiled loop keeps whatever it reads. If the scores are a
function of the weight alone, the kernel reads the weights in their place, and the scores are never
made. That saves memory as large as the parameters and changes no bit.
"""

import weakref
from typing import Any

import jax

from jaxprune._kernels.ranked import Ranked
from jaxprune._tree import is_traced

_origins: dict[int, tuple[weakref.ref[Any], Ranked]] = {}


def remember(scores: jax.Array, origin: Ranked) -> jax.Array:
    """The scores, if they are traced with what they were made of, for as long as they live."""
    if is_traced(scores):
        key = id(scores)
        _origins[key] = weakref.ref(scores, lambda _: _origins.pop(key, None)), origin
    return scores


def ranked(scores: jax.Array) -> Ranked:
    """How scores rank: by the weights that they were made of, where that is known."""
    alive, origin = _origins.get(id(scores), (lambda: None, None))
    return Ranked(scores) if origin is None or alive() is not scores else origin
