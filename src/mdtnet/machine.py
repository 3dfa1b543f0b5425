"""Freed memory is kept for the next pass. glibc gives large blocks back at once, and each pass of a network then waits
for the system to clear the same pages again: a third of MobileNetV2's time on one core, a few percent of ResNet-50's.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h; 2.31 takes no M_MMAP_THRESHOLD above 32 MiB
NEVER = -1


def keep_freed_memory() -> None:
    """For this process from now on; does nothing where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, NEVER)
