"""Memory that a process frees, kept for what it allocates next."""

import ctypes
import os

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT = 1 << 30  # bytes
_BLOCK = 1 << 25  # bytes; as far as glibc raises that threshold by itself. Larger blocks go back to the kernel
_OF_USERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Let this process, until it ends, keep up to a gigabyte of what it frees, where the C library is glibc.

    Every operator frees and allocates activations; memory that went back to the kernel in between is mapped and zeroed
    again page by page, in every forward pass. Not for processes that are the user's; and whoever sets
    `MALLOC_TRIM_THRESHOLD_` or `MALLOC_MMAP_THRESHOLD_` in the environment is left alone.

    Returns:
        Whether it does.
    """
    if any(name in os.environ for name in _OF_USERS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    # One threshold alone would be worse than none: it ends glibc's own adjustment of the other.
    return bool(mallopt(_MMAP, _BLOCK) and mallopt(_TRIM, _KEPT))
