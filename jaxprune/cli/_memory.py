"""How a process of its own asks for memory."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # the parameters of glibc's mallopt


def keep_freed_memory() -> None:
    """Has the C library keep what is freed, where it is glibc.

    A command allocates arrays as large as a tensor again and again. By default glibc takes each
    from the system and gives it back, and the system clears every page of it anew: half of the time
    of pruning. Kept, they are used again. The peak is that of the largest tensors either way.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
