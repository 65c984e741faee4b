"""Surgery: insert attention into any network, freeze it into constants, prune it or remove it."""

from senet.surgery.apply import apply_insertion_points, remove
from senet.surgery.freezing import FreezeReport, GateReport, freeze, prune
from senet.surgery.report import InsertionPoint, Report, Skipped
from senet.surgery.retrofitting import plan, retrofit, trainable

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
