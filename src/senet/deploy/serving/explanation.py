"""What a trained network sees in one image file: classes, boxes or a mask, the activation of a class, and the gates."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image
from torch import Tensor

from senet.data import CorruptImage, eval_transform
from senet.data.inputs import file_preview, transformed_file
from senet.deploy.serving.drawing import overlay
from senet.gates import gated_layers, record_gates
from senet.inference import predict_dense
from senet.inference.device import running
from senet.inspection.blocks import names_of
from senet.inspection.class_activation import class_activation
from senet.inspection.examples import pixels_of
from senet.tasks import CLASSIFICATION, DETECTION, MULTI_LABEL, SEGMENTATION, task_named
from senet.tasks.classification import ClassifierTask
from senet.tasks.logits import logits_of
from senet.zoo import LoadedModel

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """A network's view of one image.

    Attributes:
        image: The image as decoded, with boxes or a mask if the network predicts these.
        classes: The likeliest classes with their probabilities, descending. Empty for boxes and masks.
        activation: The network's input under a heat map of the likeliest class, or None if there is none.
        gates: Block to its factors in this image, (C,), averaged over positions. Empty without attention layers.

    Example:
        >>> from PIL import Image
        >>> from senet.deploy import Explanation
        >>> Explanation(Image.new("L", (32, 32)), classes={"cat": 0.9}).gates
        {}
    """

    image: Image.Image
    classes: dict[str, float] = field(default_factory=dict)
    activation: Image.Image | None = None
    gates: dict[str, Tensor] = field(default_factory=dict)


def explain(loaded: LoadedModel, path: str | os.PathLike[str], *, topk: int = 5) -> Explanation:
    """Run a network on one image file, and return its prediction with the reasons that can be seen.

    Args:
        loaded: The network, see `senet.load_model`.
        path: The image file.
        topk: Number of classes of a classifier.

    Raises:
        CorruptImage: The file is no readable image.
        SenetError: The network returns no logits.

    Example:
        >>> import senet, tempfile
        >>> from PIL import Image
        >>> from senet.preprocessing import CIFAR
        >>> from senet.weights import CheckpointMetadata
        >>> from senet.zoo import LoadedModel
        >>> path = tempfile.mkdtemp() + "/image.png"
        >>> Image.new("RGB", (64, 48)).save(path)
        >>> metadata = CheckpointMetadata(model="se_cifar_resnet20", classes=("cat", "dog"), preprocessing=CIFAR)
        >>> network = senet.create_model("se_cifar_resnet20", num_classes=2).eval()
        >>> loaded = LoadedModel(network, metadata.classes, CIFAR, metadata)  # or senet.load_model(PATH)
        >>> explanation = senet.deploy.explain(loaded, path)
        >>> sorted(explanation.classes), len(explanation.gates), explanation.gates["stages.4.2"].shape
        (['cat', 'dog'], 9, torch.Size([64]))
    """
    with ExitStack() as stack:
        layers = gated_layers(loaded.model)
        gates = stack.enter_context(record_gates(loaded.model)) if layers else {}
        explanation = PREDICTED[loaded.metadata.task](loaded, path, topk)
        names = names_of(list(layers))
        explanation.gates.update({names[path]: _by_channel(gate) for path, gate in gates.items()})
    return explanation


def _by_channel(gate: Tensor) -> Tensor:
    """(C,): the mean over positions, and over the runs of a layer that runs several times."""
    return gate.flatten(2).mean(2).mean(0).float().cpu()


def _classify(loaded: LoadedModel, path: str | os.PathLike[str], topk: int) -> Explanation:
    task = task_named(loaded.metadata.task)
    assert isinstance(task, ClassifierTask)
    image = file_preview(path, loaded.preprocessing)
    with running(loaded.model, "32") as device:
        given = transformed_file(path, eval_transform(loaded.preprocessing))
        output, maps = class_activation(loaded.model, given[None].to(device))
        logits = logits_of(output, len(loaded.classes), name=loaded.metadata.model)
        shares, numbers = task.probabilities(logits.detach().float())[0].topk(min(topk, len(loaded.classes)))
    classes = {loaded.classes[k]: share for k, share in zip(numbers.tolist(), shares.tolist(), strict=True)}
    heat = None if maps is None else overlay(pixels_of(given, loaded.preprocessing), maps[0].cpu())
    return Explanation(image, classes, heat)


def _detect(loaded: LoadedModel, path: str | os.PathLike[str], _: int) -> Explanation:
    from senet.tasks.detection.drawing import draw_boxes

    image, found = _dense(loaded, path)
    return Explanation(draw_boxes(image, found, loaded.classes))


def _segment(loaded: LoadedModel, path: str | os.PathLike[str], _: int) -> Explanation:
    from senet.tasks.segmentation.drawing import draw_mask

    image, found = _dense(loaded, path)
    return Explanation(draw_mask(image, found.numpy(), len(loaded.classes)))


def _dense(loaded: LoadedModel, path: str | os.PathLike[str]) -> tuple[Image.Image, Any]:
    [row] = predict_dense(loaded, [os.fspath(path)])
    if row.image is None:
        raise CorruptImage(path, row.error)
    return row.image, row.prediction


PREDICTED: Final[dict[str, Callable[[LoadedModel, str | os.PathLike[str], int], Explanation]]] = {
    CLASSIFICATION: _classify,
    MULTI_LABEL: _classify,
    DETECTION: _detect,
    SEGMENTATION: _segment,
}
"""Task to the function that predicts and draws."""
