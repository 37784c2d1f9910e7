"""What may end a command early: signals, noticed where work can stop, and answered once."""

import signal
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

    A handler that raised would raise wherever Python is at the time. In a callback of JAX the
    exception is lost, while a C++ module is imported it aborts the process, and the threads that
    write go on writing. So it is only noted, and raised by `check`, between two tensors.

    Attributes:
        caught: Its number; None if none has come.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._at_once = False

    def check(self) -> None:
        """Raises if a signal has come.

        Raises:
            Stopped: one has.
        """
        if self.caught is not None:
            raise Stopped

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raises wherever it is within the `with` statement: for what waits for other processes."""
        self.check()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    @property
    def status(self) -> int:
        """The exit status that shells give to a process which a signal ended."""
        return 128 + (self.caught or signal.SIGINT)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.caught is None:
            self.caught = number
            if self._at_once:
                raise Stopped


signals = Signals()


@contextmanager
def catching(*, restore: bool) -> Iterator[Signals]:
    """Notes signals within the `with` statement, and afterwards too if nothing is to be restored.

    Args:
        restore: Whether the handlers that were there before come back.

    Yields:
        The signals.
    """
    signals.caught = None
    before = {}
    try:
        for name in _NAMES:
            number = getattr(signal, name, None)
            # What is ignored, as SIGHUP is under nohup, stays ignored.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, signals._catch)
    except ValueError:  # another thread calls, and signals are none of its business
        pass
    try:
        yield signals
    finally:
        if restore:
            for number, handler in before.items():
                signal.signal(number, handler)
