"""The command line: parse, call the library, render. Nothing heavy is imported to print help."""

import os
import sys
from collections.abc import Sequence

from jaxprune._errors import PruningError
from jaxprune.cli._parser import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 after one line on stderr that says what is wrong.
    """
    options = parser().parse_args(argv)
    if argv is None:  # in a process of its own: an accelerator's memory would only be in the way
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jaxprune.cli import _commands  # noqa: PLC0415  # JAX is behind it

    try:
        getattr(_commands, options.command)(options)
    except (PruningError, OSError, MemoryError) as error:
        print(f"jaxprune: {_told(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxprune: interrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__
