"""Checkpoints of this package: `NAME.safetensors` with the weights and `NAME.json` with the metadata."""

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
from senet.weights.values import tensor_issue

__all__ = [
    "HUB_CONFIG",
    "HUB_KEY",
    "HUB_WEIGHTS",
    "CheckpointMetadata",
    "checked_thresholds",
    "is_checkpoint_file",
    "metadata_to_dict",
    "read_checkpoint",
    "weights_file",
    "write_checkpoint",
    "write_tensors",
]

FORMAT = 1

HUB_WEIGHTS, HUB_CONFIG = "model.safetensors", "config.json"
"""The weights and the metadata in a folder for the Hugging Face Hub."""

HUB_KEY = "senet"
"""The key of the metadata in `HUB_CONFIG`. Other libraries read the other keys."""


@dataclass(frozen=True, kw_only=True)
class CheckpointMetadata:
    """The metadata that a checkpoint needs besides its weights.

    Attributes:
        model: A name of `list_models()`, or `module:function` for a user's own network.
        options: Model options that differ from the defaults of `model`.
        classes: Class names, in the order of the outputs.
        preprocessing: Preprocessing of the images.
        metrics: Metrics at the time of writing. Accuracies lie in 0..1.
        training: Free-form record of the training: epoch, recipe, data.
        data: Training and validation data. None where unknown.
        task: Name of the task. `model` is then a backbone with `head`, or a whole network.
        head: The head on the backbone, as `senet.tasks.head.HeadSpec` writes it.
        thresholds: Smallest probability at which an image has each label, in the order of `classes`. Empty for other
            tasks than `"multi-label"`, and where none were chosen.

    Example:
        >>> from senet.preprocessing import CIFAR
        >>> from senet.weights import CheckpointMetadata
        >>> metadata = CheckpointMetadata(model="cifar_resnet20", classes=("cat", "dog"), preprocessing=CIFAR)
        >>> metadata.task, metadata.metrics, metadata.data
        ('classification', {}, None)
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
    thresholds: tuple[float, ...] = ()

    @property
    def is_classifier(self) -> bool:
        """Whether the network gives one logit for each class: of one class an image, or of any number of labels."""
        return self.task in ("classification", "multi-label")


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: CheckpointMetadata) -> None:
    """Write the weights and their metadata, each file atomically.

    The metadata contains the hash of the weights and is written last. A hash that does not match means that the
    writing was interrupted.

    Args:
        path: Path of the weights, ending in `.safetensors`. The metadata goes to the same name with `.json`.
        tensors: State dict.
        metadata: Metadata of the weights. A non-finite metric is written as null.

    Raises:
        CheckpointError: The metadata can't be written as JSON (no file is written), or writing the weights failed.

    Example:
        >>> import tempfile, senet
        >>> from pathlib import Path
        >>> from senet.preprocessing import CIFAR
        >>> from senet.weights import CheckpointMetadata, write_checkpoint
        >>> metadata = CheckpointMetadata(model="cifar_resnet20", classes=("cat", "dog"), preprocessing=CIFAR)
        >>> path = Path(tempfile.mkdtemp()) / "pets.safetensors"
        >>> write_checkpoint(path, senet.create_model("cifar_resnet20", num_classes=2).state_dict(), metadata)
        >>> senet.load_model(path).classes
        ('cat', 'dog')
    """
    path = Path(path)
    content = metadata_to_dict(metadata)
    _in_json(content, path)
    write_tensors(path, tensors)
    text = _in_json({"format": FORMAT, "sha256": sha256(path)} | content, path) + "\n"
    write_atomically(path.with_suffix(".json"), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def metadata_to_dict(metadata: CheckpointMetadata) -> dict[str, Any]:
    """Return the metadata as in a checkpoint's file. A non-finite metric becomes None."""
    content = asdict(metadata)
    content["metrics"] = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metadata.metrics.items()
    }
    content["data"] = metadata.data.to_dict() if metadata.data else None
    if metadata.task == "classification":  # the format of releases that knew no other task
        del content["task"], content["head"]
    if not metadata.thresholds:  # only multi-label classifiers have them
        del content["thresholds"]
    return content


