"""The programs of these tests are small and run once: to compile them well would take longest."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_compilation():
    """XLA without its optional passes."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def optimized():
    """XLA with them, where bits are compared that depend on how it fuses loops."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
