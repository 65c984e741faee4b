"""What a network is for: its loss, its metrics, its samples, and the network around a backbone.

A task is looked up by its name; looking up a name imports that task alone, and this package imports nothing.
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

__all__ = ["CLASSIFICATION", "DETECTION", "SEGMENTATION", "TASKS", "load_model", "task_named"]

CLASSIFICATION, DETECTION, SEGMENTATION = "classification", "detection", "segmentation"

TASKS = {
    CLASSIFICATION: ("senet.tasks.classification", "ClassificationTask"),
    DETECTION: ("senet.tasks.detection.task", "DetectionTask"),
    SEGMENTATION: ("senet.tasks.segmentation.task", "SegmentationTask"),
}
"""Name to the module and the class of each task."""


def task_named(name: str) -> Task:
    """Look a task up.

    Raises:
        UnknownNameError: There is none of that name; the nearest are given.
    """
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    module, kind = TASKS[name]
    task: Task = getattr(import_module(module), kind)()
    return task


def load_model(path: str | os.PathLike[str], *, factory: str | None = None) -> LoadedModel:
    """Load a checkpoint that a training wrote, whatever its task.

    Args:
        path: The `.safetensors` file or the training's folder (its best).
        factory: `module:function` of the user's own network, where the checkpoint is of one: a file must not
            choose by itself which code is imported.

    Returns:
        The network with its classes and what images go through; `description.task` says what it is for.

    Raises:
        CheckpointError: The file can't be used, or its weights don't fit the network that it names.
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
