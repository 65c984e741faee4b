"""An exported file as an `nn.Module`."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from senet.deploy.export_metadata import ExportMetadata
from senet.errors import SenetError

__all__ = ["ExportedModel", "Run", "check_images"]

Run = Callable[[np.ndarray], np.ndarray]
"""(N, C, H, W) float32 -> (N, classes) or (N, classes, H, W) float32."""


@final
class ExportedModel(nn.Module):
    """A network without parameters that calls a runtime on the CPU. `load_exported` makes it.

    Args:
        run: The runtime's call: (N, C, H, W) float32 -> (N, classes) or (N, classes, H, W) float32.
        metadata: Metadata of the file.
        name: Name of the file, for messages.

    Raises:
        SenetError: The images have a size or number of channels that the file doesn't take.

    Example:
        >>> import torch
        >>> from senet.deploy import ExportedModel, ExportMetadata
        >>> from senet.preprocessing import CIFAR
        >>> metadata = ExportMetadata(model="mean", classes=("r", "g", "b"), preprocessing=CIFAR)
        >>> model = ExportedModel(lambda images: images.mean(axis=(2, 3)), metadata, "mean.onnx")
        >>> model(torch.ones(2, 3, 32, 32)).shape
        torch.Size([2, 3])
    """

    def __init__(self, run: Run, metadata: ExportMetadata, name: str) -> None:
        super().__init__()
        self.run, self.metadata, self.name = run, metadata, name

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, classes), or (N, classes, H, W) of a segmenter."""
        check_images(x, self.metadata, self.name)
        images = np.ascontiguousarray(x.detach().float().cpu().numpy())
        batch = self.metadata.batch
        logits = self.run(images) if batch is None else self._in_batches(images, batch)
        return torch.from_numpy(logits).to(x.device)

    def _in_batches(self, images: np.ndarray, batch: int) -> np.ndarray:
        """Run batches of the file's fixed size. The last one is padded with copies of the last image."""
        missing = -len(images) % batch
        filled = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
        parts = [self.run(filled[i : i + batch]) for i in range(0, len(filled), batch)]
        return np.concatenate(parts)[: len(images)]


def check_images(x: Tensor, metadata: ExportMetadata, name: str) -> None:
    """Raise a `SenetError` for images (N, C, H, W) that a file doesn't take."""
    channels, size = metadata.preprocessing.in_channels, metadata.size
    if x.ndim != 4 or x.shape[1] != channels:
        raise SenetError(f"{name} takes images (N, {channels}, H, W), got {tuple(x.shape)}")
    if size is not None and tuple(x.shape[2:]) != size:
        raise SenetError(
            f"{name} takes images of {size[0]}x{size[1]} pixels only, got {x.shape[2]}x{x.shape[3]}; "
            "export without --size to allow any size"
        )
