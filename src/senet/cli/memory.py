"""Keep freed memory in the process."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of the settings in glibc's `malloc.h`."""

NEVER = -1
LARGEST_FROM_THE_HEAP = 1 << 30
"""Bytes. Older releases of glibc refuse more than 32 MiB. Then only trimming changes."""

WISHES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables of the same settings. They have priority."""


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for later allocations.

    glibc returns each allocation of more than 32 MiB to the system when it is freed. The next layer gets new pages,
    which the system must find and clear. On CPU this costs SE-ResNet-50 a tenth of a training step's time, and a
    quarter of inference in batches of 32. Keeping the memory needs a tenth to a fifth more of it
    (`benchmarks/memory_kept.json`).

    The setting holds for the whole process, so commands make it and the library doesn't.

    Returns:
        Whether it is set. It needs glibc.
    """
    if "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()) or any(name in os.environ for name in WISHES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(MMAP_THRESHOLD, LARGEST_FROM_THE_HEAP)
    return bool(mallopt(TRIM_THRESHOLD, NEVER))
