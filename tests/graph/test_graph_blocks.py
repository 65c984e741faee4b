"""Blocks that are easily mistaken: each a small network, and where attention belongs in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.surgery import plan


def conv(channels: int, out: int, kernel: int = 3, *, groups: int = 1, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU())


class Net(nn.Module):
    """A stem, some blocks, a classifier."""

    def __init__(self, *blocks: nn.Module, channels: int = 32) -> None:
        super().__init__()
        self.stem = conv(3, channels)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.LazyLinear(10)
        with torch.no_grad():
            self(torch.zeros(2, 3, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def places(model: nn.Module) -> dict[str, str]:
    report = plan(model, example_inputs=(torch.zeros(2, 3, 16, 16),))
    return {site.path if site.side == "output" else f"{site.path} (input)": site.kind for site in report.inserted}


class FactorizedReduction(nn.Module):
    """NASNet's: one strided 1x1 convolution, half of it shifted by a pixel."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.first = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.second = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(F.avg_pool2d(x, 1, self.stride))
        second = self.second(F.avg_pool2d(F.pad(x, (-1, 1, -1, 1)), 1, self.stride))
        return self.bn(torch.cat([first, second], 1))


class Cell(nn.Module):
    """NASNet's: sums of branches, concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = FactorizedReduction(channels, 2)
        self.left = conv(channels, channels)
        self.right = conv(channels, channels, 5)
        self.third = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        first = self.left(x) + self.right(x)
        second = self.third(x) + x
        return torch.cat([first, second], 1)


class Mixed(nn.ModuleDict):
    """MixNet's: kernels of several sizes, each for some of the channels."""

    def __init__(self, channels: int) -> None:
        half = channels // 2
        super().__init__({str(k): nn.Conv2d(half, half, k, padding=k // 2, groups=half) for k in (3, 5)})

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(part) for layer, part in zip(self.values(), x.chunk(2, 1), strict=True)], 1)


class MixedBottleneck(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.expand = conv(channels, 2 * channels, 1)
        self.derive_seed = Mixed(2 * channels)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.project = nn.Conv2d(2 * channels, out, 1)
        self.bn = nn.BatchNorm2d(out)
        self.same = channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.project(F.relu(self.norm(self.derive_seed(self.expand(x))))))
        return x + y if self.same else y


class PartialResidual(nn.Module):
    """ReXNet's: only the first channels have a shortcut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.channels = channels
        self.expand = conv(channels, 2 * channels, 1)
        self.depthwise = conv(2 * channels, 2 * channels, groups=2 * channels)
        self.project = nn.Conv2d(2 * channels, out, 1)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.project(self.depthwise(self.expand(x))))
        return torch.cat([y[:, : self.channels] + x, y[:, self.channels :]], 1)


class DualPath(nn.Module):
    """DPN's: of what a branch computes, one part is added and the other concatenated."""

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Conv2d(channels, 2 * width, 1) if channels == width else None
        self.first = conv(channels, width)
        self.second = nn.Conv2d(width, width + 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        old = self.project(x) if self.project is not None else x
        return torch.cat([old[:, : self.width] + y[:, : self.width], old[:, self.width :], y[:, self.width :]], 1)


class Gated(nn.Module):
    """MobileNetV3's gate over a separable convolution without a shortcut."""

    def __init__(self, channels: int, *, gate: bool) -> None:
        super().__init__()
        self.depthwise = conv(channels, channels, groups=channels)
        self.reduce, self.expand = nn.Conv2d(channels, 16, 1), nn.Conv2d(16, channels, 1)
        self.project = nn.Conv2d(channels, 2 * channels, 1)
        self.bn = nn.BatchNorm2d(2 * channels)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(x)
        if self.gate:
            x = x * self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.bn(self.project(x))


class ConvolutionalHead(nn.Module):
    """VGG's fully connected layers, written as convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = conv(channels, channels)
        self.pool = nn.AdaptiveAvgPool2d(7)
        self.fc1, self.fc2 = nn.Conv2d(channels, 64, 7), nn.Conv2d(64, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(self.pool(self.features(x))))))


class LearnedMix(nn.Module):
    """EfficientViM's: a learned share of the branch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = conv(channels, channels)
        self.share = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        share = self.share.sigmoid()
        return (1 - share) * x + share * self.branch(x)


class WritesIntoBlank(nn.Module):
    """A detector's batch of images: a blank, filled in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        blank = torch.zeros(x.shape[0], x.shape[1], 18, 18, device=x.device)
        blank[:, :, :16, :16] = x
        return blank + self.branch(blank)


class SpatialGate(nn.Module):
    """A residual block whose branch is weighted by one number a position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels), conv(channels, channels)
        self.one, self.two = nn.Conv2d(channels, 1, 1), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        where = self.one(y)
        return x + self.second(y * (where + self.two(where)).sigmoid())


class ChannelsLast(nn.Module):
    """MambaOut's: linear layers with channels last, around a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.first, self.last = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 7, padding=3, groups=2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.norm(x)).permute(0, 3, 1, 2)
        return x + self.last(F.gelu(self.depthwise(y).permute(0, 2, 3, 1)))


class Permuted(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TwoInputs(nn.Module):
    """NASNet's: a cell that also gets what came before the last cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.left, self.right = conv(channels, channels), conv(channels, channels, 5)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return torch.cat([self.left(x) + before, self.right(x)], 1)


class Chain(nn.Module):
    """Cells that pass on their input too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = TwoInputs(channels)
        self.narrow = conv(2 * channels, channels, 1)
        self.second = TwoInputs(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.first(x, x))
        return self.second(y, x)


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "a reduction in two halves is part of its cell": (
        lambda: Net(Cell(32), Cell(64)),
        {"blocks.0": "concatenation", "blocks.1": "concatenation"},
    ),
    "a convolution in parts is no inception module": (
        lambda: Net(MixedBottleneck(32, 32), MixedBottleneck(32, 48)),
        {"blocks.0.bn": "residual block", "blocks.1.bn": "block without shortcut"},
    ),
    "a partial shortcut": (
        lambda: Net(PartialResidual(32, 48), PartialResidual(48, 64)),
        {"blocks.0.bn": "residual block", "blocks.1.bn": "residual block"},
    ),
    "a dual path": (
        lambda: Net(DualPath(32), DualPath(72), DualPath(80)),
        dict.fromkeys(("blocks.0.second", "blocks.1.second", "blocks.2.second"), "residual block"),
    ),
    "a gate's own layers are no separable block": (
        lambda: Net(Gated(32, gate=False), Gated(64, gate=True)),
        {"blocks.0.bn": "separable block"},
    ),
    "a learned share": (
        lambda: Net(LearnedMix(32), LearnedMix(32)),
        {"blocks.0.branch.2": "residual block", "blocks.1.branch.2": "residual block"},
    ),
    "a blank that is filled in place": (
        lambda: Net(WritesIntoBlank(32)),
        {"blocks.0.branch.2": "residual block"},
    ),
    "a gate with one channel has no block of its own": (
        lambda: Net(SpatialGate(32)),
        {"blocks.0.second.2": "residual block"},
    ),
    "channels last around a convolution": (
        lambda: Net(Permuted(ChannelsLast(32), ChannelsLast(32))),
        {"blocks.0.inner.0.depthwise": "residual block", "blocks.0.inner.1.depthwise": "residual block"},
    ),
    "a cell that gets two maps of a chain": (
        lambda: Net(Chain(32)),
        {"blocks.0.first": "concatenation", "blocks.0.second": "concatenation"},
    ),
    "a head of convolutions": (
        lambda: Net(ConvolutionalHead(32)),
        {"stem.2": "plain convolution", "blocks.0.features.2": "plain convolution"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_where_attention_belongs(case: str) -> None:
    build, expected = CASES[case]
    assert places(build()) == expected
