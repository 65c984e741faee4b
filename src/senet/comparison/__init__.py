"""Compare networks trained by the same recipe, with the same data order and seeds, and test the differences.

Names are imported on first use (PEP 562). A comparison's plan can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senet.comparison.statistics import Difference, Spread, paired, spread, verdict

__all__ = ["Difference", "Spread", "paired", "spread", "verdict"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("senet.comparison.statistics"), name)
    raise AttributeError(f"module 'senet.comparison' has no attribute {name!r}")
