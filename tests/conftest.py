"""What all tests share: eight devices of one CPU, how programs are compiled, settings."""

import gc
import os
from contextlib import contextmanager, nullcontext
from pathlib import Path

import chex
import jax
import pytest
from hypothesis import settings

# Their subject is how XLA compiles: they are compiled as for users. All other programs are small
# and run once, and to compile them well would take longest.
COMPILER = ("kernels/test_floats.py", "test_compat.py", "test_fusion.py")

# `make test` runs those of the compiler apart: they cannot share a process with what follows. To
# compile small programs takes a third less without XLA's emitters of fusions. JAX 0.10 knows the
# flag, 0.12 does not, and an unknown one ends the process.
QUICK = os.environ.get("TEST_COMPILER") == "quick"
collect_ignore = list(COMPILER) if QUICK else []
if QUICK and jax.__version_info__ < (0, 11):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"

# Before JAX wakes up: afterwards the number of devices is settled.
chex.set_n_cpu_devices(int(os.environ.get("TEST_DEVICES", "8")))

# Most of the time is XLA's: what one worker, or an earlier run, has compiled is loaded.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache/jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Programs and their traces are many objects that live long: to look through them less often saves a
# tenth of the time.
gc.set_threshold(100_000)

settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True, database=None)
settings.register_profile("dev", deadline=None, max_examples=40)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def x64():
    """`with x64(True):` gives JAX its 64-bit types, and `with x64(False):` takes them away."""
    return jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


@pytest.fixture(autouse=True, scope="module")
def compilation(request):
    """XLA with all of its passes in the modules that are about them."""
    with all_passes() if str(request.path).endswith(COMPILER) else nullcontext():
        yield


@pytest.fixture
def optimized():
    """The same for a single test, whose bits depend on how XLA fuses loops."""
    with all_passes():
        yield


@contextmanager
def all_passes():
    """Compiles as users do, and keeps nothing that was compiled otherwise."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
