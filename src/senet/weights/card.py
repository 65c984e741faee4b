"""Metadata of one public checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from senet.preprocessing import Preprocessing

__all__ = ["Card"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """A public checkpoint: source, network, preprocessing and published accuracy.

    Attributes:
        model: Name of the network in `list_models()`.
        tag: Name of the checkpoint, unique for its network; `create_model(model, pretrained=tag)`.
        repo: Repository on the Hugging Face hub.
        file: Name of the file in the repository.
        licence: SPDX identifier stated by the publisher.
        preprocessing: Preprocessing of the images.
        num_classes: Number of outputs of the classifier.
        layout: Layout of the weights' names.
        options: Model options that differ from the defaults of `model`.
        sha256: Verified hash of the file, or None. Without one, the file is checked against the hash under which the
            hub stores it.
        metrics: Published metrics. Accuracies lie in 0..1. `size` is the edge of the evaluated images in pixels.
        metrics_source: Source of the metrics.

    Example:
        >>> from senet.weights import find_card
        >>> card = find_card("se_resnet50", "in1k")
        >>> card.repo, card.licence, card.metrics["top1"]
        ('timm/legacy_seresnet50.in1k', 'apache-2.0', 0.77644)
        >>> card.network_options()["num_classes"]
        1000
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
        """Return the `create_model` options of the checkpoint's network."""
        return {"preprocessing": self.preprocessing, "num_classes": self.num_classes, **self.options}
