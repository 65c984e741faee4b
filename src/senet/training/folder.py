"""The names of what a run leaves in its folder."""

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
"""What was asked for: data, network, recipe, how it runs."""

STATES = "states"
"""A folder of the last states, each all that a resumed run needs: weights, averages, optimiser, schedule, progress."""

LAST, BEST = "last.safetensors", "best.safetensors"
"""The network after the last epoch, and after the one with the highest validation accuracy."""

SURGERY = "surgery.json"
"""Where attention was inserted, and how good the network was before and after that."""

METRICS, CURVES = "metrics.csv", "curves.png"
"""One row an epoch, and its picture."""

RESULT = "result.json"
"""What the training came to; there once it is trained to its end."""


def write_json(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write one of these files, atomically, into a folder that is made if need be. NaN becomes null.

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
    """What `write_json` wrote, within a block that makes something of it.

    Args:
        folder: Where it is.
        name: The file's.
        what: Is not in the folder if the file isn't, in words.

    Raises:
        CheckpointError: There is none, it is damaged, or the block can't make anything of it.
    """
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {what}: it has no {name}")
    try:
        yield json.loads(path.read_text(encoding="utf-8"))
    except KeyError as error:
        raise CheckpointError(f"{path} can't be read: it lacks {error}, as if not written by this release") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
