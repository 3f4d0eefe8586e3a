"""How the C library holds the memory of tensors on a CPU."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt, as <malloc.h> numbers them
LARGEST = 2**25  # bytes: glibc takes no higher threshold


def tune_malloc() -> None:
    """Let glibc keep freed memory for the next tensor instead of giving it back to the system.

    Memory that comes back is filled with zeros a page at a time, which on a virtual machine took
    5 % of an iteration. Tensors above 32 MiB are not kept, so that none of a large model's are.
    Does nothing with another C library.

    Source: mallopt(3).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
