"""VGG with batch norm, plain and with attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, final

from torch import Tensor, nn

from senet.errors import SenetError
from senet.models._scale import check_depths
from senet.models.spec import BlockShape, ModelSpec
from senet.models.stages import ConvNet
from senet.nn import SE

__all__ = ["VARIANTS", "ConvBlock", "VGGHead", "VGGSpec"]


@final
class ConvBlock(nn.Module):
    """`se(relu(norm(conv(x))))`, after the pool that a stage begins with.

    Args:
        block: Its shape; a stride is the pool's.
        attention: The block, or the identity in a plain network.
    """

    def __init__(self, block: BlockShape, attention: nn.Module) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(block.stride) if block.stride > 1 else nn.Identity()
        self.conv = nn.Conv2d(block.in_channels, block.out_channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(block.out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.se = attention
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return self.se(self.relu(self.bn(self.conv(self.pool(x)))))


@final
class VGGHead(nn.Module):
    """The last pool, 7x7 cells, two hidden layers, classifier; with `num_classes=0` the pooled features (N, C).

    Args:
        channels: Of the map.
        num_classes: Outputs; 0 leaves out the hidden layers too.
        hidden: Blocks of each hidden layer.
        dropout: After each of them.
    """

    CELLS: ClassVar[int] = 7

    def __init__(self, channels: int, num_classes: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.cells = nn.AdaptiveAvgPool2d(self.CELLS if num_classes else 1)
        self.hidden: nn.Module = nn.Identity()
        self.fc: nn.Module = nn.Identity()
        if num_classes:
            self.hidden = nn.Sequential(
                *(nn.Linear(channels * self.CELLS**2, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)),
                *(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)),
            )
            self.fc = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_classes); H and W at least 2."""
        return self.fc(self.hidden(self.cells(self.pool(x)).flatten(1)))


@dataclass(frozen=True, kw_only=True)
class VGGSpec(ModelSpec):
    """3x3 convolutions, each with batch norm, and a pool after each stage. Images have at least 32x32 pixels.

    A block is one convolution, and the attention follows its ReLU (paper, section 6.1). A stage's map is its last one
    before the pool, so that stage n has stride 2^(n - 1); the next stage, or the head, begins with that pool.

    Attributes:
        depths: Convolutions in each stage. Their widths double from 64 to 512.
        hidden: Blocks of each of the classifier's two hidden layers.
        dropout: After each of them.

    Source: Simonyan & Zisserman 2015 (arXiv 1409.1556), Table 1, A, B, D and E; Hu et al. 2018, Table 2.
    Differs: batch norm, as Table 2 says. Where the last map is not 7x7 (images other than 224x224), it is averaged
        over 7x7 cells, as in torchvision.
    """

    first_stage: ClassVar[int] = 1
    placements: ClassVar[tuple[str, ...]] = ("standard",)
    stem_stride: ClassVar[int] = 1

    depths: tuple[int, ...]
    hidden: int = 4096
    dropout: float = 0.5

    def check_values(self) -> None:
        """Raise a `SenetError` for an impossible value."""
        check_depths(self.depths)
        if self.hidden < 1:
            raise SenetError(f"hidden={self.hidden} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise SenetError(f"dropout={self.dropout} must lie in [0, 1)")
        super().check_values()

    def blocks(self) -> list[list[BlockShape]]:
        """The shapes of all blocks, stage by stage."""
        stages, channels = [], self.in_channels
        for number, depth in enumerate(self.depths):
            width = min(64 * 2**number, 512)
            stage = []
            for position in range(depth):
                stage.append(BlockShape(channels, width, width, 2 if number > 0 and position == 0 else 1))
                channels = width
            stages.append(stage)
        return stages

    def build(self) -> ConvNet:
        """Make the network with freshly initialised weights."""
        head = partial(VGGHead, hidden=self.hidden, dropout=self.dropout)
        return ConvNet(self, nn.Identity(), self._block, make_head=head)

    def _block(self, stage: int, block: BlockShape) -> ConvBlock:
        return ConvBlock(block, self.build_attention(stage, block))


def _variants() -> dict[str, VGGSpec]:
    vgg11 = VGGSpec(depths=(1, 1, 2, 2, 2))
    plain = {
        "vgg11": vgg11,
        "vgg13": replace(vgg11, depths=(2, 2, 2, 2, 2)),
        "vgg16": replace(vgg11, depths=(2, 2, 3, 3, 3)),
        "vgg19": replace(vgg11, depths=(2, 2, 4, 4, 4)),
    }
    return plain | {f"se_{name}": replace(spec, attention=SE()) for name, spec in plain.items()}


VARIANTS = _variants()
"""Name to spec."""
