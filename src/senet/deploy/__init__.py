"""Export networks to ONNX, OpenVINO and torch.export files, verify them, run them, and serve a page to try a network.

Names are imported on first use (PEP 562). Importing the package loads neither data sets nor runtimes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senet.deploy.export_metadata import ExportMetadata
    from senet.deploy.exported_detector import ExportedDetector
    from senet.deploy.exported_model import ExportedModel
    from senet.deploy.exporting import Check, ExportReport, export
    from senet.deploy.loading import load_exported
    from senet.deploy.serving import Explanation, explain, serve

__all__ = [
    "Check",
    "Explanation",
    "ExportMetadata",
    "ExportReport",
    "ExportedDetector",
    "ExportedModel",
    "explain",
    "export",
    "load_exported",
    "serve",
]

HOMES = {
    "exported_detector": ("ExportedDetector",),
    "exported_model": ("ExportedModel",),
    "exporting": ("Check", "ExportReport", "export"),
    "loading": ("load_exported",),
    "export_metadata": ("ExportMetadata",),
    "serving": ("Explanation", "explain", "serve"),
}


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"senet.deploy.{home}"), name)
    raise AttributeError(f"module 'senet.deploy' has no attribute {name!r}")
