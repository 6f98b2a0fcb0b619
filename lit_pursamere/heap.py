"""Memory that a process has freed stays with it, so that it need not ask the system for it again."""

from __future__ import annotations

import ctypes

__all__ = ["keep_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGE = 2**31 - 1  # bytes, the largest that mallopt takes


def keep_memory(size: int = LARGE) -> bool:
    """Tell glibc not to hand up to `size` bytes of freed memory back to the system; True if it is there and heeds it.

    A gradient of a network frees all that its forward pass kept. Handed back, every page of it costs a fault at the
    next gradient. The peak of the memory stays what it is; it is only not left again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, size) and mallopt(M_TRIM_THRESHOLD, size))
