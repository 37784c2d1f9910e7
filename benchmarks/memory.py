"""What selection takes beside the parameters and their mask."""

import functools
import gc
import pathlib
from collections.abc import Callable
from typing import Any

import jax

import jaxprune as jp
from benchmarks import networks
from benchmarks.fresh import ask
from benchmarks.race import Line, Row, megabytes

_LEAF, _RESNET, _VIT = "one leaf of 100 M", "ResNet-50", "ViT-B/16"
_PROC = pathlib.Path("/proc/self")

_SPECS = {
    "per leaf": jp.Unstructured(0.5),
    "global": jp.Unstructured(0.5, per="global"),
    "per=0": jp.Unstructured(0.5, per=0),
    "per=-1": jp.Unstructured(0.5, per=-1),
}


def rows() -> list[Row]:
    """By the compiler's analysis, and by the operating system's."""
    analysed = [
        _analysis(network, spec, 0.6 if "=" in spec else 0.35)
        for network in (_VIT, _LEAF)
        for spec in _SPECS
    ]
    resnet = _analysis(_RESNET, "global", 1.1)
    return [*analysed, resnet, *([_peaks()] if _PROC.exists() else [])]


def _analysis(network: str, spec: str, must: float) -> Row:
    def measure(rounds: int) -> list[Line]:
        del rounds  # a program's buffers do not vary
        found = ask(analyse, network, spec)
        return _lines(found, network, must)

    return Row(f"memory of one jit, {network}, {spec}", measure, fresh=True)


def _peaks() -> Row:
    def measure(rounds: int) -> list[Line]:
        del rounds
        # So that what is freed goes back, and is counted anew.
        found = ask(peaks, MALLOC_MMAP_THRESHOLD_="65536")
        return _lines(found, _RESNET, None)

    return Row(f"global budget over {_RESNET}, eagerly, peak memory", measure, fresh=True)


def _lines(found: dict[str, float], network: str, must: float | None) -> list[Line]:
    params = networks.bytes_of(networks.shapes(network))
    return [
        Line(
            megabytes(size),
            f"the parameters ({what})",
            megabytes(params),
            size / params,
            None,
            must,
        )
        for what, size in found.items()
    ]


# --- in a fresh process ---------------------------------------------------------------------------


def analyse(network: str, spec: str) -> dict[str, float]:
    """Bytes of temporary buffers, by XLA's analysis of a program of which only the mask comes out.

    The pruned weights are left out: until they are written, their buffer serves for anything else.
    """
    params, chosen = networks.shapes(network), _SPECS[spec]
    programs: dict[str, Callable[[Any], Any]] = {
        "prune": lambda params: jp.prune(params, chosen)[1],
        "make_mask(importance)": lambda params: jp.make_mask(
            jp.importance(params, jp.L1()), chosen
        ),
    }
    compiled = {name: jax.jit(each).lower(params).compile() for name, each in programs.items()}
    analyses = {name: each.memory_analysis() for name, each in compiled.items()}
    return {name: float(each.temp_size_in_bytes) for name, each in analyses.items() if each}


def peaks() -> dict[str, float]:
    """Bytes that a global budget over a ResNet-50 takes at its peak, beyond the arrays it is given.

    They are those of a second call: compilation takes memory of its own, several times as much.
    """
    params, spec = networks.filled(_RESNET), _SPECS["global"]
    # An accelerator's peak cannot be forgotten, so the smaller comes first.
    alone = _peak(functools.partial(jp.make_mask, jp.importance(params, jp.L1()), spec))
    whole = _peak(lambda: jp.make_mask(jp.importance(params, jp.L1()), spec))
    return {"mask included, selection alone": alone, "mask included, score to mask": whole}


def _peak(call: Callable[[], Any]) -> float:
    """The most bytes beyond those in use before, during a second call."""
    jax.block_until_ready(call())
    gc.collect()
    device = jax.local_devices()[0]
    if stats := device.memory_stats():
        jax.block_until_ready(call())
        return float(device.memory_stats()["peak_bytes_in_use"] - stats["bytes_in_use"])
    (_PROC / "clear_refs").write_text("5")  # Linux forgets the peak
    before = _status("VmRSS")
    jax.block_until_ready(call())
    return float(_status("VmHWM") - before)


def _status(field: str) -> int:
    lines = (_PROC / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
