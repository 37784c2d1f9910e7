"""From what was typed to specs, metrics and patterns."""

import argparse
import re
from typing import Any, Literal

import jax

from jaxprune import (
    L1,
    L2,
    LCG,
    NM,
    Block,
    Channels,
    Columns,
    PruningError,
    Random,
    Rows,
    Unstructured,
    is_weight,
)
from jaxprune._specs.checks import Axis
from jaxprune._where import Where
from jaxprune.io import Checkpoint
from jaxprune.io._checkpoint import is_dotted

_TORCH_AXES = {"input": 1, "output": 0}
_TOGETHER = {
    "--per": "--spec unstructured",
    "--axis": "--spec N:M and --spec channels",
    "--sparsity": "specs other than N:M, which say themselves how much goes",
}


def spec_of(options: argparse.Namespace, source: Checkpoint) -> Any:
    """The spec that was asked for, under rules for what is skipped."""
    spec = _spec(options)
    if not options.skip:
        return spec
    if "*" in options.skip:  # as a rule, the one for the rest would take its place
        raise PruningError("--skip '*' leaves nothing to prune: name fewer tensors.")
    return dict.fromkeys(_as_paths(options.skip, source)) | {"*": spec}


def where_of(options: argparse.Namespace, source: Checkpoint) -> Where:
    """Which tensors are in scope."""
    return _as_paths(options.where, source) if options.where else is_weight


def metric_of(options: argparse.Namespace) -> Any:
    """The metric that was asked for."""
    if options.metric in ("l1", "l2"):
        return L1() if options.metric == "l1" else L2()
    if options.metric == "lcg":
        return LCG(options.seed)
    if not -(2**63) <= options.seed < 2**63:
        raise PruningError(f"--seed {options.seed}: expected a number of 64 bits.")
    return Random(jax.random.key(options.seed))


def _spec(options: argparse.Namespace) -> Any:
    text = options.spec
    if groups := re.fullmatch(r"(\d+):(\d+)", text):
        _refuse(options, "--per", "--sparsity")
        return NM(int(groups[1]), int(groups[2]), axis=_axis(options, options.axis or "input"))
    sparsity = 0.5 if options.sparsity is None else options.sparsity
    if text == "unstructured":
        _refuse(options, "--axis")
        return Unstructured(sparsity, per=_scope(options))
    _refuse(options, "--per")
    if text == "channels":
        return Channels(sparsity, axis=_axis(options, options.axis or "output"))
    _refuse(options, "--axis")
    if text in ("rows", "columns"):
        return Rows(sparsity) if text == "rows" else Columns(sparsity)
    if sides := re.fullmatch(r"block=(\d+)x(\d+)", text):
        return Block(sparsity, (int(sides[1]), int(sides[2])))
    raise PruningError(
        f"--spec {text}: expected unstructured, N:M such as 2:4, rows, columns, channels, or "
        "block=HxW such as block=16x16."
    )


def _scope(options: argparse.Namespace) -> Literal["leaf", "global"] | Axis:
    if options.per in (None, "leaf"):
        return "leaf"
    return "global" if options.per == "global" else _axis(options, options.per, "--per")


def _axis(options: argparse.Namespace, text: str, option: str = "--axis") -> Axis:
    if text in _TORCH_AXES:
        return _TORCH_AXES[text] if options.layout == "torch" else text  # type: ignore[return-value]
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    others = "leaf, global, " if option == "--per" else ""
    raise PruningError(f"{option} {text}: expected {others}input, output or a number such as 0.")


def _refuse(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(options, name.removeprefix("--")) is not None:
            raise PruningError(f"{name} goes with {_TOGETHER[name]}, not with {options.spec}.")


def _as_paths(patterns: list[str], source: Checkpoint) -> list[str]:
    """Patterns as paths are written: names may be given as they stand in the file."""
    dotted = is_dotted(source.tensors)
    return [pattern.replace(".", "/") if dotted else pattern for pattern in patterns]
