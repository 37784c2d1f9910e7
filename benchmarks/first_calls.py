"""First calls: what someone waits for who has just typed them, in a fresh process."""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxprune as jp
from benchmarks import networks
from benchmarks.fresh import CPU, RESIDENT, SECONDS, ask, first
from benchmarks.race import Line, Row, is_installed, megabytes, seconds

_TIMES = 3  # fresh processes; the median of them counts

_SPECS: dict[str, Any] = {
    "0.5": 0.5,
    "global": jp.Unstructured(0.5, per="global"),
    "per output": jp.Unstructured(0.5, per="output"),
    "channels": jp.Channels(0.5),
}


class _Call(NamedTuple):
    """A first call, and the seconds that it may take."""

    name: str
    measure: Callable[..., dict[str, float]]
    arguments: tuple[str, ...]
    must: float | None = None
    aim: float | None = None
    rivals: tuple[str, ...] = ()


_RESNET, _VIT = "ResNet-50", "ViT-B/16"


def rows() -> list[Row]:
    """Eager calls, and one compiled whole."""
    return [
        _row(call)
        for call in (
            _pruning(_RESNET, "0.5", 2, 0.6),
            _pruning(_RESNET, "global", 3, 1),
            _pruning(_RESNET, "channels", 3, 1),
            _pruning(_RESNET, "per output", 3, 1),
            _Call(f"report of {_RESNET}, printed", report, (_RESNET,), 2, 0.6, ("count",)),
            _pruning(_VIT, "0.5", 2, 1),
            _pruning(_VIT, "global", 3, 1),
            _Call(f"mask of {_RESNET}, global, in one jit", jitted_mask, (_RESNET, "global")),
            _Call(f"prune of {_VIT}, 0.5, in one jit", jitted_prune, (_VIT, "0.5")),
        )
    ]


def _pruning(network: str, spec: str, must: float, aim: float) -> _Call:
    return _Call(
        f"prune of {network}, {spec}", prune, (network, spec), must, aim, ("argpartition", "topk")
    )


def _row(call: _Call) -> Row:
    def measure(rounds: int) -> list[Line]:
        times = min(rounds, _TIMES)
        runs = [ask(call.measure, *call.arguments) for _ in range(times)]
        taken, cpu = (statistics.median(run[what] for run in runs) for what in (SECONDS, CPU))
        ours = f"{seconds(taken)} (CPU {seconds(cpu)})"
        lines = [Line(ours, "one second", "1 s", taken, must=call.must, aim=call.aim)]
        for name in call.rivals:
            if name == "topk" and not is_installed("torch"):
                continue
            found = [ask(_RIVALS[name], *call.arguments) for _ in range(times)]
            theirs = statistics.median(run[SECONDS] for run in found)
            lines.append(Line(ours, _NAMES[name], seconds(theirs), taken / theirs))
        size, resident = networks.bytes_of(networks.shapes(call.arguments[0])), runs[0][RESIDENT]
        beside = f"the parameters ({RESIDENT})"
        lines.append(Line(megabytes(resident), beside, megabytes(size), resident / size))
        return lines

    return Row(f"first {call.name}", measure, fresh=True)


# --- in a fresh process ---------------------------------------------------------------------------


def prune(network: str, spec: str) -> dict[str, float]:
    """`prune`, eagerly."""
    params = networks.filled(network)
    return first(lambda: jp.prune(params, _SPECS[spec]))


def report(network: str) -> dict[str, float]:
    """`print(report(...))`, eagerly, of what was pruned."""
    pruned, mask = jp.prune(networks.filled(network), 0.5)
    return first(lambda: str(jp.report(pruned, mask)))


def jitted_prune(network: str, spec: str) -> dict[str, float]:
    """`prune` inside the user's own jit, as in a training step: one program for all leaves."""
    params = networks.filled(network)
    return first(lambda: jax.jit(lambda params: jp.prune(params, _SPECS[spec]))(params))


def jitted_mask(network: str, spec: str) -> dict[str, float]:
    """The three functions of which `prune` is made, but the last, in one jit."""
    params = networks.filled(network)

    @jax.jit
    def mask(params: Any) -> Any:
        return jp.make_mask(jp.importance(params, jp.L1()), _SPECS[spec])

    return first(lambda: mask(params))


def argpartition(network: str, spec: str) -> dict[str, float]:
    """The same in NumPy, as a user would write it."""
    leaves = networks.weights(network)

    def lowest_gone(scores: Any, axis: int) -> Any:
        count = scores.shape[axis] // 2
        gone = np.argpartition(scores, count, axis).take(range(count), axis)
        kept = np.ones(scores.shape, bool)
        np.put_along_axis(kept, gone, False, axis)
        return kept

    def run() -> list[Any]:
        if spec == "global":
            kept = lowest_gone(np.concatenate([abs(leaf).reshape(-1) for leaf in leaves]), 0)
            ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
            masks = [m.reshape(w.shape) for w, m in zip(leaves, np.split(kept, ends), strict=True)]
        elif spec == "channels":
            sums = [abs(leaf).reshape(-1, leaf.shape[-1]).sum(0) for leaf in leaves]
            masks = [lowest_gone(units, 0) for units in sums]
        elif spec == "per output":
            tables = [abs(leaf).reshape(-1, leaf.shape[-1]) for leaf in leaves]
            masks = [
                lowest_gone(table, 0).reshape(leaf.shape)
                for leaf, table in zip(leaves, tables, strict=True)
            ]
        else:
            masks = [lowest_gone(abs(leaf).reshape(-1), 0).reshape(leaf.shape) for leaf in leaves]
        return [np.where(mask, leaf, 0) for leaf, mask in zip(leaves, masks, strict=True)]

    return first(run)


def topk(network: str, spec: str) -> dict[str, float]:
    """The same in PyTorch."""
    import torch

    leaves = [torch.from_numpy(leaf.copy()) for leaf in networks.weights(network)]

    def lowest_gone(scores: Any, axis: int) -> Any:
        gone = torch.topk(scores, scores.shape[axis] // 2, axis, largest=False).indices
        return torch.ones_like(scores, dtype=torch.bool).scatter_(axis, gone, False)

    def run() -> list[Any]:
        if spec == "global":
            kept = lowest_gone(torch.cat([leaf.abs().flatten() for leaf in leaves]), 0)
            parts = kept.split([leaf.numel() for leaf in leaves])
            masks = [part.view_as(leaf) for leaf, part in zip(leaves, parts, strict=True)]
        elif spec == "channels":
            masks = [lowest_gone(leaf.abs().flatten(0, -2).sum(0), 0) for leaf in leaves]
        elif spec == "per output":
            masks = [lowest_gone(leaf.abs().flatten(0, -2), 0).view_as(leaf) for leaf in leaves]
        else:
            masks = [lowest_gone(leaf.abs().flatten(), 0).view_as(leaf) for leaf in leaves]
        return [leaf.where(mask, 0) for leaf, mask in zip(leaves, masks, strict=True)]

    return first(run)


def count(network: str) -> dict[str, float]:
    """How many weights are not zero, counted by NumPy: the least that a report must do."""
    leaves = networks.weights(network)
    return first(lambda: [np.count_nonzero(leaf) for leaf in leaves])


_RIVALS = {"argpartition": argpartition, "topk": topk, "count": count}
_NAMES = {
    "argpartition": "NumPy argpartition",
    "topk": "torch topk",
    "count": "NumPy count_nonzero",
}
