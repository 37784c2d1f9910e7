"""Parameters shaped like well-known networks, and what pruning them costs a fresh process.

A process compiles once, and keeps much of the memory that it took to compile: first calls and peaks
of memory are measured in processes of their own, which `ask` starts and which print a line of JSON.
"""

import gc
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from benchmarks.race import Line, Row, megabytes, seconds

GLOBAL = jp.Unstructured(0.5, per="global")

_MASKS_AND_A_TENTH = 0.25 + 0.1  # of the parameters: what a global budget may take beside them
_RESIDENT = "resident, the compiler's included"
_PROC = pathlib.Path("/proc/self")


def resnet50() -> dict[str, Any]:
    """ResNet-50 as Flax's ImageNet example names it: 161 leaves, 25.6 M weights."""
    shapes: dict[str, Any] = {"conv_init": _kernel(7, 7, 3, 64), "bn_init": _norm(64)}
    width, index = 64, 0
    for stage, blocks in enumerate([3, 4, 6, 3]):
        filters = 64 * 2**stage
        for position in range(blocks):
            block = {
                "Conv_0": _kernel(1, 1, width, filters),
                "Conv_1": _kernel(3, 3, filters, filters),
                "Conv_2": _kernel(1, 1, filters, 4 * filters),
            } | {f"BatchNorm_{i}": _norm(filters * (4 if i == 2 else 1)) for i in range(3)}
            if not position:
                block |= {"conv_proj": _kernel(1, 1, width, 4 * filters)}
                block |= {"norm_proj": _norm(4 * filters)}
            shapes[f"BottleneckResNetBlock_{index}"] = block
            width, index = 4 * filters, index + 1
    return _filled(shapes | {"Dense_0": _dense(2048, 1000)})


def vit_b16() -> dict[str, Any]:
    """ViT-B/16 without its head, its queries, keys and values fused: 150 leaves, 85.8 M weights."""
    width = 768
    block = {
        "LayerNorm_0": _norm(width),
        "LayerNorm_1": _norm(width),
        "attention": {"qkv": _dense(width, 3 * width), "out": _dense(width, width)},
        "mlp": {"Dense_0": _dense(width, 4 * width), "Dense_1": _dense(4 * width, width)},
    }
    return _filled(
        {
            "cls": (1, 1, width),
            "embedding": _kernel(16, 16, 3, width) | {"bias": (width,)},
            "pos_embedding": (1, 197, width),
            "encoder_norm": _norm(width),
        }
        | {f"encoderblock_{i}": block for i in range(12)}
    )


def size_in_scope(params: Any) -> int:
    """How many weights the default `where` takes."""
    return sum(row.total for row in jp.plan(params, 0.5).rows if row.spec is not None)


def rows() -> list[Row]:
    """The kinds of work that only a fresh process can measure."""
    resnet, vit = "global budget over ResNet-50", "prune(params, 0.5) of ViT-B/16"
    return [
        *([_fresh(f"{resnet}, peak memory", "peak_memory")] if _PROC.exists() else []),
        _fresh(f"{resnet}, first call", "first_global"),
        _fresh(f"{resnet}, first call in one jit", "first_jitted_global"),
        _fresh(f"{vit}, first call", "first_prune", times=3, must=6, aim=2),
        _fresh(f"{vit}, first call in one jit", "first_jitted_prune"),
    ]


def _fresh(
    name: str,
    measurement: str,
    times: int = 1,
    must: float | None = None,
    aim: float | None = None,
) -> Row:
    """A row of one line for the seconds, with their bounds, and one for each number of bytes."""

    def measure(rounds: int) -> list[Line]:
        runs = [ask(measurement) for _ in range(min(rounds, times))]
        taken = statistics.median(run.pop("seconds", 0.0) for run in runs)
        found = runs[0]  # bytes hardly vary
        params = found.pop("params")
        lines = [Line(seconds(taken), "one second", "1 s", taken, must=must, aim=aim)]
        return lines[: taken > 0] + [
            Line(
                ours=megabytes(size),
                rival=f"the parameters ({what})",
                theirs=megabytes(params),
                ratio=size / params,
                must=None if what == _RESIDENT else _MASKS_AND_A_TENTH,
            )
            for what, size in found.items()
        ]

    return Row(name, measure, fresh=True)


