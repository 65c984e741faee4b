"""Whether two runs ended alike: everything but what says how long something took."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from senet.training.logs import TIMES
from senet.training.states import TrainingStates

UNEQUAL = {*TIMES}
"""Names of what can't be equal: wall-clock times, in the rows of the table and in the checkpointer's state."""


def rows(folder: Path) -> list[dict[str, str]]:
    """`metrics.csv` without times."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in UNEQUAL} for row in csv.DictReader(file)]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's scalars: tag to (step, value), of all event files."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        there = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        for tag in there.Tags()["scalars"]:
            found.setdefault(tag, []).extend((e.step, e.value) for e in there.Scalars(tag))
    return found


def state(folder: Path) -> dict[str, Any]:
    """The newest state: weights, averages, optimiser, schedule, loops, callbacks."""
    saved = TrainingStates(folder).all()[0]
    assert saved.intact
    return torch.load(saved.path, weights_only=True)


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Paths at which two nested states differ in any bit; the last part of a path in `UNEQUAL` is left out."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) and one.dtype == other.dtype else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path}: keys"]
        pairs = [(key, one[key], other[key]) for key in one if key not in UNEQUAL]
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{path}: {len(one)} and {len(other)} entries"]
        pairs = [(number, a, b) for number, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return [] if one == other else [f"{path}: {one} and {other}"]
    return [difference for key, a, b in pairs for difference in differences(a, b, f"{path}/{key}")]


def assert_equal(one: Path, other: Path) -> None:
    """Weights, tables, logs and the last state of two runs are the same, bit for bit."""
    for name in ("last", "best"):
        assert not differences(load_file(one / f"{name}.safetensors"), load_file(other / f"{name}.safetensors"))
    assert rows(one) == rows(other)
    assert events(one) == events(other)
    assert not differences(state(one), state(other))
    rubbish = [path for path in one.rglob("*") if ".tmp" in path.name]
    assert not rubbish
