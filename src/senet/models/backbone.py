"""A network without its head, for tasks that need the maps between: detection, segmentation."""

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
    """Raise a `SenetError` if what is asked of a backbone makes no sense; allocates nothing."""
    if features_only:
        check_out_stages(spec, out_stages)
        if "num_classes" in options:
            raise SenetError("features_only=True makes no classifier; leave num_classes out")
    elif out_stages is not None:
        raise SenetError(f"out_stages={out_stages} needs features_only=True")


def check_out_stages(spec: ModelSpec, out_stages: Sequence[int] | None) -> tuple[int, ...]:
    """The numbers of the stages whose maps are wanted, ascending; None is all of them.

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
    """The stages of a network, giving one map a stage.

    It holds the network's own modules (no copies), without the head and without the stages after the last chosen one,
    so every parameter takes part in the maps. Parameters keep their names: `load_state_dict` takes the
    state dict of the whole network and leaves out what isn't here; anything else missing or extra is an error.

    The network's `final` layers (the last norm and ReLU of a pre-activation network or DenseNet) belong to its last
    map alone; the maps before are the sums or concatenations that the next stage's own norm gets.

    Args:
        network: A whole network, for example a loaded one.
        out_stages: Numbers of the stages whose maps are given, ascending; None is all of them.

    Attributes:
        spec: What the network was built from.
        feature_info: Stage number, channels and stride of each map.
        checkpointing: As in `ConvNet`, whose stages these are.

    Raises:
        SenetError: `out_stages` are no stages of the network.
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
        # The network's modules keep their own modes (a norm that is frozen by hand): `self.train` would set them all.
        self.training = self.stages.training = network.training
        self.register_load_state_dict_pre_hook(_leave_out)

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Stage number, channels and stride of each map."""
        return tuple(info for info in self.spec.feature_info if info.stage in self.out_stages)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map."""
        return tuple(info.channels for info in self.feature_info)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image to one step of each map."""
        return tuple(info.stride for info in self.feature_info)

    @property
    def grad_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass."""
        return recomputes(self.stages.values())

    @grad_checkpointing.setter
    def grad_checkpointing(self, recompute: bool) -> None:
        set_recomputing(dict(self.stages.items()), recompute)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> the chosen stages' maps, the finest first."""
        maps = []
        x = self.stem(x)
        for number, stage in self.stages.items():
            x = stage(x)
            if int(number) in self.out_stages:
                maps.append(x)
        maps[-1] = self.final(maps[-1])
        return maps

    def freeze(self, last: int = 0, *, norms: bool = False) -> Backbone:
        """Hold the first stages fixed, as one does where a batch is small or the new task has few images.

        Frozen parameters get no gradient; frozen batch norms use their running statistics and never change them,
        in training mode too.

        Args:
            last: The stem and the stages up to this number are frozen; 0 is none of them, 1 the stem.
            norms: All batch norms are frozen, with their gammas and betas.

        Returns:
            Itself. A later call replaces an earlier one.

        Raises:
            SenetError: There is no such stage.
        """
        numbers = (0, 1, *map(int, self.stages))
        if isinstance(last, bool) or last not in numbers:
            raise SenetError(f"last={last!r} is no stage of this backbone; use one of {tuple(sorted(set(numbers)))}")
        for module in [*self._frozen_parts(), *self._held_norms()]:
            module.requires_grad_()
        for norm in self._held_norms():
            norm.train(self.training)
        self._frozen_to, self._frozen_norms = last, norms
        for module in [*self._frozen_parts(), *self._held_norms()]:
            module.requires_grad_(False)
        for norm in self._held_norms():
            norm.eval()
        return self

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode; frozen batch norms stay as they are."""
        super().train(mode)
        for norm in self._held_norms():
            norm.eval()
        return self

    def _frozen_parts(self) -> list[nn.Module]:
        stages = [stage for number, stage in self.stages.items() if int(number) <= self._frozen_to]
        return [self.stem, *stages] if self._frozen_to else []

    def _held_norms(self) -> Iterator[nn.Module]:
        for part in [self] if self._frozen_norms else self._frozen_parts():
            yield from (module for module in part.modules() if isinstance(module, _BatchNorm))


def _leave_out(backbone: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Take out of a whole network's state dict what the backbone doesn't have: head, later stages, their norm."""
    assert isinstance(backbone, Backbone)
    later = [i.stage for i in backbone.spec.feature_info if str(i.stage) not in backbone.stages]
    unused = ["head.", *(f"stages.{number}." for number in later), *(["final."] if later else [])]
    for key in [key for key in state if key.startswith(tuple(prefix + name for name in unused))]:
        del state[key]
