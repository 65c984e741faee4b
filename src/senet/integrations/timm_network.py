"""A network of this package with the methods that timm's users and tools call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from timm.layers import create_classifier, register_notrace_module
from torch import Tensor, nn

from senet.errors import SenetError
from senet.models import ConvNet, ModelSpec, Stage
from senet.models.stage import recomputes, set_recomputing
from senet.models.stages import ConvNormAct, Head
from senet.models.vgg import VGGHead

__all__ = ["TimmNetwork"]

for _module in (
    Stage,
    ConvNormAct,
):  # they choose operators by the tensor's type and device, which torch.fx can't follow
    register_notrace_module(_module)


@final
class PooledHead(nn.Module):
    """One of timm's global pools, dropout and classifier. Without a classifier the pool may be missing, too."""

    def __init__(self, channels: int, num_classes: int, global_pool: str, dropout: float) -> None:
        super().__init__()
        if num_classes and not global_pool:
            raise SenetError(f"global_pool='' leaves no pool before {num_classes} classes; use num_classes=0 with it")
        self.global_pool, self.fc = create_classifier(channels, num_classes, pool_type=global_pool)
        self.dropout = nn.Dropout(dropout)
        self.hidden_channels = channels * self.global_pool.feat_mult()

    def pre_logits(self, x: Tensor) -> Tensor:
        """Return the input of the classifier: (N, C, H, W) -> (N, hidden_channels)."""
        return self.dropout(self.global_pool(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (N, C, H, W) -> (N, num_classes)."""
        return self.fc(self.pre_logits(x))


@final
class TimmNetwork(nn.Module):
    """A network with timm's interface. `timm.create_model("senet_...")` builds it.

    It takes over the modules of a `ConvNet` under the same names, so state dicts fit in both directions.

    Its feature maps have timm's numbering: first the stem's, one for each stride below the first stage's, then one for
    each stage. The network's `final` layers apply to the last stage's feature map, as in `Backbone`.

    Args:
        network: A whole network with at least one class.
        num_classes: Number of outputs. 0 returns the pooled features.
        global_pool: One of timm's pools (`"avg"`, `"max"`, `"avgmax"`, `"catavgmax"`), or `""` for none. VGG has
            `"avg"` only, since its head pools to 7x7 cells.
        drop_rate: Dropout probability before the classifier. None is the network's own.

    Attributes:
        spec: The spec that the network was built from.
        feature_info: A dictionary for each feature map: `num_chs`, `reduction`, `module`.

    Raises:
        SenetError: A pool that the head doesn't have.

    Example:
        >>> import torch, senet
        >>> from senet.integrations.timm_network import TimmNetwork
        >>> network = TimmNetwork(senet.create_model("se_resnet18"), num_classes=10).eval()
        >>> [info["reduction"] for info in network.feature_info]
        [2, 4, 8, 16, 32]
        >>> features = network.forward_features(torch.rand(1, 3, 64, 64))
        >>> network.forward_head(features, pre_logits=True).shape
        torch.Size([1, 512])
    """

    output_fmt = "NCHW"

    def __init__(
        self, network: ConvNet, *, num_classes: int = 1000, global_pool: str = "avg", drop_rate: float | None = None
    ) -> None:
        super().__init__()
        self.spec = network.spec
        self.stem = network.stem
        self.stages = nn.ModuleDict(dict(network.stages.items()))
        self.final = network.final
        self.head = network.head
        self.num_features = network.num_features
        self.drop_rate: float = getattr(network.spec, "dropout", 0.0) if drop_rate is None else drop_rate
        self._taps = _stem_taps(network.stem, network.spec)
        self.feature_info = self._feature_maps()
        self.in_chans = network.spec.in_channels
        classifier = network.head.get_submodule("fc")
        self._set_head(num_classes, global_pool)
        if _shapes(classifier) == _shapes(self.head.get_submodule("fc")):  # keep trained weights
            self.head.add_module("fc", classifier)

    def _feature_maps(self) -> list[dict[str, Any]]:
        stem = [
            {"num_chs": channels, "reduction": stride, "module": f"stem.{position}"}
            for position, (channels, stride) in self._taps.items()
        ]
        stages = [
            {"num_chs": info.channels, "reduction": info.stride, "module": f"stages.{info.stage}"}
            for info in self.spec.feature_info
        ]
        if not isinstance(self.final, nn.Identity):
            stages[-1]["module"] = "final"
        return stem + stages

    def _set_head(self, num_classes: int, global_pool: str) -> None:
        head = self.head
        if isinstance(head, VGGHead):
            if global_pool != "avg":
                raise SenetError(
                    f"global_pool={global_pool!r}: the head of {self.spec.name} pools to 7x7 cells; use 'avg'"
                )
            last = [layer for layer in head.hidden.modules() if isinstance(layer, nn.Linear)][-1]
            head.fc = nn.Linear(last.out_features, num_classes) if num_classes else nn.Identity()
            self.head_hidden_size = last.out_features
        else:
            assert isinstance(head, Head | PooledHead), type(head)
            self.head = PooledHead(self.num_features, num_classes, global_pool, self.drop_rate).train(head.training)
            self.head_hidden_size = self.head.hidden_channels
        like = next(self.stages.parameters())
        self.head.to(like.device, like.dtype)
        self.num_classes, self.global_pool = num_classes, global_pool
        self.spec = self.spec.changed({"num_classes": num_classes})

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """Return the classifier or its name."""
        return "head.fc" if name_only else self.head.get_submodule("fc")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a newly initialized one, and the pool unless it is None.

        Raises:
            SenetError: A pool that the head doesn't have.
        """
        self._set_head(num_classes, self.global_pool if global_pool is None else global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map: (N, in_chans, H, W) -> (N, num_features, H', W')."""
        x = self.stem(x)
        for stage in self.stages.values():
            x = stage(x)
        return self.final(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits, or the classifier's input: (N, num_features, H', W') -> (N, num_classes)."""
        if pre_logits:
            assert isinstance(self.head, PooledHead | VGGHead)
            return self.head.pre_logits(x)
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (N, in_chans, H, W) -> (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,  # noqa: ARG002 - the last feature map always has its norm, the others never have one
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last feature map and the selected ones, the finest first.

        Args:
            x: Images (N, in_chans, H, W).
            indices: Positions in `feature_info`. A number n selects the last n, None selects all.
            norm: Part of timm's interface. The network's `final` layers apply to its last feature map in any case.
            stop_early: Leave out the stages after the last selected one.
            output_fmt: `"NCHW"`.
            intermediates_only: Return the list of selected feature maps alone.

        Raises:
            SenetError: Another `output_fmt`.
        """
        if output_fmt != "NCHW":
            raise SenetError(f"output_fmt={output_fmt!r}: feature maps of {self.spec.name} are 'NCHW'")
        chosen = self._positions(indices)
        found: list[Tensor] = []
        for index, feature_map in enumerate(self._feature_map_sequence(x, min(chosen))):
            if index in chosen:
                found.append(feature_map)
            x = feature_map
            if index == max(chosen) and (stop_early or intermediates_only):
                break
        return found if intermediates_only else (x, found)

    def _positions(self, indices: int | Sequence[int] | None) -> list[int]:
        """Return the selected positions in `feature_info`.

        Raises:
            SenetError: There is no such position.
        """
        count = len(self.feature_info)
        if indices is None or isinstance(indices, int):
            indices = range(-(count if indices is None else indices), 0)
        if not indices or not all(-count <= index < count for index in indices):
            raise SenetError(f"out_indices={(*indices,)}: {self.spec.name} has {count} feature maps, 0 to {count - 1}")
        return [index % count for index in indices]

    def _feature_map_sequence(self, x: Tensor, first: int) -> Iterator[Tensor]:
        """Yield each feature map in order. Stem maps before the `first` selected one cost no separate layers."""
        if first >= len(self._taps):
            x = self.stem(x)
            yield from (x for _ in self._taps)
        else:
            for position, layer in enumerate(self.stem.children()):
                x = layer(x)
                if position in self._taps:
                    yield x
        numbers = list(self.stages)
        for number in numbers:
            x = self.stages[number](x)
            yield self.final(x) if number == numbers[-1] else x

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers that the selected feature maps don't need. Returns their positions.

        Args:
            indices: As in `forward_intermediates`.
            prune_norm: Part of timm's interface. `final` goes with the last stage, and stays with it.
            prune_head: Remove the classifier and the pool.
        """
        del prune_norm
        chosen = self._positions(indices)
        kept = max(0, max(chosen) + 1 - len(self._taps))
        if kept < len(self.stages):
            self.final = nn.Identity()
        for number in list(self.stages)[kept:]:
            del self.stages[number]
        if prune_head:
            self.head, self.num_classes = nn.Identity(), 0
        return chosen

    @property
    def grad_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass."""
        return recomputes(self.stages.values())

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its feature maps."""
        set_recomputing(dict(self.stages.items()), enable)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return timm's patterns of layers, for layer-wise learning rates: by stage (`coarse`) or by block."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}


def _shapes(layer: nn.Module) -> list[torch.Size]:
    return [parameter.shape for parameter in layer.parameters()]


def _stem_taps(stem: nn.Module, spec: ModelSpec) -> dict[int, tuple[int, int]]:
    """Map the position of a stem's layer to channels and stride of its feature map.

    The last layer of each stride between the image's and the first stage's has an entry.
    """
    last: dict[int, tuple[int, int]] = {}
    stride, channels = 1, spec.in_channels
    for position, child in enumerate(stem.children()):
        for layer in child.modules():
            if isinstance(layer, nn.Conv2d):
                channels = layer.out_channels
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                stride *= layer.stride if isinstance(layer.stride, int) else layer.stride[0]
        last[stride] = position, channels
    first_stage = spec.feature_info[0].stride
    return {position: (width, stride) for stride, (position, width) in last.items() if 1 < stride < first_stage}
