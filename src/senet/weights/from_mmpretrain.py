"""Names of mmpretrain's (formerly mmclassification's) weights."""

from __future__ import annotations

from senet.preprocessing import IMAGENET
from senet.weights.from_torchvision import V1_5, residual
from senet.weights.rules import Rule, Table, under

__all__ = ["TABLES"]

_SE = Rule("se_layer.conv{n}.conv.{p}", "se.fc{n}.{p}", kernel=1)
_BODY = [rule for rule in residual(_SE) if not rule.theirs.startswith("fc.")]

TABLES = (
    Table(
        "mmpretrain",
        "mmpretrain's ResNets and SE-ResNets",
        (*under("backbone.", "", _BODY), Rule("head.fc.{p}", "head.fc.{p}")),
        V1_5,
        images=IMAGENET,
    ),
)
"""Networks with `style="pytorch"`, the default. Other styles have the stride elsewhere, under the same names."""
