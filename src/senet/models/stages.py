"""What every network of the family is made of: a stem, stages of blocks, a head; and the residual block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from senet.models.dilation import dilate
from senet.models.spec import BlockShape, FeatureInfo, ModelSpec
from senet.models.stage import Stage, recomputes, set_recomputing
from senet.nn import PLACEMENTS
from senet.nn.epilogue import norm_relu, residual_epilogue, untouched

__all__ = [
    "ConvNet",
    "ConvNormAct",
    "Head",
    "NormLast",
    "PreActBlock",
    "ResidualBlock",
    "conv",
    "conv_norm",
    "conv_norm_act",
]


def conv(cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded so that stride 1 keeps the size."""
    return nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def conv_norm(cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm: a projection shortcut."""
    return nn.Sequential(conv(cin, cout, kernel, stride=stride, groups=groups), nn.BatchNorm2d(cout))


@final
class ConvNormAct(nn.Sequential):
    """Convolution, batch norm and ReLU, the last two as one operation where that is possible; and what was appended."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        if len(self) < 3:  # a slice
            return super().forward(x)
        convolution, norm, relu, *appended = self
        x = norm_relu(convolution(x), norm, relu)
        for layer in appended:
            x = layer(x)
        return x


def conv_norm_act(
    cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU
) -> ConvNormAct:
    """Convolution, batch norm and ReLU (or another activation): a piece of a stem."""
    return ConvNormAct(*conv_norm(cin, cout, kernel, stride=stride, groups=groups), act(inplace=True))


class NormLast(nn.Module, ABC):
    """A residual branch that ends in a norm, which a block can take together with what follows it."""

    @property
    @abstractmethod
    def last_norm(self) -> nn.Module:
        """The norm."""

    @abstractmethod
    def before_norm(self, x: Tensor, inner: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """All but the norm, (N, C, H, W) -> (N, C', H', W'); `inner` follows the 3x3 convolution (`conv3x3`)."""

    def forward(self, x: Tensor, inner: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return self.last_norm(self.before_norm(x, inner))


@final
class ResidualBlock(nn.Module):
    """`relu(shortcut(x) + se(branch(x)))`, or another placement of the attention (paper, Fig. 3 and section 6.5).

    Args:
        branch: (N, C, H, W) -> (N, C', H', W'), ending in its last norm. Takes an optional second callable that
            it applies right after its 3x3 convolution (the `conv3x3` placement).
        shortcut: The identity or a projection to the same shape.
        attention: The block, or the identity in a plain network.
        placement: A key of `PLACEMENTS`.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module, attention: nn.Module, placement: str) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.se = attention
        self.placement = placement

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        if self.placement == "standard" and isinstance(self.branch, NormLast) and untouched(self.branch):
            shortcut = self.shortcut(x)
            return residual_epilogue(self.branch.before_norm(x), self.branch.last_norm, self.se, shortcut)
        return PLACEMENTS[self.placement].apply(x, self.branch, self.shortcut, self.se, torch.relu)


@final
class PreActBlock(nn.Module):
    """A residual block whose norm and ReLU come before its convolutions (He et al. 2016, arXiv 1603.05027, Fig. 1b).

    A projection sees the activated input, an identity shortcut the raw one; nothing follows the sum.

    Args:
        preact: The first norm and ReLU (or only a ReLU), shared by branch and projection.
        branch: As in `ResidualBlock`, without its first norm and ReLU.
        shortcut: A projection, or None for the identity.
        attention: The block, or the identity in a plain network.
        placement: A key of `PLACEMENTS`; `pre` comes after `preact`.
    """

    def __init__(
        self,
        preact: nn.Module,
        branch: nn.Module,
        shortcut: nn.Module | None,
        attention: nn.Module,
        placement: str,
    ) -> None:
        super().__init__()
        self.preact = preact
        self.branch = branch
        self.shortcut = shortcut
        self.se = attention
        self.placement = placement

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        shortcut = self.shortcut if self.shortcut is not None else lambda _: x
        return PLACEMENTS[self.placement].apply(self.preact(x), self.branch, shortcut, self.se, _identity)


def _identity(x: Tensor) -> Tensor:
    return x


@final
class Head(nn.Module):
    """Global average pool, dropout, classifier; with `num_classes=0` the pooled features (N, C)."""

    def __init__(self, channels: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_classes)."""
        return self.fc(self.dropout(x.mean((2, 3))))


@final
class ConvNet(nn.Module):
    """A network of the family: `head(final(stages(stem(x))))`.

    Args:
        spec: What it was built from; kept as `.spec`.
        stem: Image to the first map.
        make_unit: Builds one block from its stage number and shape.
        final: What follows the last stage (a pre-activation network's last norm and ReLU).
        make_head: From the last map's channels and the number of classes to the head.

    Attributes:
        checkpointing: Recompute each block in the backward pass instead of keeping its maps: about a quarter more
            time, far less memory, the same numbers (running statistics are counted once). Setting it sets it in
            every stage.
    """

    def __init__(
        self,
        spec: ModelSpec,
        stem: nn.Module,
        make_unit: Callable[[int, BlockShape], nn.Module],
        *,
        final: nn.Module | None = None,
        make_head: Callable[[int, int], nn.Module] = Head,
    ) -> None:
        super().__init__()
        stages = spec.blocks()
        self.spec = spec
        self.stem = stem
        # Keyed by the paper's stage number, so that a parameter's path says its stage: stages.2.0.branch.conv1.
        self.stages = nn.ModuleDict(
            {
                str(number): Stage(*(make_unit(number, block) for block in stage))
                for number, stage in enumerate(stages, spec.first_stage)
            }
        )
        self.final = final if final is not None else nn.Identity()
        self.num_features = stages[-1][-1].out_channels
        self._make_head = make_head
        self.head = make_head(self.num_features, spec.num_classes)
        if spec.output_stride is not None:
            dilate(self, spec)
        _initialise(self)

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Channels and stride of the map after each stage."""
        return self.spec.feature_info

    @property
    def grad_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass."""
        return recomputes(self.stages.values())

    @grad_checkpointing.setter
    def grad_checkpointing(self, recompute: bool) -> None:
        set_recomputing(dict(self.stages.items()), recompute)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> the last map (N, num_features, H', W')."""
        x = self.stem(x)
        for stage in self.stages.values():
            x = stage(x)
        return self.final(x)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        return self.head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one of `num_classes` outputs; 0 leaves the pooled features.

        Hidden layers that the head has before its classifier (VGG) stay as they are.
        """
        self.spec = self.spec.changed({"num_classes": num_classes})
        like = next(self.parameters())
        head = self._make_head(self.num_features, num_classes).to(like.device, like.dtype).train(self.head.training)
        kept = {key: value for key, value in self.head.state_dict().items() if not key.startswith("fc.")}
        head.load_state_dict(kept, strict=False)
        self.head = head


def _initialise(model: nn.Module) -> None:
    """He initialisation of convolutions (the paper's, by reference to He et al. 2015); norms start at 1 and 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
