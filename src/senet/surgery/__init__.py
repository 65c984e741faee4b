"""Surgery: attention for any network, inserted without losing it, frozen into constants, or removed again."""

from senet.surgery.apply import apply_insertion_points, remove
from senet.surgery.freeze import FreezeReport, GateReport, freeze, prune
from senet.surgery.report import InsertionPoint, Report, Skipped
from senet.surgery.retrofit import plan, retrofit, trainable

__all__ = [
    "FreezeReport",
    "GateReport",
    "InsertionPoint",
    "Report",
    "Skipped",
    "apply_insertion_points",
    "freeze",
    "plan",
    "prune",
    "remove",
    "retrofit",
    "trainable",
]
