"""Backbones: networks without a head, for tasks that need intermediate feature maps (detection, segmentation)."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any, final

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.errors import SenetError
from senet.models.spec import FeatureInfo, ModelSpec
from senet.models.stage import recomputes, set_recomputing
from senet.models.stages import ConvNet

__all__ = ["Backbone", "check_features", "check_out_stages"]


def check_features(
    spec: ModelSpec, features_only: bool, out_stages: Sequence[int] | None, options: Container[str]
) -> None:
    """Raise a `SenetError` for backbone options that contradict each other. Allocates nothing."""
    if features_only:
        check_out_stages(spec, out_stages)
        if "num_classes" in options:
            raise SenetError("features_only=True builds no classifier; leave out num_classes")
    elif out_stages is not None:
        raise SenetError(f"out_stages={out_stages} needs features_only=True")


def check_out_stages(spec: ModelSpec, out_stages: Sequence[int] | None) -> tuple[int, ...]:
    """Return the numbers of the selected stages, ascending. None selects all stages.

    Raises:
        SenetError: Not stages of the network, or not in ascending order.
    """
    numbers = tuple(info.stage for info in spec.feature_info)
    if out_stages is None:
        return numbers
    chosen = tuple(out_stages)
    if not chosen or any(isinstance(s, bool) or s not in numbers for s in chosen) or sorted(set(chosen)) != [*chosen]:
        raise SenetError(f"out_stages={chosen} must be some of {spec.name}'s stages {numbers}, in ascending order")
    return chosen


@final
class Backbone(nn.Module):
    """The stages of a network, returning one feature map per stage.

    A backbone holds the network's own modules, not copies. It leaves out the head and the stages after the last
    selected one, so the feature maps depend on every parameter. Parameters keep their names. `load_state_dict` accepts
    the state dict of the whole network and ignores the unused parts. Any other missing or extra key is an error.

    The network's `final` layers (the last norm and ReLU of a pre-activation network or DenseNet) apply to its last
    feature map only. Earlier feature maps are the sums or concatenations before the next stage's first norm.

    Args:
        network: A whole network, for example a loaded one.
        out_stages: Numbers of the stages to return, ascending. None returns all stages.

    Attributes:
        spec: The spec that the network was built from.
        feature_info: Stage number, channels and stride of each feature map.
        grad_checkpointing: As in `ConvNet`.

    Raises:
        SenetError: `out_stages` are not stages of the network.

    Example:
        >>> import torch, senet
        >>> backbone = senet.create_model("se_resnet18", features_only=True, out_stages=(4, 5)).eval()
        >>> backbone.channels, backbone.strides
        ((256, 512), (16, 32))
        >>> [tuple(feature_map.shape) for feature_map in backbone(torch.rand(1, 3, 64, 64))]
        [(1, 256, 4, 4), (1, 512, 2, 2)]
    """

    def __init__(self, network: ConvNet, out_stages: Sequence[int] | None = None) -> None:
        super().__init__()
        self.spec = network.spec
        self.out_stages = check_out_stages(network.spec, out_stages)
        self.stem = network.stem
        self.stages = nn.ModuleDict({k: v for k, v in network.stages.items() if int(k) <= self.out_stages[-1]})
        whole = len(self.stages) == len(network.stages)
        self.final = network.final if whole else nn.Identity().train(network.training)
        self._frozen_to = 0
        self._frozen_norms = False
        # The network's modules keep their own modes (such as a frozen norm). `self.train` would change them all.
        self.training = self.stages.training = network.training
        self.register_load_state_dict_pre_hook(_leave_out)

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Return stage number, channels and stride of each feature map."""
        return tuple(info for info in self.spec.feature_info if info.stage in self.out_stages)

    @property
    def channels(self) -> tuple[int, ...]:
        """Return the channels of each feature map."""
        return tuple(info.channels for info in self.feature_info)

    @property
    def strides(self) -> tuple[int, ...]:
        """Return the stride of each feature map, in pixels of the image."""
        return tuple(info.stride for info in self.feature_info)

    @property
    def grad_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass."""
        return recomputes(self.stages.values())

    @grad_checkpointing.setter
    def grad_checkpointing(self, recompute: bool) -> None:
        set_recomputing(dict(self.stages.items()), recompute)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of `out_stages`, the finest first, for images (N, in_channels, H, W)."""
        features: list[Tensor] = []
        x = self.stem(x)
        for number, stage in self.stages.items():
            x = stage(x)
            if int(number) in self.out_stages:
                features.append(x)
        features[-1] = self.final(features[-1])
        return features

    def freeze(self, last: int = 0, *, norms: bool = False) -> Backbone:
        """Freeze the first stages, for small batches or fine-tuning with few images.

        Frozen parameters get no gradient. Frozen batch norms use their running statistics and never update them,
        even in training mode.

        Args:
            last: Freeze the stem and the stages up to this number. 0 freezes nothing, 1 the stem.
            norms: Freeze all batch norms, including their weights and biases.

        Returns:
            The backbone itself. A later call replaces an earlier one.

        Raises:
            SenetError: There is no such stage.
        """
        numbers = (0, 1, *map(int, self.stages))
        if isinstance(last, bool) or last not in numbers:
            raise SenetError(f"last={last!r} is not a stage of this backbone; use one of {tuple(sorted(set(numbers)))}")
        for module in [*self._frozen_parts(), *self._frozen_norm_layers()]:
            module.requires_grad_()
        for norm in self._frozen_norm_layers():
            norm.train(self.training)
        self._frozen_to, self._frozen_norms = last, norms
        for module in [*self._frozen_parts(), *self._frozen_norm_layers()]:
            module.requires_grad_(False)
        for norm in self._frozen_norm_layers():
            norm.eval()
        return self

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode. Frozen batch norms stay in evaluation mode."""
        super().train(mode)
        for norm in self._frozen_norm_layers():
            norm.eval()
        return self

    def _frozen_parts(self) -> list[nn.Module]:
        stages = [stage for number, stage in self.stages.items() if int(number) <= self._frozen_to]
        return [self.stem, *stages] if self._frozen_to else []

    def _frozen_norm_layers(self) -> Iterator[nn.Module]:
        for part in [self] if self._frozen_norms else self._frozen_parts():
            yield from (module for module in part.modules() if isinstance(module, _BatchNorm))


def _leave_out(backbone: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Remove the keys of head, later stages and final norm from a whole network's state dict."""
    assert isinstance(backbone, Backbone)
    later = [i.stage for i in backbone.spec.feature_info if str(i.stage) not in backbone.stages]
    unused = ["head.", *(f"stages.{number}." for number in later), *(["final."] if later else [])]
    for key in [key for key in state if key.startswith(tuple(prefix + name for name in unused))]:
        del state[key]
