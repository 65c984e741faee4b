"""The public names of the package: one list for the API reference, its examples and the tests of both."""

from __future__ import annotations

import importlib

PACKAGES = (
    "senet.nn",
    "senet.models",
    "senet.gates",
    "senet.surgery",
    "senet.fusion",
    "senet.profiling",
    "senet.weights",
    "senet.data",
    "senet.tasks",
    "senet.inference",
    "senet.inspection",
    "senet.training",
    "senet.comparison",
    "senet.deploy",
    "senet.preprocessing",
    "senet.errors",
)
"""Whose `__all__` is public, beside `senet` itself."""


def public_names(package: str) -> list[str]:
    """The names in a package's `__all__`."""
    return list(importlib.import_module(package).__all__)


def public_objects() -> dict[str, object]:
    """Dotted name to object, for all of `PACKAGES` and then `senet`."""
    return {
        f"{package}.{name}": getattr(importlib.import_module(package), name)
        for package in (*PACKAGES, "senet")
        for name in public_names(package)
    }
