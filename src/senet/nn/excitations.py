"""The excitations of channel attention: from the summaries of the channels to the logits of the gate.

Each is a module (N, C, D) -> (N, K, C) for D summaries and K outputs of each channel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal, final

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn._groups import check_groups
from senet.nn.channel import adaptive_kernel_size, check_odd
from senet.nn.excite import bottleneck, excite, hidden_width, zero_bottleneck
from senet.nn.initialization import zero
from senet.nn.squeeze import TINY, wide

__all__ = ["EXCITATIONS", "Excitation"]


class Excitation(nn.Module, ABC):
    """Compute the logits of the gate from the summaries of the channels.

    Shape:
        (N, C, D) -> (N, K, C).

    Example:
        >>> import torch
        >>> from senet.nn import EXCITATIONS
        >>> excite = EXCITATIONS["conv"](64, 1, 2)  # channels, summaries and outputs of each
        >>> excite(torch.rand(3, 64, 1)).shape
        torch.Size([3, 2, 64])
    """

    @abstractmethod
    def start_at_zero(self) -> None:
        """Initialize the output to exactly zero, so that the excitation still learns.

        Raises:
            SenetError: It has no parameters.
        """


@final
class Bottleneck(Excitation):
    """Two linear layers across all channels (Hu et al. 2018, eq. 3)."""

    def __init__(self, channels: int, inputs: int, outputs: int, *, reduction: int = 16, bias: bool = True) -> None:
        super().__init__()
        self.outputs = outputs
        self.fc1, self.fc2 = bottleneck(channels, hidden_width(channels, reduction), bias=bias)
        if inputs > 1:
            self.fc1 = nn.Linear(inputs * channels, self.fc1.out_features, bias=bias)
        if outputs > 1:
            self.fc2 = nn.Linear(self.fc2.in_features, outputs * channels, bias=bias)

    def forward(self, s: Tensor) -> Tensor:
        return excite(s.flatten(1), self.fc1, self.fc2).unflatten(1, (self.outputs, s.shape[1]))

    def start_at_zero(self) -> None:
        zero_bottleneck(self.fc1, self.fc2)


@final
class Grouped(Excitation):
    """A bottleneck in each group of channels, so 1 / groups of the parameters."""

    def __init__(
        self, channels: int, inputs: int, outputs: int, *, reduction: int = 16, groups: int = 4, bias: bool = True
    ) -> None:
        super().__init__()
        check_groups(channels, groups)
        self.outputs = outputs
        hidden = groups * hidden_width(channels // groups, reduction)
        self.fc1 = nn.Conv1d(inputs * channels, hidden, 1, groups=groups, bias=bias)
        self.fc2 = nn.Conv1d(hidden, outputs * channels, 1, groups=groups, bias=bias)

    def forward(self, s: Tensor) -> Tensor:
        z = self.fc2(torch.relu(self.fc1(s.flatten(1)[:, :, None])))
        return z.squeeze(2).unflatten(1, (s.shape[1], self.outputs)).transpose(1, 2)

    def start_at_zero(self) -> None:
        zero(self.fc2)
        if self.fc1.bias is not None:
            nn.init.ones_(self.fc1.bias)


@final
class Linear(Excitation):
    """One linear layer across all channels (Lee and Park 2020, eSE)."""

    def __init__(self, channels: int, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.outputs = outputs
        self.fc = nn.Linear(inputs * channels, outputs * channels, bias=bias)

    def forward(self, s: Tensor) -> Tensor:
        return self.fc(s.flatten(1)).unflatten(1, (self.outputs, s.shape[1]))

    def start_at_zero(self) -> None:
        zero(self.fc)


@final
class ChannelConvolution(Excitation):
    """A convolution along the channels (Wang et al. 2020, ECA), zero-padded or in a circle (timm's cECA)."""

    def __init__(
        self,
        channels: int,
        inputs: int,
        outputs: int,
        *,
        kernel_size: int | None = None,
        padding_mode: Literal["zeros", "circular"],
    ) -> None:
        super().__init__()
        size = adaptive_kernel_size(channels) if kernel_size is None else kernel_size
        check_odd("kernel_size", size)
        if size // 2 > channels:
            raise SenetError(f"kernel_size={size} is out of range for channels={channels}; use 1..{2 * channels + 1}")
        self.conv = nn.Conv1d(inputs, outputs, size, padding=size // 2, padding_mode=padding_mode, bias=False)

    def forward(self, s: Tensor) -> Tensor:
        return self.conv(s.transpose(1, 2))

    def start_at_zero(self) -> None:
        zero(self.conv)


@final
class Affine(Excitation):
    """A weight for each summary of each channel and a bias: no channel sees another."""

    def __init__(self, channels: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(outputs, channels, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs, channels))

    def forward(self, s: Tensor) -> Tensor:
        return ((self.weight * s[:, None]).sum(3) + self.bias).to(s.dtype)  # autocast: the parameters are wider

    def start_at_zero(self) -> None:
        zero(self)


@final
class NormedAffine(Excitation):
    """A weight for each summary of each channel, then a batch norm (Lee et al. 2019, SRM, eqs. 3-5)."""

    def __init__(self, channels: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, channels, inputs))
        self.norm = nn.BatchNorm1d(outputs * channels)

    def forward(self, s: Tensor) -> Tensor:
        z = (self.weight * s[:, None]).sum(3)
        return self.norm(z.flatten(1)).unflatten(1, z.shape[1:]).to(s.dtype)

    def start_at_zero(self) -> None:
        zero(self.norm)
        nn.init.ones_(self.weight)


@final
class CompetingAffine(Excitation):
    """Scaled summaries over their root mean square across the channels, then an affine map (Yang et al. 2020, GCT)."""

    def __init__(self, channels: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.ones(channels, inputs))
        self.weight = nn.Parameter(torch.zeros(outputs, channels, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs, channels))

    def forward(self, s: Tensor) -> Tensor:
        embedded = wide(self.embedding * s)
        normed = embedded / (embedded.square().mean(1, keepdim=True) + TINY).sqrt()
        return ((self.weight * normed[:, None]).sum(3) + self.bias).to(s.dtype)

    def start_at_zero(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


@final
class Nothing(Excitation):
    """The summary itself is the logit of its channel."""

    def __init__(self, _channels: int, inputs: int, outputs: int) -> None:
        super().__init__()
        if inputs != 1 or outputs != 1:
            raise SenetError("excitation='none' needs one summary and no shift; use excitation='affine'")

    def forward(self, s: Tensor) -> Tensor:
        return s.transpose(1, 2)

    def start_at_zero(self) -> None:
        raise SenetError("init='identity' needs parameters; use another excitation than 'none'")


EXCITATIONS: Final[Mapping[str, Callable[..., Excitation]]] = {
    "bottleneck": Bottleneck,
    "grouped": Grouped,
    "linear": Linear,
    "conv": partial(ChannelConvolution, padding_mode="zeros"),
    "circular-conv": partial(ChannelConvolution, padding_mode="circular"),
    "affine": Affine,
    "affine-norm": NormedAffine,
    "norm-affine": CompetingAffine,
    "none": Nothing,
}
