"""An exported file as a network: what takes a checkpoint takes it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from senet.deploy.export_metadata import ExportMetadata
from senet.errors import SenetError

__all__ = ["Compiled", "Run"]

Run = Callable[[np.ndarray], np.ndarray]
"""(N, C, H, W) float32 -> (N, classes) float32."""


@final
class Compiled(nn.Module):
    """Calls a runtime; it has no parameters, and runs on the processor wherever the images are.

    Args:
        run: The runtime's call.
        passport: What the file says of itself.
        name: The file, for messages.

    Raises:
        SenetError: Images of a size or with channels that the file doesn't take.
    """

    def __init__(self, run: Run, passport: ExportMetadata, name: str) -> None:
        super().__init__()
        self.run, self.passport, self.name = run, passport, name

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, classes)."""
        self._check(x)
        images = np.ascontiguousarray(x.detach().float().cpu().numpy())
        batch = self.passport.batch
        logits = self.run(images) if batch is None else self._in_batches(images, batch)
        return torch.from_numpy(logits).to(x.device)

    def _in_batches(self, images: np.ndarray, batch: int) -> np.ndarray:
        """A file for a fixed number of images gets just so many at a time; the last ones are filled up."""
        missing = -len(images) % batch
        filled = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
        parts = [self.run(filled[i : i + batch]) for i in range(0, len(filled), batch)]
        return np.concatenate(parts)[: len(images)]

    def _check(self, x: Tensor) -> None:
        channels, size = self.passport.preprocessing.in_channels, self.passport.size
        if x.ndim != 4 or x.shape[1] != channels:
            raise SenetError(f"{self.name} takes images (N, {channels}, H, W), got {tuple(x.shape)}")
        if size is not None and tuple(x.shape[2:]) != size:
            raise SenetError(
                f"{self.name} takes images of {size[0]}x{size[1]} pixels only, got {x.shape[2]}x{x.shape[3]}; "
                "export without --size for any"
            )
