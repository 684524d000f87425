"""Memory that a command has freed stays with it."""

import ctypes
import os
import sys

# The parameters of mallopt(3), as glibc's malloc.h numbers them.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
SETTINGS = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next allocation, instead of giving it back to the system.

    By default every tensor over 32 MiB is mapped anew, and the system fills its pages with zeros at the first write.
    An older glibc takes no higher limit than these 32 MiB. Only commands call this, because it changes the whole
    process. On another C library, or where environment variables set up the allocator, it does nothing.

    Source: mallopt(3).
    """
    if sys.platform != "linux" or any(name in os.environ for name in SETTINGS):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # A limit that is rejected leaves glibc's own. The other calls would then fix it at 128 KiB.
        if not (mallopt(MMAP_THRESHOLD, 2**30) or mallopt(MMAP_THRESHOLD, 2**25)):
            return
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(TOP_PAD, 2**26)
