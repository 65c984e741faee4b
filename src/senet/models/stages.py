"""The parts of every network (stem, stages of blocks, head) and the residual block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, final

import torch
from torch import Tensor, nn

from senet.models.dilation import dilate
from senet.models.spec import BlockShape, FeatureInfo, ModelSpec
from senet.models.stage import Stage, recomputes, set_recomputing
from senet.nn import PLACEMENTS
from senet.nn.epilogue import norm_relu, residual_epilogue, untouched
from senet.nn.squeeze import mean

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
    """Return a convolution without bias, padded so that stride 1 keeps the size."""
    return nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def conv_norm(cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution with batch norm, such as a projection shortcut."""
    return nn.Sequential(conv(cin, cout, kernel, stride=stride, groups=groups), nn.BatchNorm2d(cout))


@final
class ConvNormAct(nn.Sequential):
    """Convolution, batch norm and ReLU, followed by appended layers. Norm and ReLU are fused where possible."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
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
    """Return a convolution with batch norm and an activation, such as a part of a stem."""
    return ConvNormAct(*conv_norm(cin, cout, kernel, stride=stride, groups=groups), act(inplace=True))


class NormLast(nn.Module, ABC):
    """A residual branch that ends in a norm. A block can fuse this norm with the residual epilogue."""

    @property
    @abstractmethod
    def last_norm(self) -> nn.Module:
        """The last norm."""

    @abstractmethod
    def before_norm(self, x: Tensor, inner: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Compute all but the norm, (N, C, H, W) -> (N, C', H', W'). `inner` follows the 3x3 (`conv3x3`)."""

    def forward(self, x: Tensor, inner: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        return self.last_norm(self.before_norm(x, inner))


@final
class ResidualBlock(nn.Module):
    """A residual block: `relu(shortcut(x) + se(branch(x)))`, or another placement (paper, Fig. 3 and section 6.5).

    Args:
        branch: (N, C, H, W) -> (N, C', H', W'), ending in its last norm. It applies an optional second callable
            right after its 3x3 convolution (the `conv3x3` placement).
        shortcut: The identity or a projection to the same shape.
        attention: The attention, or the identity in a plain network.
        placement: A key of `PLACEMENTS`.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module, attention: nn.Module, placement: str) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.se = attention
        self.placement = placement

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        if self.placement == "standard" and isinstance(self.branch, NormLast) and untouched(self.branch):
            shortcut = self.shortcut(x)
            return residual_epilogue(self.branch.before_norm(x), self.branch.last_norm, self.se, shortcut)
        return PLACEMENTS[self.placement].apply(x, self.branch, self.shortcut, self.se, torch.relu)


@final
class PreActBlock(nn.Module):
    """A residual block whose norm and ReLU come before its convolutions (He et al. 2016, arXiv 1603.05027, Fig. 1b).

    A projection gets the activated input, an identity shortcut the raw one. Nothing follows the sum.

    Args:
        preact: The first norm and ReLU (or only a ReLU), shared by branch and projection.
        branch: As in `ResidualBlock`, without its first norm and ReLU.
        shortcut: A projection, or None for the identity.
        attention: The attention, or the identity in a plain network.
        placement: A key of `PLACEMENTS`. `pre` comes after `preact`.
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
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        shortcut = self.shortcut if self.shortcut is not None else lambda _: x
        return PLACEMENTS[self.placement].apply(self.preact(x), self.branch, shortcut, self.se, _identity)


def _identity(x: Tensor) -> Tensor:
    return x


@final
class Head(nn.Module):
    """Global average pool, dropout and classifier. With `num_classes=0` it returns the pooled features (N, C)."""

    def __init__(self, channels: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (N, C, H, W) -> (N, num_classes)."""
        return self.fc(self.dropout(mean(x)))


@final
class ConvNet(nn.Module):
    """A convolutional network: `head(final(stages(stem(x))))`. `create_model` builds it.

    Args:
        spec: The spec that it is built from, stored as `.spec`.
        stem: From the image to the first feature map.
        make_block: Builds one block from its stage number and shape.
        final: Layers after the last stage (a pre-activation network's last norm and ReLU).
        make_head: Builds the head from the last feature map's channels and the number of classes.

    Attributes:
        grad_checkpointing: Recompute each block in the backward pass instead of storing its feature maps. Takes about a
            quarter more time and far less memory, and gives the same numbers. Running statistics count each batch
            once. Setting it sets it in every stage.

    Example:
        >>> import torch, senet
        >>> model = senet.create_model("se_cifar_resnet20").eval()
        >>> images = torch.rand(2, 3, 32, 32)
        >>> model.forward_features(images).shape
        torch.Size([2, 64, 8, 8])
        >>> model.reset_classifier(5)
        >>> model(images).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        spec: ModelSpec,
        stem: nn.Module,
        make_block: Callable[[int, BlockShape], nn.Module],
        *,
        final: nn.Module | None = None,
        make_head: Callable[[int, int], nn.Module] = Head,
    ) -> None:
        super().__init__()
        stages = spec.blocks()
        self.spec = spec
        self.stem = stem
        # Keyed by the paper's stage number, so that a parameter's path contains it: stages.2.0.branch.conv1.
        self.stages = nn.ModuleDict(
            {
                str(number): Stage(*(make_block(number, block) for block in stage))
                for number, stage in enumerate(stages, spec.first_stage)
            }
        )
        self.final = final if final is not None else nn.Identity()
        self.num_features = stages[-1][-1].out_channels
        self._make_head = make_head
        self.head = make_head(self.num_features, spec.num_classes)
        if spec.output_stride is not None:
            dilate(self, spec)
        _initialize(self)

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Channels and stride of each stage's feature map."""
        return self.spec.feature_info

    @property
    def grad_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass."""
        return recomputes(self.stages.values())

    @grad_checkpointing.setter
    def grad_checkpointing(self, recompute: bool) -> None:
        set_recomputing(dict(self.stages.items()), recompute)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map: (N, in_channels, H, W) -> (N, num_features, H', W')."""
        x = self.stem(x)
        for stage in self.stages.values():
            x = stage(x)
        return self.final(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (N, in_channels, H, W) -> (N, num_classes)."""
        return self.head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a newly initialized one with `num_classes` outputs. 0 returns the pooled features.

        Hidden layers before the classifier (VGG) are kept.
        """
        self.spec = self.spec.changed({"num_classes": num_classes})
        like = next(self.parameters())
        head = self._make_head(self.num_features, num_classes).to(like.device, like.dtype).train(self.head.training)
        kept = {key: value for key, value in self.head.state_dict().items() if not key.startswith("fc.")}
        head.load_state_dict(kept, strict=False)
        self.head = head

    def push_to_hub(self, repo: str, *, classes: Sequence[str] = (), **options: Any) -> str:
        """Write the network to a repository of the Hugging Face Hub, as one commit.

        Args:
            repo: `user/name`.
            classes: Class names, in the order of the outputs. Without names the outputs are numbered.
            **options: `private`, `revision`, `licence`, `evaluation` and `inspection`, as in
                `senet.integrations.hub.push`.

        Returns:
            The address of the commit.

        Raises:
            SenetError: The network can't be rebuilt from its spec, or the Hub refuses.
        """
        hub = import_module("senet.integrations.hub")  # by name, since models don't know the packages above them
        url: str = hub.push(self, hub.described(self, tuple(classes)), repo, **options)
        return url


def _initialize(model: nn.Module) -> None:
    """Apply He initialization to convolutions (the paper's, by reference to He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
