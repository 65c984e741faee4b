"""Inference at another image size than the training."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from senet.errors import SenetError
from senet.nn.modes import evaluation_mode
from senet.preprocessing import Preprocessing
from senet.tasks import CLASSIFICATION, DETECTION
from senet.zoo import LoadedModel

__all__ = ["at_size"]


def at_size(
    loaded: LoadedModel, size: tuple[int, int] | None = None, *, crop_fraction: float | None = None
) -> LoadedModel:
    """Return a trained network for images of another size. Its weights are shared.

    A network often gains accuracy at a size somewhat above the one of its training (Touvron et al. 2019, arXiv
    1906.06423), since random crops enlarge the objects in training.

    Args:
        loaded: The network.
        size: Height and width in pixels. None keeps its own.
        crop_fraction: As in `Preprocessing`. None keeps its own.

    Raises:
        SenetError: The network can't take this size, or it has no effect on a network of its task.

    Example:
        >>> import senet
        >>> from senet.inference import at_size
        >>> from senet.preprocessing import CIFAR
        >>> from senet.weights import CheckpointMetadata
        >>> from senet.zoo import LoadedModel
        >>> metadata = CheckpointMetadata(model="se_cifar_resnet20", classes=("cat", "dog"), preprocessing=CIFAR)
        >>> network = senet.create_model("se_cifar_resnet20", num_classes=2).eval()
        >>> loaded = LoadedModel(network, metadata.classes, CIFAR, metadata)  # or senet.load_model(PATH)
        >>> at_size(loaded, (40, 40)).preprocessing.size
        (40, 40)
    """
    if size is None and crop_fraction is None:
        return loaded
    task, name = loaded.metadata.task, loaded.metadata.model
    if size is not None and task == DETECTION:
        raise SenetError(f"--size: {name} is a detector, which resizes images itself")
    if crop_fraction is not None and task != CLASSIFICATION:
        raise SenetError(f"--crop-fraction is for classifiers; a {task} network takes whole images")
    old = loaded.preprocessing
    new = replace(
        old,
        size=old.size if size is None else size,
        crop_fraction=old.crop_fraction if crop_fraction is None else crop_fraction,
    )
    if size is not None:
        _check_size(loaded.model, name, new)
    return replace(loaded, preprocessing=new, metadata=replace(loaded.metadata, preprocessing=new))


def _check_size(model: nn.Module, name: str, preprocessing: Preprocessing) -> None:
    height, width = preprocessing.size
    some = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, preprocessing.in_channels, height, width, dtype=some.dtype, device=some.device)
    try:
        with evaluation_mode(model), torch.inference_mode():
            model(image)
    except SenetError:  # an exported file's own message
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or ["it refuses them"])[0]
        raise SenetError(f"{name} can't take images of {height}x{width} pixels: {reason}") from error
