"""Train networks by recipes, with checkpoints and resumable training states.

Names are imported on first use (PEP 562). A recipe's options can be read without torch.

Example:
    Train a small network on digits. The folder then contains checkpoints, metrics and curves.

    >>> import contextlib, tempfile
    >>> from dataclasses import replace
    >>> from pathlib import Path
    >>> import senet
    >>> from senet.training import DataOptions, Job, ModelInitialization, recipe_named
    >>> job = Job(
    ...     source=DataOptions(data="digits", limit=64),
    ...     network=ModelInitialization(model="se_cifar_resnet20", options={"depth": 8}),
    ...     recipe=replace(recipe_named("digits"), epochs=1),
    ... )
    >>> folder = Path(tempfile.mkdtemp()) / "digits"
    >>> with contextlib.redirect_stderr(None):
    ...     outcome = job.start(folder)
    >>> outcome.best["epoch"]
    1
    >>> len(senet.load_model(folder).classes)
    10
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senet.training.job import DataOptions, Job
    from senet.training.lr_finder import LearningRateRange, find_learning_rate
    from senet.training.model_initialization import ModelInitialization
    from senet.training.outcome import Outcome
    from senet.training.recipe import Recipe, RunOptions
    from senet.training.recipes import RECIPES, fine_tuning, recipe_named
    from senet.training.teacher import Teacher

__all__ = [
    "RECIPES",
    "DataOptions",
    "Job",
    "LearningRateRange",
    "ModelInitialization",
    "Outcome",
    "Recipe",
    "RunOptions",
    "Teacher",
    "find_learning_rate",
    "fine_tuning",
    "recipe_named",
]

HOMES = {
    "job": ("DataOptions", "Job"),
    "lr_finder": ("LearningRateRange", "find_learning_rate"),
    "model_initialization": ("ModelInitialization",),
    "outcome": ("Outcome",),
    "recipe": ("Recipe", "RunOptions"),
    "recipes": ("RECIPES", "fine_tuning", "recipe_named"),
    "teacher": ("Teacher",),
}


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"senet.training.{home}"), name)
    raise AttributeError(f"module 'senet.training' has no attribute {name!r}")
