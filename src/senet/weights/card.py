"""What is known about one public checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from senet.preprocessing import Preprocessing

__all__ = ["Card"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One public checkpoint: where from, for what, how good.

    Attributes:
        model: The network's name in `list_models()`.
        tag: Which of that network's checkpoints; `create_model(model, pretrained=tag)`.
        repo: Repository on the Hugging Face hub.
        file: Name of the file in it.
        licence: SPDX identifier, as its publisher states it.
        preprocessing: What its images go through.
        num_classes: Outputs of its classifier.
        layout: Whose names its weights have.
        options: Options of the network that differ from that name's own.
        sha256: Of the file, where somebody verified it; None says that nobody here did. The file must then have the
            hash under which the hub itself stores it, fit key by key, and hold finite numbers only.
        metrics: As published, accuracies in 0..1; `size` is the image's edge in pixels that they were measured at.
        metrics_source: Who published them.
    """

    model: str
    tag: str
    repo: str
    file: str = "model.safetensors"
    licence: str
    preprocessing: Preprocessing
    num_classes: int = 1000
    layout: str = "timm"
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    sha256: str | None = None
    metrics: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    metrics_source: str = ""

    def network_options(self) -> dict[str, Any]:
        """The options with which the network is the one that the checkpoint is of."""
        return {"preprocessing": self.preprocessing, "num_classes": self.num_classes, **self.options}
