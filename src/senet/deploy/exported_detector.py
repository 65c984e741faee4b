"""An exported detector with the interface of torchvision's detectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from senet.deploy.export_metadata import ExportMetadata
from senet.deploy.exported_model import check_images

__all__ = ["ExportedDetector"]


@final
class ExportedDetector(nn.Module):
    """A detector without parameters that calls a runtime on the CPU, image by image. `load_exported` makes it.

    Args:
        run: The runtime's call: (1, C, H, W) float32 in 0..1 -> boxes (n, 4), scores (n,), labels (n,) from 0.
        metadata: Metadata of the file.
        name: Name of the file, for messages.

    Raises:
        SenetError: An image has a size or number of channels that the file doesn't take.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from senet.deploy import ExportedDetector, ExportMetadata
        >>> from senet.preprocessing import CIFAR
        >>> metadata = ExportMetadata(model="whole", classes=("cat",), preprocessing=CIFAR, task="detection")
        >>> def run(images):  # a detector for which each image is a cat
        ...     height, width = images.shape[2:]
        ...     return np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)
        >>> ExportedDetector(run, metadata, "whole.onnx")([torch.rand(3, 48, 64)])[0]["boxes"]
        tensor([[ 0.,  0., 64., 48.]])
    """

    def __init__(self, run: Callable[[np.ndarray], Sequence[np.ndarray]], metadata: ExportMetadata, name: str) -> None:
        super().__init__()
        self.run, self.metadata, self.name = run, metadata, name

    def forward(self, images: Sequence[Tensor] | Tensor) -> list[dict[str, Tensor]]:
        """Images (C, H, W) in 0..1 -> `boxes`, `scores` and `labels` of each. torchvision counts labels from 1."""
        return [self._detected(image) for image in images]

    def _detected(self, image: Tensor) -> dict[str, Tensor]:
        check_images(image[None], self.metadata, self.name)
        found = self.run(np.ascontiguousarray(image[None].detach().float().cpu().numpy()))
        boxes, scores, labels = (torch.from_numpy(np.array(value)).to(image.device) for value in found)
        return {"boxes": boxes, "scores": scores, "labels": labels + 1}
