"""`SENET_KERNELS`, the environment variable that selects the back ends of the fused operators."""

from __future__ import annotations

import os
from typing import Final

from senet.errors import UnknownNameError

__all__ = ["CHOICES", "VARIABLE", "requested"]

VARIABLE: Final = "SENET_KERNELS"
CHOICES: Final = ("compiled", "reference", "triton")
"""The compiled kernel on CPUs; no kernel; the compiled kernel on CPUs, and Triton's on GPUs."""


def requested() -> str:
    """Return the value of `SENET_KERNELS`. "compiled" if it isn't set.

    Raises:
        UnknownNameError: The value is none of `CHOICES`.

    Example:
        >>> from senet.ops import using
        >>> from senet.ops.setting import requested
        >>> with using("reference"):
        ...     requested()
        'reference'
    """
    found = os.environ.get(VARIABLE) or "compiled"
    if found not in CHOICES:
        raise UnknownNameError(f"value of {VARIABLE}", found, CHOICES)
    return found
