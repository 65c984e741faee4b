"""This project's checkpoints: `NAME.safetensors` with the weights and `NAME.json` that says what they are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from senet.errors import CheckpointError, shown
from senet.preprocessing import Preprocessing
from senet.weights.data_record import DataRecord
from senet.weights.files import sha256, write_atomically
from senet.weights.strict_json import MOST_BYTES, parse_object
from senet.weights.values import unreadable

__all__ = [
    "CheckpointMetadata",
    "is_checkpoint_file",
    "read_checkpoint",
    "weights_file",
    "write_checkpoint",
    "write_tensors",
]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class CheckpointMetadata:
    """What stands beside the weights: all that is needed to use them.

    Attributes:
        model: A name of `list_models()`, or `module:function` for a user's own network.
        options: The network's options that differ from that name's own.
        classes: Class names, in the order of the outputs.
        preprocessing: What an image goes through.
        metrics: As measured when it was written; accuracies in 0..1.
        training: Where it comes from: epoch, recipe, data; free form.
        data: What it was trained and validated on; None where that isn't known.
        task: What it is for; `model` is then a backbone with the `head`, or a whole network.
        head: What stands on the backbone, as `senet.tasks.head.HeadSpec` writes it.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data: DataRecord | None = None
    task: str = "classification"
    head: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], description: CheckpointMetadata) -> None:
    """Write the weights and, beside them, their description with the weights' hash; each file atomically.

    The description goes last: whoever finds one whose hash doesn't fit knows that the writing was interrupted.

    Args:
        path: Ends in `.safetensors`; the description goes to the same name with `.json`.
        tensors: State dict.
        description: What they are. A metric that is no finite number is written as null.

    Raises:
        CheckpointError: The description holds what JSON can't (nothing is written), or the file system refuses it.
    """
    path = Path(path)
    content = asdict(description)
    content["metrics"] = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in description.metrics.items()
    }
    content["data"] = description.data.to_dict() if description.data else None
    if description.task == "classification":  # as releases wrote it that knew no other task
        del content["task"], content["head"]
    _in_json(content, path)
    write_tensors(path, tensors)
    text = _in_json({"format": FORMAT, "sha256": sha256(path)} | content, path) + "\n"
    write_atomically(path.with_suffix(".json"), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _in_json(content: dict[str, Any], path: Path) -> str:
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        parse_object(text)
        return text
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path.with_suffix('.json')}: its description can't be written ({error})") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a state dict as a safetensors file, atomically.

    Raises:
        CheckpointError: The file system refuses it in the middle: no space left, too large.
    """
    # A copy of each, since the format refuses tensors that share memory (tied weights).
    path = Path(path)
    plain = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
    try:
        write_atomically(path, lambda temporary: save_file(plain, temporary, metadata={"format": "pt"}))
    except SafetensorError as error:
        raise CheckpointError(f"{path}: can't be written ({error})") from error


def is_checkpoint_file(path: Path) -> bool:
    """Whether a path means a checkpoint of this package, there or not: a folder, or weights with a description."""
    return (
        path.is_dir()
        or path.suffix == ".json"
        or (path.suffix == ".safetensors" and (path.with_suffix(".json").is_file() or not path.exists()))
    )


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], CheckpointMetadata]:
    """Read and verify what `write_checkpoint` wrote.

    Args:
        path: The `.safetensors` file, its `.json`, or a training's output folder (its `best.safetensors`).

    Raises:
        CheckpointError: Missing, truncated, altered, of a newer format, or with weights that are no numbers.
    """
    path = weights_file(Path(path))
    description, digest = _read_metadata(path.with_suffix(".json"), path)
    try:
        found = sha256(path)
        if found == digest:
            tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    if found != digest:
        raise CheckpointError(
            f"{path}: its hash differs from the one in {path.stem}.json: truncated, altered, or from another run"
        )
    for key, tensor in tensors.items():
        wrong = unreadable(tensor)
        if wrong:
            raise CheckpointError(f"{path}: {key} {wrong}")
    return tensors, description


def _read_metadata(file: Path, weights: Path) -> tuple[CheckpointMetadata, str]:
    """The description and the hash that the weights must have."""
    if not file.is_file():
        raise CheckpointError(f"{weights}: its description {file.name} is missing beside it; copy both files")
    try:
        with file.open("rb") as opened:
            content = parse_object(opened.read(MOST_BYTES + 1))
        version, digest = content.pop("format"), content.pop("sha256")
        if type(version) is not int or version != FORMAT:
            raise CheckpointError(
                f"{file}: format {shown(version)}, this release reads {FORMAT}; upgrade senet to use it"
            )
        return _metadata(**content), digest
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{file}: not a checkpoint description ({error})") from error


def _metadata(*, classes: list[str], preprocessing: dict[str, Any], **others: Any) -> CheckpointMetadata:
    """The description as JSON has it, its types checked."""
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("classes must be a list of names")
    others = {"task": "classification", "head": {}, "data": None} | others
    kinds = {"model": str, "options": dict, "metrics": dict, "training": dict, "task": str, "head": dict}
    for key, kind in kinds.items():
        if not isinstance(others[key], kind):
            raise TypeError(f"{key} must be a {kind.__name__}")
    if not others["model"] or not others["model"].isprintable():
        raise TypeError(f"model={shown(others['model'])} is no name")
    others["data"] = None if others["data"] is None else DataRecord.from_dict(others["data"])
    others["metrics"] = {name: _metric(name, value) for name, value in others["metrics"].items()}
    return CheckpointMetadata(classes=tuple(classes), preprocessing=Preprocessing.from_dict(preprocessing), **others)


def _metric(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise TypeError(f"the metric {name}={shown(value)} must be a number")
    return float(value)


def weights_file(path: Path) -> Path:
    """The `.safetensors` file that a path means: itself, the one beside its `.json`, or a training's best network.

    Raises:
        CheckpointError: There is none.
    """
    if path.is_dir():
        path = path / "best.safetensors"
    if path.suffix == ".json":
        path = path.with_suffix(".safetensors")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: a checkpoint is a .safetensors file with its .json, or a training's folder")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; a training writes best.safetensors and last.safetensors")
    return path
