"""What a network is for: its loss, its metrics, its samples, and the network around a backbone.

A task is looked up by its name; looking up a name imports that task alone, and this package imports nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from senet.errors import UnknownNameError

if TYPE_CHECKING:
    from senet.tasks.task import Task

__all__ = ["CLASSIFICATION", "TASKS", "task_named"]

CLASSIFICATION = "classification"

TASKS = {
    CLASSIFICATION: ("senet.tasks.classification", "ClassificationTask"),
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
