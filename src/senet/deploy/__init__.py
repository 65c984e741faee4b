"""Networks made ready for use: the same function, computed faster, and in files that other programs run.

What writes and reads files is imported on first use (PEP 562), so a bare import costs no data sets and no runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senet.deploy.compiled import Compiled
    from senet.deploy.export_metadata import ExportMetadata
    from senet.deploy.exporting import Check, ExportReport, export
    from senet.deploy.loading import load_exported

__all__ = [
    "Check",
    "Compiled",
    "ExportMetadata",
    "ExportReport",
    "export",
    "load_exported",
]

HOMES = {
    "compiled": ("Compiled",),
    "exporting": ("Check", "ExportReport", "export"),
    "loading": ("load_exported",),
    "passport": ("ExportMetadata",),
}


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"senet.deploy.{home}"), name)
    raise AttributeError(f"module 'senet.deploy' has no attribute {name!r}")
