"""The frozen spec that describes a network. Its `build()` returns the module."""

from __future__ import annotations

import math
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_origin, get_type_hints

from torch import nn

from senet.errors import SenetError, UnknownNameError
from senet.nn import PLACEMENTS, AttentionSpec, attention_from_dict
from senet.preprocessing import IMAGENET, Preprocessing

if TYPE_CHECKING:
    from senet.models.stages import ConvNet

__all__ = ["OUTPUT_STRIDES", "BlockShape", "FeatureInfo", "ModelSpec"]

OUTPUT_STRIDES = (8, 16, 32)
"""Possible values of `output_stride`, up to the stride of the network."""


@dataclass(frozen=True)
class BlockShape:
    """Channels and stride of one block of a stage.

    Attributes:
        in_channels: Input channels.
        inner_channels: Channels of its (last but one or only) 3x3 convolution, where `conv3x3` places the attention.
        out_channels: Output channels.
        stride: The stride.

    Example:
        >>> from senet.models import MODELS
        >>> MODELS["se_resnet50"].blocks()[1][0]
        BlockShape(in_channels=256, inner_channels=128, out_channels=512, stride=2)
    """

    in_channels: int
    inner_channels: int
    out_channels: int
    stride: int = 1


@dataclass(frozen=True)
class FeatureInfo:
    """The final feature map of a stage, known before running.

    Attributes:
        stage: Number of the stage.
        channels: Its channels.
        stride: Its stride in pixels of the image.
    """

    stage: int
    channels: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class ModelSpec(ABC):
    """The description of a network. `dataclasses.replace` of a spec gives a variant.

    Attributes:
        name: Its name in `list_models()`, set by the registry.
        num_classes: Outputs of the classifier. 0 returns the pooled features.
        in_channels: Channels of the input image.
        attention: The attention in every block. None is the plain network.
        placement: Its position in the block (paper, section 6.5): `standard`, `pre`, `post`, `identity` or `conv3x3`.
        stages: The stages whose blocks have attention, numbered as in the paper's Table 13. The stem is
            stage 1, so the first residual stage is 2. None selects all stages.
        preprocessing: The preprocessing of its images. `changed` adapts it to another number of channels.
        output_stride: Largest stride of a feature map in pixels of the image (8, 16 or 32). Later stages keep the
            resolution and are dilated, see `senet.models.dilation`. Weights fit with and without it.

    Class attributes of a family:
        first_stage: Number of the first entry of `blocks()`. In the paper the stem is stage 1, so it is 2. A
            family whose stem is a stage like the others (VGG) has 1.
        placements: The placements that its blocks support.
        stem_stride: Stride of the first stage's input in pixels of the image.

    Raises:
        SenetError: An impossible value. Raised before any weight is allocated.

    Example:
        >>> from dataclasses import replace
        >>> import senet
        >>> from senet.models import MODELS
        >>> spec = replace(MODELS["resnet18"], num_classes=10, attention=senet.ECA())
        >>> spec.build().head.fc
        Linear(in_features=512, out_features=10, bias=True)
        >>> spec.differences(MODELS["resnet18"])["attention"]
        {'kind': 'eca', 'kernel_size': None, 'init': 'default'}
    """

    first_stage: ClassVar[int] = 2
    placements: ClassVar[tuple[str, ...]] = tuple(PLACEMENTS)
    stem_stride: ClassVar[int]

    name: str = ""
    num_classes: int = 1000
    in_channels: int = 3
    attention: AttentionSpec | None = None
    placement: str = "standard"
    stages: tuple[int, ...] | None = None
    preprocessing: Preprocessing = IMAGENET
    output_stride: int | None = None

    @abstractmethod
    def blocks(self) -> list[list[BlockShape]]:
        """Return the shapes of all blocks, by stage."""

    @abstractmethod
    def build(self) -> ConvNet:
        """Build the network with newly initialized weights."""

    def __post_init__(self) -> None:
        if self.attention is not None and not isinstance(self.attention, AttentionSpec):
            raise SenetError(f"attention={self.attention!r} is not an attention spec; use e.g. senet.SE() or None")
        hints = get_type_hints(type(self))
        for f in fields(self):
            if not _is_a(getattr(self, f.name), hints[f.name]):
                raise SenetError(f"{f.name}={getattr(self, f.name)!r} must be {f.type}")
        self.check_values()
        self._check_attention()
        self._check_output_stride()

    def check_values(self) -> None:
        """Raise a `SenetError` for an impossible value of the right type."""
        for name, least in (("num_classes", 0), ("in_channels", 1)):
            if getattr(self, name) < least:
                raise SenetError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.placement not in PLACEMENTS:
            raise UnknownNameError("placement", self.placement, PLACEMENTS)
        if self.placement not in self.placements:
            raise SenetError(f"placement={self.placement!r}: the blocks of {self.name} can only have {self.placements}")

    def _check_attention(self) -> None:
        blocks = self.blocks()
        numbers = range(self.first_stage, self.first_stage + len(blocks))
        wrong = [s for s in self.stages or () if s not in numbers]
        if wrong:
            raise SenetError(
                f"stages={self.stages}: no stage {wrong[0]}; the stages are numbered {numbers[0]} to "
                f"{numbers[-1]}, as in the paper's Table 13"
            )
        if self.attention is not None:
            attending = [
                block for number, stage in zip(numbers, blocks, strict=True) if self._attends(number) for block in stage
            ]
            for channels in sorted({self._attended_channels(block) for block in attending}):
                self.attention.check(channels)

    def _check_output_stride(self) -> None:
        coarsest = self._strides()[-1]
        possible = [stride for stride in OUTPUT_STRIDES if stride <= coarsest]
        if self.output_stride is not None and self.output_stride not in possible:
            choice = " or ".join(map(str, possible)) or "None"
            raise SenetError(f"output_stride={self.output_stride}: {self.name} has stride {coarsest}; use {choice}")

    def _strides(self) -> list[int]:
        """Return the stride of each stage's feature map without `output_stride`."""
        found, stride = [], self.stem_stride
        for stage in self.blocks():
            for block in stage:
                stride *= block.stride
            found.append(stride)
        return found

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Channels and stride of each stage's feature map."""
        stages = enumerate(zip(self.blocks(), self._strides(), strict=True), self.first_stage)
        limit = self.output_stride or math.inf
        return tuple(FeatureInfo(n, stage[-1].out_channels, int(min(stride, limit))) for n, (stage, stride) in stages)

    def _attends(self, stage: int) -> bool:
        return self.attention is not None and (self.stages is None or stage in self.stages)

    def _attended_channels(self, block: BlockShape) -> int:
        channels_of = PLACEMENTS[self.placement].channels_of
        return {"in": block.in_channels, "out": block.out_channels, "inner": block.inner_channels}[channels_of]

    def build_attention(self, stage: int, block: BlockShape) -> nn.Module:
        """Return the attention of one block of stage number `stage`, or the identity."""
        if self.attention is None or not self._attends(stage):
            return nn.Identity()
        return self.attention.build(self._attended_channels(block))

    def changed(self, options: Mapping[str, Any]) -> ModelSpec:
        """Return this spec with other values. An unknown option raises an error with the nearest names.

        Values may come from JSON (lists, dictionaries), such as a checkpoint's metadata. `in_channels` also adapts the
        preprocessing (`Preprocessing.with_channels`).
        """
        known = {f.name for f in fields(self)} - {"name"}
        for key in options:
            if key not in known:
                raise UnknownNameError(f"option of {self.name}", key, known)
        values = {key: _from_json(key, value) for key, value in options.items()}
        channels, images = values.get("in_channels", self.in_channels), values.get("preprocessing", self.preprocessing)
        if type(channels) is int and isinstance(images, Preprocessing) and channels > 0:
            values["preprocessing"] = images.with_channels(channels)
        return replace(self, **values)

    def differences(self, other: ModelSpec) -> dict[str, Any]:
        """Return the options that differ from `other`, JSON-serializable. `other.changed` of them gives this spec."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        alike = {"preprocessing": other.preprocessing.with_channels(self.in_channels)}
        return {k: _to_json(v) for k, v in values.items() if v != alike.get(k, getattr(other, k))}


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value has the annotated type. A bool is not a number, and an int is also a float."""
    if get_origin(hint) is types.UnionType:
        return any(_is_a(value, kind) for kind in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_a(v, get_args(hint)[0]) for v in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _to_json(value: Any) -> Any:
    if isinstance(value, AttentionSpec | Preprocessing):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def _from_json(key: str, value: Any) -> Any:
    if isinstance(value, dict) and key in _FROM_DICT:
        return _FROM_DICT[key](value)
    return tuple(value) if isinstance(value, list) else value


_FROM_DICT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "attention": attention_from_dict,
    "preprocessing": Preprocessing.from_dict,
}
