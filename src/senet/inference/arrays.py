"""Predictions and features of images in memory, for `LoadedModel`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from senet.data import eval_transform
from senet.data.band_transform import BandTransform
from senet.data.images import decode_image, read_stored, to_8_bits
from senet.errors import SenetError
from senet.inference.labels import labels_above, thresholds_of
from senet.nn.modes import evaluation_mode
from senet.tasks import MULTI_LABEL, task_named
from senet.tasks.classification import ClassifierTask
from senet.tasks.dense import DenseTask
from senet.tasks.logits import logits_of
from senet.zoo import LoadedModel

__all__ = ["Classification", "Images", "MultiLabelPrediction", "embed", "predict", "predict_proba"]

One: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray"
Images: TypeAlias = "One | Sequence[One] | Tensor"
"""A path, a Pillow image, a (H, W, 3) or (H, W) uint8 array, several of these in a list, a (N, H, W, 3) uint8 array, or
a preprocessed (N, C, H, W) float tensor. For a network of other channels or more bits, arrays have its channels C, as
(H, W, C), and any type that its training takes."""


@dataclass(frozen=True)
class Classification:
    """A classifier's prediction of one image.

    Attributes:
        label: The likeliest class.
        probability: Its probability.
        probabilities: Class to its probability, in the order of the network's outputs.

    Example:
        >>> from senet.inference import Classification
        >>> prediction = Classification("dog", 0.93, {"cat": 0.07, "dog": 0.93})
        >>> prediction.label
        'dog'
    """

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class MultiLabelPrediction:
    """A multi-label classifier's prediction of one image.

    Attributes:
        labels: Label to its probability, where it is at least the label's threshold, descending. It may be empty.
        probabilities: Every label to its probability, in the order of the network's outputs.

    Example:
        >>> from senet.inference import MultiLabelPrediction
        >>> prediction = MultiLabelPrediction({"sky": 0.93}, {"person": 0.07, "sky": 0.93})
        >>> "sky" in prediction.labels
        True
    """

    labels: dict[str, float]
    probabilities: dict[str, float]


def predict(loaded: LoadedModel, images: Images, *, batch_size: int = 64) -> list[Any]:
    """See `LoadedModel.predict`."""
    if not loaded.metadata.is_classifier:
        return _predict_dense(loaded, images, batch_size)
    shares = predict_proba(loaded, images, batch_size=batch_size)
    if loaded.metadata.task == MULTI_LABEL:
        above = labels_above(shares, loaded.classes, thresholds_of(loaded))
        every = (dict(zip(loaded.classes, row, strict=True)) for row in shares.tolist())
        return [MultiLabelPrediction(dict(own), row) for own, row in zip(above, every, strict=True)]
    found = []
    for row in shares.tolist():
        probabilities = dict(zip(loaded.classes, row, strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        found.append(Classification(label, probabilities[label], probabilities))
    return found


def predict_proba(loaded: LoadedModel, images: Images, *, batch_size: int = 64) -> Tensor:
    """See `LoadedModel.predict_proba`."""
    _require_classifier(loaded, "probabilities")
    name, count, task = loaded.metadata.model, len(loaded.classes), task_named(loaded.metadata.task)
    assert isinstance(task, ClassifierTask)
    parts = [
        task.probabilities(logits_of(output, count, name=name).float()).cpu()
        for output in _outputs(loaded, images, batch_size)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, count)


def embed(loaded: LoadedModel, images: Images, *, batch_size: int = 64) -> Tensor:
    """See `LoadedModel.embed`."""
    _require_classifier(loaded, "features")
    count, inputs = len(loaded.classes), list[Tensor]()

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        inputs[:] = [args[0]]

    layers = [layer for layer in loaded.model.modules() if _outputs_of_layer(layer) == count]
    parts = []
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(keep).remove)
        for _ in _outputs(loaded, images, batch_size):
            if not inputs:
                raise SenetError(
                    f"{loaded.metadata.model} has no final linear layer with {count} outputs, so no features"
                )
            last = inputs.pop().float().cpu()
            parts.append(last.mean((2, 3)) if last.ndim == 4 else last.flatten(1))
    return torch.cat(parts) if parts else torch.zeros(0, 0)


def _outputs_of_layer(layer: nn.Module) -> int | None:
    """Return the number of outputs of a layer that can end a classifier, None for any other."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels if layer.kernel_size == (1, 1) else None
    return layer.out_features if isinstance(layer, nn.Linear) else None


