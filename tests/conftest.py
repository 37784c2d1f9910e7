"""What all tests share: a CPU that looks like eight devices, and settings of property tests."""

import os

import chex
import jax
import pytest
from hypothesis import settings

# Before JAX wakes up: afterwards the number of devices is settled.
chex.set_n_cpu_devices(int(os.environ.get("TEST_DEVICES", "8")))

settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True, database=None)
settings.register_profile("dev", deadline=None, max_examples=40)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def x64():
    """`with x64(True):` gives JAX its 64-bit types, and `with x64(False):` takes them away."""
    return jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
