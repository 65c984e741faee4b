"""What Pillow says about odd metadata, in processes of our own."""

from __future__ import annotations

import warnings

__all__ = ["quiet_pillow"]


def quiet_pillow() -> None:
    """Silence Pillow's warnings in this process, for good.

    Call it where a process begins, before there are threads: Python's filters belong to the whole process. A program
    that uses this package as a library keeps the filters that it has.
    """
    warnings.filterwarnings("ignore", module=r"PIL(\..*)?$")
