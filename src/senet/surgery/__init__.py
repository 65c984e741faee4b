"""Surgery: attention for any network, inserted without losing it, frozen into constants, or removed again."""

from senet.surgery.apply import apply_sites, remove
from senet.surgery.freeze import FreezeReport, GateReport, freeze, prune
from senet.surgery.report import Report, Site, Skipped
from senet.surgery.retrofit import plan, retrofit, trainable

__all__ = [
    "FreezeReport",
    "GateReport",
    "Report",
    "Site",
    "Skipped",
    "apply_sites",
    "freeze",
    "plan",
    "prune",
    "remove",
    "retrofit",
    "trainable",
]
