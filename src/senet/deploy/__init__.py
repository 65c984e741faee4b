"""Networks made ready for use: the same function, computed faster, and in files that other programs run.

Names are imported on first use (PEP 562): `senet.optimize` costs no data sets, and nothing here costs a runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senet.deploy.compiled import Compiled
    from senet.deploy.export import Check, ExportReport, export
    from senet.deploy.loading import load_exported
    from senet.deploy.optimize import OptimizeReport, optimize
    from senet.deploy.passport import Passport

__all__ = [
    "Check",
    "Compiled",
    "ExportReport",
    "OptimizeReport",
    "Passport",
    "export",
    "load_exported",
    "optimize",
]

HOMES = {
    "compiled": ("Compiled",),
    "export": ("Check", "ExportReport", "export"),
    "loading": ("load_exported",),
    "optimize": ("OptimizeReport", "optimize"),
    "passport": ("Passport",),
}


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            # Set here, over the submodule of the same name that the import binds.
            value = globals()[name] = getattr(import_module(f"senet.deploy.{home}"), name)
            return value
    raise AttributeError(f"module 'senet.deploy' has no attribute {name!r}")