# --- in a fresh process ---------------------------------------------------------------------------


def ask(measurement: str) -> dict[str, float]:
    """Runs one of the measurements below in a fresh process, and returns what it found, by name."""
    settings = {
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # or the second run would compile nothing
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # so that a GPU says what was in use
        "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed goes back, and is counted anew
    }
    if measurement != "peak_memory":
        del settings["MALLOC_MMAP_THRESHOLD_"]  # it costs time
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.networks", measurement],
        cwd=pathlib.Path(__file__).parents[1],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        check=True,
    )
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def first_prune() -> dict[str, float]:
    """The first `prune` of a ViT-B/16, compilation included."""
    return _first(lambda params: jp.prune(params, 0.5), vit_b16())


def first_jitted_prune() -> dict[str, float]:
    """The same inside the user's own jit, as in a training step: one program for all leaves."""
    return _first(jax.jit(lambda params: jp.prune(params, 0.5)), vit_b16())


def first_global() -> dict[str, float]:
    """The first global budget over a ResNet-50."""
    return _first(_score_to_mask, resnet50())


def first_jitted_global() -> dict[str, float]:
    """The same inside the user's own jit, and what XLA says its results and its buffers take."""
    params, jitted = resnet50(), jax.jit(_score_to_mask)
    found = _first(jitted, params)
    if analysis := jitted.lower(params).compile().memory_analysis():
        total = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        found["XLA's analysis"] = float(total)
    return found


def peak_memory() -> dict[str, float]:
    """Bytes that a global budget over a ResNet-50 takes at its peak, beyond the arrays it is given.

    They are those of a second call: compilation takes memory of its own, several times as much.
    """
    params = jax.block_until_ready(resnet50())
    scores = jp.importance(params, jp.L1())
    # An accelerator's peak cannot be forgotten, so the smaller comes first.
    alone = _peak(_select, scores)
    del scores
    whole = _peak(_score_to_mask, params)
    return {"params": _size(params), "selection alone": alone, "score to mask": whole}


def _score_to_mask(params: Any) -> Any:
    return _select(jp.importance(params, jp.L1()))


def _select(scores: Any) -> Any:
    return jp.make_mask(scores, GLOBAL)


def _first(call: Callable[[Any], Any], params: Any) -> dict[str, float]:
    """The seconds that the first call of a process takes, and its resident memory at the peak."""
    jax.block_until_ready(params)
    resident, start = _maxrss(), time.perf_counter()
    jax.block_until_ready(call(params))
    taken = time.perf_counter() - start
    return {"seconds": taken, "params": _size(params), _RESIDENT: _maxrss() - resident}


def _size(params: Any) -> float:
    return float(sum(leaf.nbytes for leaf in jax.tree.leaves(params)))


def _peak(call: Callable[[Any], Any], given: Any) -> float:
    """The most bytes beyond those in use before, during a second call."""
    jax.block_until_ready(call(given))
    gc.collect()
    device = jax.local_devices()[0]
    if stats := device.memory_stats():
        return float(device.memory_stats()["peak_bytes_in_use"] - stats["bytes_in_use"])
    (_PROC / "clear_refs").write_text("5")  # Linux forgets the peak
    before = _status("VmRSS")
    jax.block_until_ready(call(given))
    return float(_status("VmHWM") - before)


def _status(field: str) -> int:
    lines = (_PROC / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _maxrss() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _kernel(*shape: int) -> dict[str, Any]:
    return {"kernel": shape}


def _dense(inputs: int, outputs: int) -> dict[str, Any]:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def _norm(width: int) -> dict[str, Any]:
    return {"scale": (width,), "bias": (width,)}


def _filled(shapes: dict[str, Any]) -> dict[str, Any]:
    random = np.random.default_rng(0)

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: fill(inner) for name, inner in node.items()}
        return jax.device_put(random.standard_normal(node, np.float32))

    return {name: fill(node) for name, node in shapes.items()}


_MEASUREMENTS = (first_prune, first_jitted_prune, first_global, first_jitted_global, peak_memory)

if __name__ == "__main__":
    print(json.dumps({call.__name__: call for call in _MEASUREMENTS}[sys.argv[1]]()))
