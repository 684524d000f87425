"""Memory that a command has freed stays with it."""

import ctypes
import sys

# The parameters of mallopt(3), as glibc's malloc.h numbers them.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next allocation, instead of giving it back to the system.

    By default every tensor over 32 MiB is mapped anew, and the system fills its pages with zeros at the first write.
    Only commands call this, because it changes the whole process. On another C library it does nothing.

    Source: mallopt(3).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, 2**30)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(TOP_PAD, 2**26)
