"""Tasks: the loss, metrics, samples and networks of classification (of one label or several), detection, segmentation.

A task is looked up by its name. The lookup imports only this task, and the package itself imports nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from senet.errors import UnknownNameError

if TYPE_CHECKING:
    from torch import nn

    from senet.tasks.task import Task
    from senet.weights import CheckpointMetadata
    from senet.zoo import LoadedModel

__all__ = [
    "CLASSIFICATION",
    "CLASSIFIERS",
    "DETECTION",
    "MULTI_LABEL",
    "SEGMENTATION",
    "TASKS",
    "load_model",
    "task_named",
]

CLASSIFICATION = "classification"
MULTI_LABEL = "multi-label"
DETECTION = "detection"
SEGMENTATION = "segmentation"

CLASSIFIERS = (CLASSIFICATION, MULTI_LABEL)
"""Tasks of networks with one logit for each class."""

TASKS = {
    CLASSIFICATION: ("senet.tasks.classification", "ClassificationTask"),
    MULTI_LABEL: ("senet.tasks.multi_label", "MultiLabelTask"),
    DETECTION: ("senet.tasks.detection.task", "DetectionTask"),
    SEGMENTATION: ("senet.tasks.segmentation.task", "SegmentationTask"),
}
"""Name to the module and the class of each task."""


def task_named(name: str) -> Task:
    """Look up a task by its name.

    Raises:
        UnknownNameError: Unknown name. The message suggests the nearest ones.

    Example:
        >>> from senet.tasks import task_named
        >>> task = task_named("segmentation")
        >>> task.default_head, [metric.key for metric in task.metrics]
        ('unet', ['miou', 'dice'])
    """
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    module, kind = TASKS[name]
    task: Task = getattr(import_module(module), kind)()
    return task


def load_model(path: str | os.PathLike[str], *, factory: str | None = None) -> LoadedModel:
    """Load a trained checkpoint of any task.

    Args:
        path: The `.safetensors` file, the run's folder for its best checkpoint, or `hf://user/name[@revision]` for a
            repository of the Hugging Face Hub.
        factory: `module:function` of a network of your own. A file can't choose the code that is imported.

    Returns:
        The network in evaluation mode, with its classes and its preprocessing.

    Raises:
        CheckpointError: The file can't be used, or its weights don't fit its network.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import senet
        >>> from senet.preprocessing import CIFAR
        >>> from senet.weights import CheckpointMetadata, write_checkpoint
        >>> path = Path(tempfile.mkdtemp(), "best.safetensors")
        >>> network = senet.create_model("se_cifar_resnet20", num_classes=2)
        >>> metadata = CheckpointMetadata(model="se_cifar_resnet20", classes=("cat", "dog"), preprocessing=CIFAR)
        >>> write_checkpoint(path, network.state_dict(), metadata)
        >>> senet.load_model(path).classes
        ('cat', 'dog')
    """
    from senet.zoo import load_network

    def build(name: str, description: CheckpointMetadata) -> nn.Module:
        return task_named(description.task).build(
            name,
            num_classes=len(description.classes),
            preprocessing=description.preprocessing,
            options=description.options,
            head=description.head,
        )

    return load_network(path, build, factory=factory)
