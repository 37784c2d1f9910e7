"""What may end a command early: signals, told apart, never lost, and answered once."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, what timeout, docker and Slurm send, a terminal that closes, Ctrl-\, and the warnings that
# batch systems send ahead of a limit. Each would end the process by default, cleaning nothing up.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGALRM")


class Stopped(BaseException):
    """A signal asks the command to end. Like KeyboardInterrupt, it is no error."""


class Signals:
    """The first signal that came.

    Attributes:
        caught: Its number; None if none has come.
    """

    def __init__(self) -> None:
        self.caught: int | None = None

    def check(self) -> None:
        """Raises again for a signal whose exception was swallowed.

        Python raises wherever it is at the time. If that is a callback of JAX or of the garbage
        collector, the exception is printed or dropped there. So long work calls this in between.

        Raises:
            Stopped: a signal has come.
        """
        if self.caught is not None:
            raise Stopped

    @property
    def status(self) -> int:
        """The exit status that shells give to a process which a signal ended."""
        return 128 + (self.caught or signal.SIGINT)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        del frame
        # A second signal must not interrupt the cleaning up after the first.
        if self.caught is None:
            self.caught = number
            raise Stopped


signals = Signals()


@contextmanager
def catching() -> Iterator[Signals]:
    """Answers signals by `Stopped` within the `with` statement, in the main thread."""
    signals.caught = None
    before = {}
    hook = sys.unraisablehook
    try:
        for name in _NAMES:
            number = getattr(signal, name, None)
            # What is ignored, as SIGHUP is under nohup, stays ignored.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, signals._catch)
    except ValueError:  # another thread calls, and signals are none of its business
        pass
    # `check` raises it again, so the place where it was swallowed need not be told.
    sys.unraisablehook = lambda told: None if told.exc_type is Stopped else hook(told)
    try:
        yield signals
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
