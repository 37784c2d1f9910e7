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
from jaxprune._where import Where
from jaxprune.io import Checkpoint
from jaxprune.io._checkpoint import is_dotted

_AXES = {"flax": {"input": -2, "output": -1}, "torch": {"input": 1, "output": 0}}
# GPT-2 keeps these as [in, out] under names and metadata that elsewhere mean [out, in].
_CONV1D = re.compile(r".*\b(c_attn|c_fc|c_proj|q_attn)\.weight")
_WITH_DATA = ("wanda", "sparsegpt", "taylor", "fisher", "movement")
_METRICS = ("l1", "l2", "random", "lcg")
_TOGETHER = {
    "--per": "--spec unstructured",
    "--axis": "--spec N:M and --spec channels",
    "--sparsity": "specs other than N:M, which say themselves how much goes",
}


def spec_of(options: argparse.Namespace, source: Checkpoint) -> Any:
    """The spec that was asked for, under rules for what is skipped."""
    spec = _spec(options, source)
    if not options.skip:
        return spec
    if "*" in options.skip:  # as a rule, the one for the rest would take its place
        raise PruningError("--skip '*' leaves nothing to prune: name fewer tensors.")
    return dict.fromkeys(_as_paths(options.skip, source)) | {"*": spec}


def layout_of(options: argparse.Namespace, source: Checkpoint) -> str | None:
    """How kernels lie: as was typed, or as the names and the metadata of the file say; or None."""
    if options.layout:
        return str(options.layout)
    kernels = [tensor for tensor in source.tensors if len(tensor.shape) >= 2]
    names = [str(tensor.keys[-1]) for tensor in kernels]
    if source.metadata.get("format") == "pt" and any(name.endswith(".weight") for name in names):
        return None if any(map(_CONV1D.fullmatch, names)) else "torch"
    # A kernel of rank 3 may be attention's [in, heads, features].
    certain = [re.split(r"[./]", name)[-1] == "kernel" for name in names]
    return "flax" if kernels and all(certain) and all(len(t.shape) != 3 for t in kernels) else None


def told_layout(options: argparse.Namespace, source: Checkpoint) -> str | None:
    """A line about the layout, if one was read from the file and the spec depends on it."""
    if options.layout or _axis_word(options) is None:
        return None
    layout = layout_of(options, source)
    if layout is None:
        return None
    why = {"torch": "'format': 'pt' in its metadata", "flax": "the name of every kernel"}[layout]
    other = "flax" if layout == "torch" else "torch"
    return f"layout    {layout}, by {why}; --layout {other} says otherwise"


def where_of(options: argparse.Namespace, source: Checkpoint) -> Where:
    """Which tensors are in scope."""
    return _as_paths(options.where, source) if options.where else is_weight


def skipped_of(options: argparse.Namespace, source: Checkpoint) -> list[str]:
    """What is left out of the scope of a report."""
    return _as_paths(options.skip, source)


def check_metric(options: argparse.Namespace) -> None:
    """Refuses a metric that does not exist, or that needs more than a file."""
    name = options.metric.lower()
    if name in _WITH_DATA:
        raise PruningError(
            f"--metric {options.metric} needs the model and data, and a checkpoint holds neither: "
            "it is a call in Python. docs/files.md shows it under 'Methods that need data'. Of "
            f"weights alone there are {', '.join(_METRICS)}."
        )
    if name not in _METRICS:
        raise PruningError(f"--metric {options.metric}: expected {', '.join(_METRICS)}.")


def metric_of(options: argparse.Namespace) -> Any:
    """The metric that was asked for."""
    name = options.metric.lower()
    if name in ("l1", "l2"):
        return L1() if name == "l1" else L2()
    if name == "lcg":
        if not 0 <= options.seed < 2**64:
            raise PruningError(
                f"--seed {options.seed}: --metric lcg takes a number of 0 to 2^64 - 1."
            )
        return LCG(options.seed)
    if not -(2**63) <= options.seed < 2**63:
        raise PruningError(f"--seed {options.seed}: expected a number of 64 bits.")
    return Random(jax.random.key(options.seed))


def _spec(options: argparse.Namespace, source: Checkpoint) -> Any:
    text = options.spec
    if groups := re.fullmatch(r"(\d+):(\d+)", text):
        _refuse(options, "--per", "--sparsity")
        return NM(int(groups[1]), int(groups[2]), axis=_axis(options, source))
    sparsity = 0.5 if options.sparsity is None else options.sparsity
    if text == "unstructured":
        _refuse(options, "--axis")
        return Unstructured(sparsity, per=_scope(options, source))
    _refuse(options, "--per")
    if text == "channels":
        return Channels(sparsity, axis=_axis(options, source))
    _refuse(options, "--axis")
    if text in ("rows", "columns"):
        return Rows(sparsity) if text == "rows" else Columns(sparsity)
    if sides := re.fullmatch(r"block=(\d+)x(\d+)", text):
        return Block(sparsity, (int(sides[1]), int(sides[2])))
    raise PruningError(
        f"--spec {text}: expected unstructured, N:M such as 2:4, rows, columns, channels, or "
        "block=HxW such as block=16x16."
    )


def _scope(options: argparse.Namespace, source: Checkpoint) -> Literal["leaf", "global"] | int:
    if options.per in (None, "leaf"):
        return "leaf"
    return "global" if options.per == "global" else _axis(options, source)


def _axis_text(options: argparse.Namespace) -> tuple[str, str] | None:
    """The option that names an axis and what it says, by default too; None if none is needed."""
    if re.fullmatch(r"\d+:\d+", options.spec):
        return "--axis", options.axis or "input"
    if options.spec == "channels":
        return "--axis", options.axis or "output"
    if options.spec == "unstructured" and options.per not in (None, "leaf", "global"):
        return "--per", options.per
    return None


def _axis_word(options: argparse.Namespace) -> str | None:
    """The axis, if it is named by a word."""
    choice = _axis_text(options)
    return choice[1] if choice and choice[1] in _AXES["flax"] else None


def _axis(options: argparse.Namespace, source: Checkpoint) -> int:
    """The axis that the spec needs, as a number."""
    choice = _axis_text(options)
    assert choice is not None
    option, text = choice
    if text in _AXES["flax"]:
        layout = layout_of(options, source)
        if layout is None:
            raise PruningError(
                f"--spec {options.spec} goes by the {text} axis, and the file does not say which "
                "that is: add --layout flax (kernels are [..., in, out]), --layout torch ([out, "
                f"in, ...]), or a number such as {option} 0."
            )
        return _AXES[layout][text]
    if re.fullmatch(r"-?\d{1,9}", text):
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
