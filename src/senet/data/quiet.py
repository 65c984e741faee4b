"""Silencing Pillow's warnings about odd metadata."""

from __future__ import annotations

import warnings

__all__ = ["quiet_pillow"]


def quiet_pillow() -> None:
    """Silence Pillow's warnings in this process, for good.

    Call it at the start of a process, before there are threads: Python's filters belong to the whole process. A program
    that imports this package keeps its own filters.
    """
    warnings.filterwarnings("ignore", module=r"PIL(\..*)?$")
