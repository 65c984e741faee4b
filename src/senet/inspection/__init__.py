"""What a network's gates do: statistics over a data set, a page to look at, JSON and CSV."""

from senet.inspection.inspection import Inspection, inspect
from senet.inspection.writing import page, write

__all__ = ["Inspection", "inspect", "page", "write"]
