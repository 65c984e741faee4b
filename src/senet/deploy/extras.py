"""Imports of the optional packages of exported files."""

from senet.extras import need

__all__ = ["need"]
