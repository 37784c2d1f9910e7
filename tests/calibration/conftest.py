"""The programs of these tests are small and run once: to compile them well would take longest."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_compilation():
    """XLA without its optional passes."""
    before = jax.config.jax_disable_most_optimizations
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
