"""What can be typed."""

import argparse
from pathlib import Path

import jaxprune

_FORMATS = (
    "Checkpoints are .safetensors files (or the .safetensors.index.json of several), .npz files, "
    "Flax's .msgpack files, and folders that Orbax wrote."
)
_PATTERN = (
    "path pattern, such as '*/mlp/*': * stands for any text, slashes and dots among it; may be "
    "given several times"
)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="jaxprune",
        description=f"Prunes checkpoints, and tells what is in them. {_FORMATS}",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"jaxprune {jaxprune.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_prune(_command(commands, "prune", "write a checkpoint in which the least weights are 0"))
    _add_report(_command(commands, "report", "count what is zero, and name the pattern"))
    _add_compare(_command(commands, "compare", "tell what changed between two checkpoints"))
    _add_pack(_command(commands, "pack", "write a checkpoint without its zeros"))
    _add_unpack(_command(commands, "unpack", "write what was packed as it was"))
    return top


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, help_: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=help_, description=f"{help_.capitalize()}. {_FORMATS}", allow_abbrev=False
    )


def _text(typed: str) -> str:
    if not typed or "\0" in typed:
        raise argparse.ArgumentTypeError(f"expected a path, got {typed!r}")
    return typed


def _pattern(typed: str) -> str:
    if not typed:
        raise argparse.ArgumentTypeError("expected a path pattern, got ''")
    return typed


def _path(typed: str) -> Path:
    return Path(_text(typed))


def _add_prune(prune: argparse.ArgumentParser) -> None:
    add = prune.add_argument
    add("input", metavar="IN", type=_path, help="the checkpoint")
    # No Path, for that would lose the slash at the end of a folder.
    add(
        "-o", "--output", metavar="OUT", type=_text, help="what to write; its extension: the format"
    )
    add("--sparsity", metavar="S", type=float, help="fraction removed, in [0, 1); 0.5 by default")
    add(
        "--spec",
        default="unstructured",
        help="unstructured (the default), N:M (2:4 keeps 2 of every 4), rows, columns, channels "
        "or block=HxW",
    )
    add(
        "--per",
        metavar="SCOPE",
        help="what shares an unstructured budget: leaf (each tensor, the default), global (all of "
        "them), or an axis: each index along it",
    )
    add(
        "--axis",
        help="of N:M, along which groups lie (input by default); of channels, whose indices are "
        "the channels (output by default): input, output or a number",
    )
    add(
        "--metric",
        metavar="{l1,l2,random,lcg}",
        default="l1",
        help="how weights are scored; default: %(default)s. Wanda, SparseGPT and whatever else "
        "needs data are calls in Python",
    )
    add("--seed", metavar="N", type=int, default=0, help="of random and lcg; default: %(default)s")
    _add_where(prune)
    add(
        "--layout",
        choices=("flax", "torch"),
        help="where kernels keep input and output: [..., in, out], or [out, in, ...]; by default "
        "as names and metadata say, if they do",
    )
    add("--dry-run", action="store_true", help="say what would be pruned; read and write no values")
    add("--mask-out", metavar="FILE", type=_path, help="write the masks too: bool, true = kept")
    add("--report", action="store_true", help="print the report of what was written")
    add(
        "--with-sidecars",
        action="store_true",
        help="copy the configuration and the tokenizer that lie beside a Hugging Face model too; "
        "nothing is written over",
    )


def _add_report(report: argparse.ArgumentParser) -> None:
    add = report.add_argument
    add("input", metavar="FILE", type=_path, help="the checkpoint")
    _add_where(report)
    form = report.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print it as JSON")
    form.add_argument("--csv", action="store_true", help="print its rows as CSV")
    form.add_argument("--html", metavar="OUT.html", type=_path, help="write it as a page")


def _add_compare(compare: argparse.ArgumentParser) -> None:
    add = compare.add_argument
    add("a", metavar="A", type=_path, help="a checkpoint")
    add("b", metavar="B", type=_path, help="another")
    form = compare.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print it as JSON")
    form.add_argument("--html", metavar="OUT.html", type=_path, help="write it as a page")


def _add_where(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--where",
        metavar="PATTERN",
        action="append",
        type=_pattern,
        help=f"in scope are the floating tensors that it names, instead of all weights but biases, "
        f"norms and embeddings: {_PATTERN}",
    )
    command.add_argument(
        "--skip",
        metavar="PATTERN",
        action="append",
        type=_pattern,
        default=[],
        help=f"leave these: {_PATTERN}",
    )


def _add_pack(pack: argparse.ArgumentParser) -> None:
    add = pack.add_argument
    add("input", metavar="IN", type=_path, help="the checkpoint")
    add("-o", "--output", metavar="OUT", type=_text, required=True, help="a .safetensors file")


def _add_unpack(unpack: argparse.ArgumentParser) -> None:
    add = unpack.add_argument
    add("input", metavar="IN", type=_path, help="what jaxprune pack wrote")
    add("-o", "--output", metavar="OUT", type=_text, required=True, help="what to write")
