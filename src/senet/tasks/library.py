"""torchvision's detectors and segmentation networks by name: `torchvision:fasterrcnn_resnet50_fpn`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from senet.errors import SenetError, UnknownNameError
from senet.external import external_library_errors
from senet.preprocessing import Preprocessing
from senet.tasks.detection.heads import image_options

__all__ = ["from_torchvision", "known_in_torchvision"]


def _home(task: str) -> ModuleType:
    from torchvision.models import detection, segmentation

    return {"detection": detection, "segmentation": segmentation}[task]


def _name(text: str, task: str) -> str:
    from torchvision import models

    library, _, name = text.partition(":")
    if library != "torchvision":
        raise SenetError(f"{text}: for {task} take a name of `senet list`, torchvision:NAME, or module:function")
    known = [name for name in models.list_models(module=_home(task)) if "rcnn_" not in name or name[0] == "f"]
    if name not in known:
        raise UnknownNameError(f"{task} network of torchvision", name, known)
    return name


def known_in_torchvision(text: str, task: str) -> int:
    """Return the number of classes of the published weights.

    Raises:
        UnknownNameError: There is no such network.
    """
    from torchvision import models

    categories = models.get_model_weights(_name(text, task)).DEFAULT.meta["categories"]
    return len(categories) - (task == "detection")  # torchvision's begin with a background


def from_torchvision(
    text: str, task: str, num_classes: int, preprocessing: Preprocessing, *, pretrained: bool
) -> nn.Module:
    """Build one of torchvision's networks for these classes. A layer for other classes is newly initialized.

    Raises:
        CheckpointError: The pretrained weights are unavailable.
    """
    from torchvision import models

    name = _name(text, task)
    if preprocessing.in_channels != 3:
        raise SenetError(f"{text} takes images of three channels, not {preprocessing.in_channels}")
    detecting = task == "detection"
    options: dict[str, Any] = image_options(preprocessing) if detecting and "ssd" not in name else {}
    outputs = num_classes + detecting
    model: nn.Module = models.get_model(name, weights=None, weights_backbone=None, num_classes=outputs, **options)
    if pretrained:
        with external_library_errors(text):
            given = models.get_model(name, weights="DEFAULT").state_dict()
        own = model.state_dict()
        same = {key: tensor for key, tensor in given.items() if key in own and own[key].shape == tensor.shape}
        model.load_state_dict(own | same)
    return model
