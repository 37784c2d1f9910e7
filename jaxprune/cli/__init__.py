"""The command line: parse, call the library, render. Nothing heavy is imported to print help."""

import os
import re
import sys
from collections.abc import Sequence

from jaxprune._errors import PruningError
from jaxprune.cli._parser import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 after one line on stderr that says what is wrong. 1 if whoever
        read what is printed has gone.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(argv)
    if argv is None:  # in a process of its own: an accelerator's memory would only be in the way
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        from jaxprune.cli import _commands  # noqa: PLC0415  # JAX is behind it

        getattr(_commands, options.command)(options)
        print(end="", flush=True)
    except BrokenPipeError:
        # Or Python would complain when it flushes on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PruningError, OSError, MemoryError) as error:
        print(f"jaxprune: {_printable(_told(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxprune: interrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        why = error.strerror or " ".join(map(str, error.args)) or type(error).__name__
        return f"{os.fsdecode(error.filename)}: {why}"
    return str(error) or type(error).__name__


def _printable(text: str) -> str:
    """Without the control characters of names and paths; the lines of several problems stay."""
    return re.sub(r"\n(?!  )|[\0-\t\v-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