def _in_json(content: dict[str, Any], path: Path) -> str:
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        parse_object(text)
        return text
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path.with_suffix('.json')}: the metadata can't be written ({error})") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a state dict as a safetensors file, atomically.

    Raises:
        CheckpointError: Writing failed: no space left, file too large.
    """
    # Every tensor is copied, since the format refuses tensors that share memory (tied weights).
    path = Path(path)
    plain = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
    try:
        write_atomically(path, lambda temporary: save_file(plain, temporary, metadata={"format": "pt"}))
    except SafetensorError as error:
        raise CheckpointError(f"{path}: can't be written ({error})") from error


def is_checkpoint_file(path: Path) -> bool:
    """Whether a path names a checkpoint of this package, existing or not: a folder, or weights with metadata."""
    return (
        path.is_dir()
        or path.suffix == ".json"
        or (path.suffix == ".safetensors" and (path.with_suffix(".json").is_file() or not path.exists()))
    )


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], CheckpointMetadata]:
    """Read and verify a checkpoint written by `write_checkpoint`.

    Args:
        path: The `.safetensors` file, its `.json`, a training's output folder (its `best.safetensors`), or a folder of
            the Hugging Face Hub.

    Returns:
        The state dict and the metadata.

    Raises:
        CheckpointError: The checkpoint is missing, truncated, altered, of a newer format, or has non-finite weights.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from senet.preprocessing import CIFAR
        >>> from senet.weights import CheckpointMetadata, read_checkpoint, write_checkpoint
        >>> metadata = CheckpointMetadata(model="cifar_resnet20", classes=("cat", "dog"), preprocessing=CIFAR)
        >>> path = Path(tempfile.mkdtemp()) / "pets.safetensors"
        >>> write_checkpoint(path, {"head.fc.bias": torch.zeros(2)}, metadata)
        >>> tensors, found = read_checkpoint(path)
        >>> list(tensors), found == metadata
        (['head.fc.bias'], True)
    """
    path = weights_file(Path(path))
    file = _metadata_file(path)
    metadata, digest = _read_metadata(file, path)
    try:
        found = sha256(path)
        if found == digest:
            tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    if found != digest:
        raise CheckpointError(
            f"{path}: its hash differs from the one in {file.stem}.json: truncated, altered, or from another run"
        )
    for key, tensor in tensors.items():
        wrong = tensor_issue(tensor)
        if wrong:
            raise CheckpointError(f"{path}: {key} {wrong}")
    return tensors, metadata


def _read_metadata(file: Path, weights: Path) -> tuple[CheckpointMetadata, str]:
    """Read the metadata and the expected hash of the weights."""
    if not file.is_file():
        raise CheckpointError(f"{weights}: its metadata file {file.name} is missing; copy both files")
    try:
        with file.open("rb") as opened:
            content = parse_object(opened.read(MOST_BYTES + 1))
        if weights.name == HUB_WEIGHTS and file.name == HUB_CONFIG:
            if not isinstance(content.get(HUB_KEY), dict):
                raise CheckpointError(f"{file} describes no network of this package: {HUB_KEY!r} is missing")
            content = content[HUB_KEY]
        version, digest = content.pop("format"), content.pop("sha256")
        if type(version) is not int or version != FORMAT:
            raise CheckpointError(
                f"{file}: format {shown(version)}, this release reads {FORMAT}; upgrade senet to use it"
            )
        return _metadata(**content), digest
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{file}: invalid checkpoint metadata ({error})") from error


def _metadata(*, classes: list[str], preprocessing: dict[str, Any], **others: Any) -> CheckpointMetadata:
    """Build the metadata from JSON values, with their types checked."""
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("classes must be a list of names")
    others = {"task": "classification", "head": {}, "data": None, "thresholds": []} | others
    kinds = {"model": str, "options": dict, "metrics": dict, "training": dict, "task": str, "head": dict}
    for key, kind in kinds.items():
        if not isinstance(others[key], kind):
            raise TypeError(f"{key} must be a {kind.__name__}")
    if not others["model"] or not others["model"].isprintable():
        raise TypeError(f"model={shown(others['model'])} is not a name")
    others["data"] = None if others["data"] is None else DataRecord.from_dict(others["data"])
    others["metrics"] = {name: _metric(name, value) for name, value in others["metrics"].items()}
    others["thresholds"] = checked_thresholds(others["thresholds"], len(classes))
    return CheckpointMetadata(classes=tuple(classes), preprocessing=Preprocessing.from_dict(preprocessing), **others)


def checked_thresholds(values: Any, classes: int) -> tuple[float, ...]:
    """Return the thresholds of a file: none, or a number in 0..1 for each class.

    Raises:
        TypeError: They are anything else.
    """
    good = isinstance(values, list) and all(type(v) in (int, float) and 0 <= v <= 1 for v in values)
    if not good or len(values) not in (0, classes):
        raise TypeError(f"thresholds={shown(values)} must be a number in 0..1 for each of the {classes} classes")
    return tuple(map(float, values))


def _metric(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise TypeError(f"the metric {name}={shown(value)} must be a number")
    return float(value)


def weights_file(path: Path) -> Path:
    """Resolve a path to a `.safetensors` file: itself, the one beside its `.json`, or the one in a folder.

    In a training's folder it is the best network.

    Raises:
        CheckpointError: The file does not exist.
    """
    if path.is_dir():
        path = path / (HUB_CONFIG if _is_hub_folder(path) else "best.safetensors")
    if path.name == HUB_CONFIG and _is_hub_folder(path.parent):
        path = path.with_name(HUB_WEIGHTS)
    if path.suffix == ".json":
        path = path.with_suffix(".safetensors")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: a checkpoint is a .safetensors file with its .json, or a training's folder")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; a training writes best.safetensors and last.safetensors")
    return path


def _is_hub_folder(folder: Path) -> bool:
    others = ("best.safetensors", "config.safetensors")
    return (folder / HUB_CONFIG).is_file() and not any((folder / name).exists() for name in others)


def _metadata_file(weights: Path) -> Path:
    """Return the metadata's file beside the weights: NAME.json, or the configuration in a folder of the Hub."""
    own = weights.with_suffix(".json")
    if weights.name == HUB_WEIGHTS and not own.is_file() and _is_hub_folder(weights.parent):
        return weights.with_name(HUB_CONFIG)
    return own
