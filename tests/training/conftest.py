"""Small real data and a small real network, so that a whole training takes a second."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from senet.data import Data, Subset, open_data
from senet.data.augmentation import Augmentation
from senet.training.fit import Network, fit
from senet.training.outcome import Outcome
from senet.training.recipe import Recipe, RunOptions
from senet.training.status import run_status
from senet.zoo import create_model

TINY = Recipe(epochs=2, batch_size=32, lr=0.05, warmup_epochs=0.5, augmentation=Augmentation(crop="none", hflip=0))


@pytest.fixture(scope="session")
def few_digits() -> Data:
    data = open_data("digits")
    return replace(data, train=Subset(data.train, np.arange(160)), val=Subset(data.val, np.arange(70)))


def run(
    folder: Path,
    data: Data,
    *,
    how: RunOptions | None = None,
    resume: bool = False,
    console: Console | None = None,
    **changes: Any,
) -> tuple[Outcome, Path]:
    """Train a two-stage network; keyword arguments change the recipe."""
    recipe = replace(TINY, **changes)
    folder.mkdir(exist_ok=True)
    preprocessing = replace(data.default_preprocessing, size=(8, 8))
    torch.manual_seed(recipe.seed)
    options = {"depth": 1, "widths": [16, 32], "attention": {"kind": "se", "reduction": 4}}
    model = create_model("cifar_resnet20", in_channels=1, num_classes=len(data.classes), **options)
    network = Network(model, "cifar_resnet20", options, preprocessing)
    how = how or RunOptions(workers=0)
    console = console or Console(file=io.StringIO(), width=200)
    state = run_status(folder, epochs=recipe.epochs, metric="top1").state if resume else None
    return fit(network, data, recipe, folder, run=how, state=state, console=console), folder


@pytest.fixture
def train(few_digits: Data, tmp_path: Path) -> Callable[..., tuple[Outcome, Path]]:
    """Train on a few digits; keyword arguments are those of `run`."""
    count = 0

    def next_run(*, resume: Path | None = None, data: Data = few_digits, **changes: Any) -> tuple[Outcome, Path]:
        nonlocal count
        count += 1
        return run(resume or tmp_path / f"run{count}", data, resume=resume is not None, **changes)

    return next_run


@pytest.fixture(scope="session")
def plain(few_digits: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """The run of the unchanged recipe, for comparison."""
    return run(tmp_path_factory.mktemp("plain") / "run", few_digits)
