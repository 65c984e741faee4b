"""Imports of optional packages."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from senet.errors import SenetError

__all__ = ["need"]


def need(package: str, what_for: str, extra: str = "export") -> ModuleType:
    """Import an optional package.

    Raises:
        SenetError: It isn't installed. The message names the extra to install.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise SenetError(f"{what_for} needs the package {package}: pip install 'senet[{extra}]'") from error