def _require_classifier(loaded: LoadedModel, what: str) -> None:
    if not loaded.metadata.is_classifier:
        raise SenetError(f"{what} are of classifiers; {loaded.metadata.model} is a {loaded.metadata.task} network")


def _outputs(loaded: LoadedModel, images: Images, batch_size: int) -> Iterator[Any]:
    """Run images in batches, on the network's own device."""
    with _inference(loaded.model) as device:
        for batch in _batches(loaded, images, batch_size):
            yield loaded.model(batch.to(device))


@contextmanager
def _inference(model: nn.Module) -> Iterator[torch.device]:
    """Evaluation mode without gradients within the block. Each module's mode is restored after it."""
    some = next(model.parameters(), None)
    with evaluation_mode(model), torch.inference_mode():
        yield some.device if some is not None else torch.device("cpu")


def _batches(loaded: LoadedModel, images: Images, batch_size: int) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        channels = loaded.preprocessing.in_channels
        if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise SenetError(
                f"a tensor must hold preprocessed images, float (N, {channels}, H, W), "
                f"got {images.dtype} {tuple(images.shape)}; give uint8 pixels as a NumPy array (N, H, W, 3)"
            )
        yield from images.split(batch_size)
        return
    transform = eval_transform(loaded.preprocessing)
    prepare = partial(_bands, transform) if isinstance(transform, BandTransform) else lambda one: transform(_image(one))
    listed = _listed(images)
    for start in range(0, len(listed), batch_size):
        yield torch.stack([prepare(one) for one in listed[start : start + batch_size]])


def _listed(images: Images) -> Sequence[One]:
    if isinstance(images, list | tuple):
        return images
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return list(images)
    return [cast("One", images)]


def _bands(transform: BandTransform, one: One) -> Tensor:
    if isinstance(one, Image.Image | np.ndarray):
        return transform(one)
    if isinstance(one, str | os.PathLike):
        return transform.decoded(read_stored(one))
    raise SenetError(_about(one))


def _about(one: object) -> str:
    return f"an image must be a path, a Pillow image or a NumPy array, got {type(one).__name__}; a tensor holds a batch"


def _image(one: One) -> Image.Image:
    if isinstance(one, Image.Image):
        return one if one.mode in ("L", "RGB", "I;16") else one.convert("RGB")
    if isinstance(one, np.ndarray):
        if one.dtype != np.uint8 or not (one.ndim == 2 or (one.ndim == 3 and one.shape[2] in (1, 3))):
            raise SenetError(f"an array must hold uint8 pixels (H, W, 3) or (H, W), got {one.dtype} {one.shape}")
        return Image.fromarray(np.ascontiguousarray(one[..., 0] if one.ndim == 3 and one.shape[2] == 1 else one))
    if isinstance(one, str | os.PathLike):
        return decode_image(one)
    raise SenetError(_about(one))


def _predict_dense(loaded: LoadedModel, images: Images, batch_size: int) -> list[Any]:
    if isinstance(images, Tensor):
        raise SenetError(f"a {loaded.metadata.task} network predicts at an image's own size; give images, not a tensor")
    task = task_named(loaded.metadata.task)
    assert isinstance(task, DenseTask)
    transform, listed, found = task.transform(loaded.preprocessing, None), _listed(images), list[Any]()
    with _inference(loaded.model) as device:
        for start in range(0, len(listed), batch_size):
            whole = [
                to_8_bits(_image(one), loaded.preprocessing.white_level) for one in listed[start : start + batch_size]
            ]
            inputs = [transform.alone(image).to(device) for image in whole]
            found += task.predictions(loaded.model, inputs, [(image.height, image.width) for image in whole])
    return found
