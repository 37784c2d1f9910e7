"""Float64 for a part of the work, whatever `jax_enable_x64` says.

The name of the switch is not promised. Tried on JAX 0.7.2, 0.10.2 and 0.12.0.
"""

import contextlib
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp


def widest(array: jax.Array) -> Any:
    """The widest float that the devices of an array factorise matrices in."""
    platforms = {device.platform for device in array.devices()}
    return jnp.float32 if "tpu" in platforms else jnp.float64


def float64_allowed() -> contextlib.AbstractContextManager[None]:
    """Within it, programs that are traced may compute in float64, and others are unchanged."""
    # The first is newer, and the newest JAX has not got the second.
    module: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
    allowed: contextlib.AbstractContextManager[None] = module.enable_x64(True)
    return allowed
