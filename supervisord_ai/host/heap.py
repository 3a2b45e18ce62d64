"""The door to this process's own heap: what is large goes back to the system when it is let go."""

from __future__ import annotations

import ctypes

APART_BYTES = 1_000_000

_M_MMAP_THRESHOLD = -3  # malloc.h, of glibc
_M_ARENA_MAX = -8
_ARENAS = 2  # a heap of its own for each of the threads that read, write and hash keeps what each of them once needed


def keep_large_blocks_apart() -> None:
    """Have each block of a megabyte or more mapped by itself, and unmapped when it is freed.

    Otherwise glibc learns from the first large blocks that are freed to keep up to 64 MB of them (mallopt(3), the dynamic
    threshold): a body of 40 MB that is gone would go on being ours. To be called before there is a second thread. Where there
    is no glibc nothing happens: musl maps large blocks apart as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, APART_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)
