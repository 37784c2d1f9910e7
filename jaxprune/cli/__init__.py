"""The command line: parse, call the library, render. Nothing heavy is imported to print help."""

import argparse
import gc
import os
import re
import signal
import sys
from collections.abc import Sequence

from jaxprune._errors import PruningError
from jaxprune.cli._parser import parser
from jaxprune.cli._signals import catching, signals
from jaxprune.cli._words import in_options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 after one line on stderr that says what is wrong. 1 if whoever
        read what is printed has gone; 128 and its number after a signal.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(argv)
    if argv is None:  # in a process of its own: an accelerator's memory would only be in the way
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        # Python looks for cycles whenever there are 700 more objects, and now and then in all of
        # them: the descriptions of many tensors are many objects, and in no cycle.
        gc.set_threshold(100_000, 50, 50)
    # A process of its own is about to end: a signal on its way out must change nothing.
    with catching(restore=argv is not None):
        try:
            return _run(options)
        except BaseException as error:
            if signals.caught is None and not isinstance(error, KeyboardInterrupt):
                raise
            print(f"jaxprune: {_printable(_interrupted(signals.caught))}", file=sys.stderr)
            return signals.status


def _run(options: argparse.Namespace) -> int:
    try:
        from jaxprune.cli import _commands  # noqa: PLC0415  # JAX is behind it

        signals.check()
        text = _commands.run(options)
        with signals.at_once():
            print(text, flush=True)
    except BrokenPipeError:
        # Or Python would complain when it flushes on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PruningError, OSError, MemoryError) as error:
        print(f"jaxprune: {_printable(_message(error))}", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("JAXPRUNE_TRACEBACK"):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        print(
            f"jaxprune: unexpected {_printable(what)}. This is a bug in jaxprune; please report it "
            "with what JAXPRUNE_TRACEBACK=1 shows.",
            file=sys.stderr,
        )
        return 2
    return 0


def _interrupted(number: int | None) -> str:
    what = "interrupted" if number in (None, signal.SIGINT) else f"ended by {_name(number)}"
    atomic = sys.modules.get("jaxprune.io._atomic")  # before it is there, nothing can be written
    outputs = ", ".join(map(str, atomic.written())) if atomic else ""
    return f"{what}; written: {outputs}." if outputs else f"{what}; nothing was written."


def _name(number: int | None) -> str:
    return signal.Signals(number).name if number is not None else ""


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        why = error.strerror or " ".join(map(str, error.args)) or type(error).__name__
        return f"{os.fsdecode(error.filename)}: {why}"
    return in_options(str(error)) or type(error).__name__


def _printable(text: str) -> str:
    """Without the control characters of names and paths; the lines of several problems stay."""
    return re.sub(r"\n(?!  )|[\0-\t\v-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)
