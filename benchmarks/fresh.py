"""Measurements in processes of their own: a process compiles once, and keeps what that took.

`ask` starts `python -m benchmarks.fresh MODULE FUNCTION ARGUMENT...`, which prints a line of JSON.
"""

import importlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

SECONDS, CPU, RESIDENT = "seconds", "CPU seconds", "resident, the compiler's included"


def ask(
    measure: Callable[..., dict[str, float]], *arguments: str, **settings: str
) -> dict[str, float]:
    """Runs a module's function in a fresh process, and returns what it found, by name.

    Args:
        measure: The function.
        *arguments: What it is called with.
        **settings: Environment variables.
    """
    always = {
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # or the second run would compile nothing
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # so that a GPU says what was in use
    }
    ran = subprocess.run(
        [sys.executable, "-m", __name__, measure.__module__, measure.__name__, *arguments],
        cwd=pathlib.Path(__file__).parents[1],
        env=os.environ | always | settings,
        stdout=subprocess.PIPE,
        check=True,
    )
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def first(call: Callable[[], Any]) -> dict[str, float]:
    """The time that the first call in a process takes, and its resident memory at the peak.

    CPU seconds, of all threads together, tell more than the clock where others use the machine.
    """
    resident, cpu, start = _maxrss(), time.process_time(), time.perf_counter()
    jax.block_until_ready(call())
    return {
        SECONDS: time.perf_counter() - start,
        CPU: time.process_time() - cpu,
        RESIDENT: _maxrss() - resident,
    }


def _maxrss() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


if __name__ == "__main__":
    module, function, *given = sys.argv[1:]
    print(json.dumps(getattr(importlib.import_module(module), function)(*given)))
