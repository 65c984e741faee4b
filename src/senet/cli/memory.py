"""How this process's memory comes from the system and goes back to it."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's numbers (malloc.h) of the settings."""

NEVER = -1
LARGEST_FROM_THE_HEAP = 1 << 30
"""In bytes. Releases of glibc that take at most 32 MiB refuse it; then nothing but trimming changes."""

WISHES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""The user's own settings of the same, in the environment: they stay."""


def keep_freed_memory() -> bool:
    """Let freed memory stay with this process, to be used again.

    glibc gives each map of more than 32 MiB back to the system when it is freed. The next layer's comes as new pages,
    which the system must find and clear: of SE-ResNet-50 on a processor a tenth of a training step's time, a quarter of
    inference in batches of 32, for a tenth to a fifth more memory (benchmarks/memory_kept.json). It is for the whole
    process, so it is for a command to do, not for a library.

    Returns:
        Whether it is so now. Not with another C library than glibc, which does it otherwise.
    """
    if "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()) or any(name in os.environ for name in WISHES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(MMAP_THRESHOLD, LARGEST_FROM_THE_HEAP)
    return bool(mallopt(TRIM_THRESHOLD, NEVER))
