"""The names of the files in a run's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from senet.errors import CheckpointError, SenetError

__all__ = [
    "BEST", "CURVES", "JOB", "LAST", "METRICS", "RESULT", "STATES", "SURGERY", "reading",
    "write_json",
]  # fmt: skip

JOB = "run.json"
"""The requested training: data, network, recipe and options."""

STATES = "states"
"""Folder of the last training states: weights, averages, optimizer, schedule and progress."""

LAST, BEST = "last.safetensors", "best.safetensors"
"""The network after the last epoch, and after the epoch with the highest validation accuracy."""

SURGERY = "surgery.json"
"""The insertion points of attention, and the accuracy before and after the insertion."""

METRICS, CURVES = "metrics.csv", "curves.png"
"""One row per epoch, and their chart."""

RESULT = "result.json"
"""The result of a finished training."""


def write_json(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write one of these files atomically. A missing folder is made. NaN becomes null.

    Raises:
        SenetError: The folder can't be written to.
    """
    from senet.weights.files import write_atomically
    from senet.weights.strict_json import dump

    text = dump(content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise SenetError(f"--out {folder} can't be written to: {error.strerror}") from error


@contextmanager
def reading(folder: Path, name: str, what: str) -> Iterator[Any]:
    """Read a file of `write_json`, and translate errors of its use within this context.

    Args:
        folder: Folder of the file.
        name: Name of the file.
        what: Description of the file's content, for messages.

    Raises:
        CheckpointError: The file is missing or damaged, or its content can't be used.
    """
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{folder} contains no {what}: {name} is missing")
    try:
        yield json.loads(path.read_text(encoding="utf-8"))
    except KeyError as error:
        raise CheckpointError(
            f"{path} can't be read: {error} is missing; another release may have written it"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
