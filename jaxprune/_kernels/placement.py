"""Where a selection runs: on the host, if its arrays are there and known, and else compiled."""

from typing import Any

import jax
import numpy as np

from jaxprune._kernels.ranked import Ranked


def on_host(leaf: Ranked) -> Ranked | None:
    """The leaf with NumPy's arrays, if the host can read them in place; else None.

    That is so for arrays of one CPU device outside of any transformation: what NumPy finds there
    takes no compilation, and has the bits that compiled code finds.
    """
    arrays = jax.tree.leaves(leaf)
    if not all(map(is_host_array, arrays)):
        return None
    return jax.tree.map(np.asarray, leaf)


def is_host_array(array: Any) -> bool:
    """Whether NumPy can read an array where it lies."""
    if isinstance(array, np.ndarray):
        return True
    if not isinstance(array, jax.Array) or isinstance(array, jax.core.Tracer):
        return False
    devices = array.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def from_host(array: np.ndarray[Any, Any], like: Any) -> Any:
    """A new array of NumPy's as what another is: NumPy's, or JAX's on the same device."""
    if isinstance(like, np.ndarray):
        return array
    if not like.committed:
        return jax.device_put(array)  # `jnp.asarray` compiles a program for each shape
    return jax.device_put(array, like.sharding, may_alias=True)
