"""The interface shared by all attention layers: `x * gate(x)`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn._dims import SPATIAL_NAMES

__all__ = ["Attention"]


class Attention(nn.Module, ABC):
    """A layer that rescales a feature map and keeps its shape.

    The gate is a separate method. A plot or a statistic calls it like any function and needs no hook.

    Subclasses implement `gate`. `forward` checks the input and multiplies. A subclass that computes more than
    `x * gate(x)` overrides `forward` and sets `rescales` to False, so that no constant replaces it.

    Args:
        channels: Channels of the feature maps it receives.
        ndim: Spatial dimensions of the feature maps: 1 (signals), 2 (images) or 3 (volumes).

    Shape:
        (N, channels, *spatial) -> the same.

    Raises:
        SenetError: A number is out of range, or `forward` gets an input of another rank or channel count.

    Example:
        >>> import torch
        >>> from senet.nn import Attention
        >>> class Half(Attention):
        ...     def gate(self, x):
        ...         return torch.full((1, self.channels, 1, 1), 0.5)
        >>> Half(3)(torch.ones(2, 3, 4, 4)).unique()
        tensor([0.5000])
    """

    channels: int
    ndim: int
    rescales: bool = True

    def __init__(self, channels: int, *, ndim: int = 2) -> None:
        super().__init__()
        if channels < 1:
            raise SenetError(f"channels={channels} is out of range; use 1 or more")
        if ndim not in SPATIAL_NAMES:
            raise SenetError(f"ndim={ndim} spatial dimensions are not supported; use 1, 2 or 3")
        self.channels = channels
        self.ndim = ndim

    @abstractmethod
    def gate(self, x: Tensor) -> Tensor:
        """Return the factors for `x`, in a shape that broadcasts to (N, C, *spatial)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x * gate(x)`, (N, C, *spatial)."""
        self.check_input(x)
        return x * self.gate(x)

    def check_input(self, x: Tensor) -> None:
        """Raise a `SenetError` that shows the expected pattern unless `x` is (N, channels, *spatial)."""
        if x.ndim != self.ndim + 2 or x.shape[1] != self.channels:
            pattern = f"(N, {self.channels}, {SPATIAL_NAMES[self.ndim]})"
            raise SenetError(f"{type(self).__name__} expects {pattern}, got {tuple(x.shape)}")

    def extra_repr(self) -> str:
        """Return the options that `print(layer)` shows."""
        return f"channels={self.channels}, ndim={self.ndim}"
