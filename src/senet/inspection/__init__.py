"""Inspection of attention gates: statistics over a data set, a page with charts, JSON and CSV."""

from senet.inspection.inspection import Inspection, inspect
from senet.inspection.writing import page, write

__all__ = ["Inspection", "inspect", "page", "write"]
