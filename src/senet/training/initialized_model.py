"""Build a network with initial weights: random, published, from a checkpoint, or from another library's file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from senet.errors import CheckpointError
from senet.preprocessing import Preprocessing
from senet.tasks import CLASSIFIERS, task_named
from senet.training.external_weights import builder, holds_backbone

if TYPE_CHECKING:
    from torch import nn

    from senet.training.model_initialization import ModelInitialization

__all__ = ["PRETRAINED", "SCRATCH", "InitializedModel", "initialize_model"]

SCRATCH: Final = "scratch"
"""Random weights, or the weights of a user's function."""

PRETRAINED: Final = "pretrained"
"""The published pretrained weights of the network."""


@dataclass(frozen=True)
class InitializedModel:
    """A network with its initial weights.

    Attributes:
        model: The network.
        new_head: Reason why its classifier is newly initialized, empty if it isn't.
    """

    model: nn.Module
    new_head: str = ""


def initialize_model(
    init: ModelInitialization, classes: tuple[str, ...], preprocessing: Preprocessing
) -> InitializedModel:
    """Build a network for these classes with its initial weights.

    Raises:
        SenetError: The network is unknown.
        CheckpointError: The weights can't be read, or don't fit.
    """
    from senet.zoo import is_code

    task = task_named(init.task)

    def build(outputs: int, **more: Any) -> nn.Module:
        return task.build(
            init.model,
            num_classes=outputs,
            preprocessing=preprocessing,
            options=init.options,
            head=init.head,
            **more,
        )

    if init.weights == SCRATCH:
        return InitializedModel(build(len(classes)), "" if is_code(init.model) else "the network's weights are random")
    if init.weights == PRETRAINED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the new classifier is reported below
            model = build(len(classes), pretrained=True)
        onto = task.backbone(model) is not None
        return InitializedModel(model, "the published weights are the backbone's" if onto else
                       _class_mismatch(init.classes(), classes))  # fmt: skip
    if init.external is not None:
        return _from_external(init, build, classes, preprocessing)
    return _from_checkpoint(init, build, classes)


def _from_external(
    init: ModelInitialization, build: Any, classes: tuple[str, ...], preprocessing: Preprocessing
) -> InitializedModel:
    assert init.external is not None
    model = build(len(classes))
    channels = init.preprocessing.in_channels if init.preprocessing else preprocessing.in_channels
    build_external = builder(init.model, init.options, init.task, preprocessing.with_channels(channels))
    if not holds_backbone(init.model, init.task):
        return InitializedModel(model, init.external.load(model, init.weights, build_external, len(classes)))
    backbone = task_named(init.task).backbone(model)
    assert backbone is not None
    init.external.load_backbone(backbone, init.weights, build_external)
    return InitializedModel(model, "the weights are the backbone's")


def _from_checkpoint(init: ModelInitialization, build: Any, classes: tuple[str, ...]) -> InitializedModel:
    import torch

    from senet.weights import read_checkpoint
    from senet.weights.transfer import adapt_stem
    from senet.zoo import mismatches

    tensors, metadata = read_checkpoint(Path(init.weights))
    model = build(len(classes))
    if metadata.task != init.task and not {metadata.task, init.task} <= {*CLASSIFIERS}:
        backbone = task_named(init.task).backbone(model)
        assert backbone is not None
        try:
            backbone.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{init.weights} doesn't fit {init.model}: {reason}") from error
        return InitializedModel(model, "the weights are the backbone's")
    own = model.state_dict()
    adapt_stem(model, tensors, own, {key: key for key in own})
    new_head = _class_mismatch(metadata.classes, classes)
    if metadata.task != init.task:
        new_head = f"the weights are for {metadata.task}"
    if new_head:
        with torch.random.fork_rng(devices=[]):
            other = build(len(classes) + 1).state_dict()
        # The classifier's tensors change their shape with the number of classes.
        head = {key for key, tensor in own.items() if other[key].shape != tensor.shape}
        tensors = {key: tensor for key, tensor in tensors.items() if key not in head} | {k: own[k] for k in head}
    wrong = mismatches(own, tensors)
    if wrong:
        raise CheckpointError(f"{init.weights} doesn't fit {init.model}: {wrong}")
    model.load_state_dict(tensors)
    return InitializedModel(model, new_head)


def _class_mismatch(there: Sequence[str], here: Sequence[str]) -> str:
    """Describe a mismatch between the classes of the weights and of the data, empty if they match.

    Numbers mean unknown names (published weights, converted files). They match any classes of the same number.
    """
    from senet.data.split import portable  # here, as it costs numpy

    if len(there) != len(here):
        return f"the weights are for {len(there):,} classes, the data has {len(here):,}"
    numbers = tuple(map(str, range(len(there))))
    alike = tuple(map(portable, there)) == tuple(map(portable, here))
    return "" if alike or tuple(there) == numbers else "the weights are for other classes"
