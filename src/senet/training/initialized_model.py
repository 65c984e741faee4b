"""A network with the weights that a training begins with: random, published, a checkpoint's, another program's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from senet.errors import CheckpointError
from senet.preprocessing import Preprocessing
from senet.tasks import task_named
from senet.training.external_weights import builder, holds_backbone

if TYPE_CHECKING:
    from torch import nn

    from senet.training.model_initialization import ModelInitialization

__all__ = ["BUILT", "PUBLIC", "InitializedModel", "initialize_model"]

BUILT: Final = "built"
"""Weights as the network is built with: random ones, or those that a user's function puts in."""

PUBLIC: Final = "public"
"""The pretrained weights that are published for that name."""


@dataclass(frozen=True)
class InitializedModel:
    """A network with the weights that a training begins with.

    Attributes:
        model: The network.
        new_head: Why its classifier is new, in words; empty if it knows the classes.
    """

    model: nn.Module
    new_head: str = ""


def initialize_model(
    start: ModelInitialization, classes: tuple[str, ...], preprocessing: Preprocessing
) -> InitializedModel:
    """A network for these classes with the weights that a training begins with.

    Raises:
        SenetError: There is no such network.
        CheckpointError: The weights can't be had, or don't fit.
    """
    from senet.zoo import is_code

    task = task_named(start.task)

    def bare(outputs: int, **more: Any) -> nn.Module:
        return task.build(
            start.model,
            num_classes=outputs,
            preprocessing=preprocessing,
            options=start.options,
            head=start.head,
            **more,
        )

    if start.weights == BUILT:
        return InitializedModel(bare(len(classes)), "" if is_code(start.model) else "the network's weights are random")
    if start.weights == PUBLIC:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the classifier is new is told below
            model = bare(len(classes), pretrained=True)
        onto = task.backbone(model) is not None
        return InitializedModel(model, "the published weights are the backbone's" if onto else
                       _unlike(start.classes(), classes))  # fmt: skip
    if start.external is not None:
        return _from_external(start, bare, classes, preprocessing)
    return _from_checkpoint(start, bare, classes)


def _from_external(
    start: ModelInitialization, bare: Any, classes: tuple[str, ...], preprocessing: Preprocessing
) -> InitializedModel:
    assert start.external is not None
    model = bare(len(classes))
    build = builder(start.model, start.options, start.task, preprocessing)
    if not holds_backbone(start.model, start.task):
        return InitializedModel(model, start.external.begin(model, start.weights, build, len(classes)))
    backbone = task_named(start.task).backbone(model)
    assert backbone is not None
    start.external.begin_backbone(backbone, start.weights, build)
    return InitializedModel(model, "the weights are the backbone's")


def _from_checkpoint(start: ModelInitialization, bare: Any, classes: tuple[str, ...]) -> InitializedModel:
    import torch

    from senet.weights import read_checkpoint
    from senet.zoo import mismatches

    tensors, description = read_checkpoint(Path(start.weights))
    model = bare(len(classes))
    if description.task != start.task:
        backbone = task_named(start.task).backbone(model)
        assert backbone is not None
        try:
            backbone.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{start.weights} doesn't fit {start.model}: {reason}") from error
        return InitializedModel(model, "the weights are the backbone's")
    own, new_head = model.state_dict(), _unlike(description.classes, classes)
    if new_head:
        with torch.random.fork_rng(devices=[]):
            other = bare(len(classes) + 1).state_dict()
        # The classifier is what changes its shape with the number of classes.
        head = {key for key, tensor in own.items() if other[key].shape != tensor.shape}
        tensors = {key: tensor for key, tensor in tensors.items() if key not in head} | {k: own[k] for k in head}
    wrong = mismatches(own, tensors)
    if wrong:
        raise CheckpointError(f"{start.weights} doesn't fit {start.model}: {wrong}")
    model.load_state_dict(tensors)
    return InitializedModel(model, new_head)


def _unlike(there: Sequence[str], here: Sequence[str]) -> str:
    """Why outputs for some classes are none for others; empty if they are.

    Numbers stand for names that nobody told (published weights, converted files): they fit any as many classes.
    """
    from senet.data.split import portable  # here, as it costs numpy

    if len(there) != len(here):
        return f"the weights are for {len(there):,} classes, the data has {len(here):,}"
    numbers = tuple(map(str, range(len(there))))
    alike = tuple(map(portable, there)) == tuple(map(portable, here))
    return "" if alike or tuple(there) == numbers else "the weights are for other classes"
