"""External models by name: `timm:resnet50`, `torchvision:resnet50`.

Names are looked up only in the library's own registry, so a name in a checkpoint can't run other code.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from senet.errors import CheckpointError, SenetError, UnknownNameError
from senet.preprocessing import Preprocessing
from senet.weights.transfer import stem_weight

__all__ = ["LIBRARIES", "ExternalLibrary", "external_library"]

_INTERPOLATIONS = ("bilinear", "bicubic", "nearest")


@dataclass(frozen=True)
class ExternalLibrary(ABC):
    """A network of another library.

    Attributes:
        name: Its name in this library.

    Raises:
        UnknownNameError: There is no such network. Names the nearest.
        SenetError: The library isn't installed.

    Example:
        >>> from senet.external import external_library
        >>> network = external_library("torchvision:resnet18")
        >>> network.text, network.num_classes
        ('torchvision:resnet18', 1000)
        >>> network.build(num_classes=10).fc
        Linear(in_features=512, out_features=10, bias=True)
    """

    name: str
    library: ClassVar[str]

    def __post_init__(self) -> None:
        self.check_name()

    @abstractmethod
    def check_name(self) -> None:
        """Raise an `UnknownNameError` if the library has no such network."""

    @abstractmethod
    def build(self, *, num_classes: int, in_channels: int = 3, pretrained: bool = False) -> nn.Module:
        """Build the network.

        With pretrained weights and another number of classes, the classifier is newly initialized. With pretrained
        weights and `in_channels` other than three, the weights of the first convolution are summed or repeated.

        Raises:
            CheckpointError: The pretrained weights can't be downloaded.
        """

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of outputs of its pretrained classifier."""

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of its pretrained weights."""

    @property
    def text(self) -> str:
        """The full name, `library:name`."""
        return f"{self.library}:{self.name}"

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Download within the block, without log messages. A failure raises one `CheckpointError`."""
        with external_library_errors(self.text):
            yield


@contextmanager
def external_library_errors(text: str) -> Iterator[None]:
    """Download another library's weights within the block, without log messages.

    Raises:
        CheckpointError: The weights can't be downloaded.
    """
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:  # the exception of a failed download depends on the versions of four libraries
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise CheckpointError(
            f"the pretrained weights of {text} can't be downloaded: {reason.rstrip('.')}; "
            "use --no-pretrained for random weights"
        ) from error
    finally:
        hub.setLevel(level)


class Timm(ExternalLibrary):
    """A network of timm. A tag selects its weights (`timm:resnet50.a1_in1k`)."""

    library = "timm"

    def check_name(self) -> None:
        """Look the name up in timm's registry. It excludes `hf-hub:` and `local-dir:`, which would load files."""
        timm = self._timm()
        if not timm.is_model(self.name):
            raise UnknownNameError("timm network", self.name, timm.list_models())
        tag = self.name.partition(".")[2]
        tags = [text.partition(".")[2] for text in timm.list_pretrained(f"{self.name.partition('.')[0]}.*")]
        if tag and tag not in tags:
            raise UnknownNameError(f"tag of timm's {self.name.partition('.')[0]}", tag, tags)

    def build(self, *, num_classes: int, in_channels: int = 3, pretrained: bool = False) -> nn.Module:
        """Build the network with `timm.create_model`."""
        create = self._timm().create_model
        if not pretrained:
            return create(self.name, num_classes=num_classes, in_chans=in_channels)
        with self.fetching():
            return create(self.name, num_classes=num_classes, in_chans=in_channels, pretrained=True)

    @property
    def num_classes(self) -> int:
        """The number of outputs in timm's configuration."""
        return int(self._config().num_classes)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing in timm's configuration, with a center crop. Unusual interpolations become bicubic."""
        from timm.data import resolve_data_config

        found = resolve_data_config(pretrained_cfg=self._config().to_dict())
        interpolation = found["interpolation"]
        return Preprocessing(
            size=tuple(found["input_size"][1:]),
            crop_fraction=min(found["crop_pct"], 1.0),
            interpolation=interpolation if interpolation in _INTERPOLATIONS else "bicubic",
            mean=tuple(found["mean"]),
            std=tuple(found["std"]),
            channel_order="L" if len(found["mean"]) == 1 else "RGB",
        )

    def _config(self) -> Any:
        return self._timm().get_pretrained_cfg(self.name)

    def _timm(self) -> Any:
        try:
            import timm
        except ImportError as error:
            raise SenetError(f"{self.text} needs timm, which isn't installed: pip install 'senet[timm]'") from error
        return timm


class Torchvision(ExternalLibrary):
    """A classifier of torchvision, with its newest weights."""

    library = "torchvision"

    def check_name(self) -> None:
        """Look the name up in torchvision's registry of classifiers."""
        from torchvision import models

        known = models.list_models(module=models)
        if self.name not in known:
            raise UnknownNameError("torchvision network", self.name, known)

    def build(self, *, num_classes: int, in_channels: int = 3, pretrained: bool = False) -> nn.Module:
        """Build the network with `torchvision.models.get_model`, without auxiliary classifiers."""
        from torchvision import models

        more: dict[str, Any] = {}
        if self.name in ("googlenet", "inception_v3"):
            more = {"aux_logits": False, "transform_input": in_channels == 3, "init_weights": not pretrained}
        model: nn.Module = models.get_model(self.name, num_classes=num_classes, **more)
        if pretrained:
            more |= {"transform_input": True} if more else {}
            with self.fetching():
                given = models.get_model(self.name, weights="DEFAULT", **more).state_dict()
            own = model.state_dict()
            same = {key: t for key, t in given.items() if key in own and own[key].shape == t.shape}
            model.load_state_dict(own | same)
        if in_channels != 3:
            first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
            first.in_channels = in_channels
            first.weight = nn.Parameter(stem_weight(first.weight.detach(), in_channels))
        return model

    @property
    def num_classes(self) -> int:
        """The number of categories of its newest weights."""
        return len(self._weights().meta["categories"])

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of its newest weights."""
        found = self._weights().transforms()
        crop, resize = found.crop_size[0], found.resize_size[0]
        return Preprocessing(
            size=(crop, crop),
            crop_fraction=_crop_fraction(crop, resize),
            interpolation=found.interpolation.value,
            mean=tuple(found.mean),
            std=tuple(found.std),
        )

    def _weights(self) -> Any:
        from torchvision import models

        return models.get_model_weights(self.name).DEFAULT


def _crop_fraction(crop: int, resize: int) -> float:
    """Return the crop fraction for which `Preprocessing.covered_size` equals `resize`."""
    fraction = min(crop / resize, 1.0)
    return math.nextafter(fraction, 0) if math.floor(crop / fraction) < resize else fraction


LIBRARIES: dict[str, type[ExternalLibrary]] = {kind.library: kind for kind in (Timm, Torchvision)}
"""The supported libraries, by their prefix before the colon."""


def external_library(text: str) -> ExternalLibrary | None:
    """Return the network for `library:name`, or None for other text.

    Example:
        >>> from senet.external import external_library
        >>> external_library("torchvision:resnet50").preprocessing.size
        (224, 224)
        >>> external_library("se_resnet50") is None
        True
    """
    library, colon, name = text.partition(":")
    return LIBRARIES[library](name) if colon and library in LIBRARIES else None
