"""Names of Cadene's port of the authors' networks, timm's `legacy_se*`."""

from __future__ import annotations

from senet.preprocessing import IMAGENET
from senet.weights.from_torchvision import SE_AS_PUBLISHED, residual
from senet.weights.rules import Rule, Table

__all__ = ["AUTHORS", "TABLES"]

AUTHORS = SE_AS_PUBLISHED | {"ceil_pool": True, "stride_first": lambda spec: spec.groups == 1}
"""Options of the authors' residual networks that no key shows."""

_BLOCKS = tuple(
    rule for rule in residual(Rule("se_module.fc{n}.{p}", "se.fc{n}.{p}", kernel=1)) if rule.theirs.startswith("layer")
)

TABLES = (
    Table(
        "cadene",
        "Cadene's (timm's legacy) SE networks",
        (
            Rule("layer0.conv{n+1}.{p}", "stem.{n}.0.{p}"),
            Rule("layer0.bn{n+1}.{p}", "stem.{n}.1.{p}"),
            *_BLOCKS,
            Rule("last_linear.{p}", "head.fc.{p}"),
        ),
        # timm's legacy_seresnet18 and 34 are not the authors': a ReLU ends each branch.
        AUTHORS | {"branch_relu": lambda spec: not spec.bottleneck},
        images=IMAGENET,
    ),
)
