"""Surgery: attention for any network, inserted without losing it, frozen into constants, or removed again."""

from senet.surgery.report import Report, Site, Skipped
from senet.surgery.retrofit import apply_sites, plan, remove, retrofit, trainable

__all__ = ["Report", "Site", "Skipped", "apply_sites", "plan", "remove", "retrofit", "trainable"]
