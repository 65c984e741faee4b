"""Layer classes by the number of spatial dimensions: 1 for signals, 2 for images, 3 for volumes."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

CONV: Final[dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
BATCH_NORM: Final[dict[int, type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
SPATIAL_NAMES: Final = {1: "L", 2: "H, W", 3: "D, H, W"}


def over_space(gate: Tensor, x: Tensor) -> Tensor:
    """Append dimensions of size one until `gate` has the rank of `x`: (N, C) -> (N, C, 1, 1) for an image."""
    return gate.reshape(gate.shape + (1,) * (x.ndim - gate.ndim))
