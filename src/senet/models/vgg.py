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
    """A convolution with attention: `se(relu(norm(conv(x))))`, after the pool at the start of a stage.

    Args:
        block: Its shape. A stride belongs to the pool.
        attention: The attention, or the identity in a plain network.
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
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        return self.se(self.relu(self.bn(self.conv(self.pool(x)))))


@final
class VGGHead(nn.Module):
    """The last pool, 7x7 cells, two hidden layers and the classifier.

    With `num_classes=0` it returns the pooled features (N, C).

    Args:
        channels: Channels of the feature map.
        num_classes: Outputs. 0 also leaves out the hidden layers.
        hidden: Units of each hidden layer.
        dropout: Dropout probability after each hidden layer.
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

    def pre_logits(self, x: Tensor) -> Tensor:
        """Return the input of the classifier: (N, C, H, W) -> (N, hidden). H and W are at least 2."""
        return self.hidden(self.cells(self.pool(x)).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (N, C, H, W) -> (N, num_classes). H and W are at least 2."""
        return self.fc(self.pre_logits(x))


@dataclass(frozen=True, kw_only=True)
class VGGSpec(ModelSpec):
    """A network of 3x3 convolutions with batch norm, and a pool after each stage. Images have at least 32x32 pixels.

    A block is one convolution, and attention follows its ReLU (paper, section 6.1). A stage ends before its pool, so
    stage n has stride 2^(n - 1). The next stage, or the head, begins with the pool.

    Attributes:
        depths: Convolutions in each stage. The widths double from 64 to 512.
        hidden: Units of each of the classifier's two hidden layers.
        dropout: Dropout probability after each hidden layer.

    Source: Simonyan & Zisserman 2015 (arXiv 1409.1556), Table 1, A, B, D and E; Hu et al. 2018, Table 2.
    Differs: it has batch norm, as in Table 2. A last feature map of another size than 7x7 (images other than
        224x224) is averaged over 7x7 cells, as in torchvision.
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
        """Return the shapes of all blocks, by stage."""
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
        """Build the network with newly initialized weights."""
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
"""The specs by name."""
