"""Load exported files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from senet.deploy.export_metadata import ExportMetadata
from senet.deploy.exported_detector import ExportedDetector
from senet.deploy.exported_model import ExportedModel
from senet.deploy.formats import FORMATS, format_of
from senet.deploy.runtimes import RUNTIMES
from senet.errors import CheckpointError, UnknownNameError
from senet.weights import CheckpointMetadata
from senet.zoo import LoadedModel

__all__ = ["is_exported", "load_exported", "read_export_metadata"]


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a file's suffix is that of an exported file."""
    return format_of(Path(path)) is not None


def read_export_metadata(path: Path) -> ExportMetadata:
    """Read the metadata of an exported file.

    Raises:
        CheckpointError: The file is missing, damaged, or written by another program.
    """
    kind = format_of(path)
    if kind is None:
        known = ", ".join(f.suffix for f in FORMATS.values())
        raise CheckpointError(f"{path}: an exported file ends in one of {known}")
    for file in reversed(kind.files(path)):
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file" + ("" if file == path else f"; it belongs to {path.name}"))
    return ExportMetadata.from_texts(kind.texts(path), path)


def load_exported(
    path: str | os.PathLike[str], *, runtime: str | None = None, threads: int | None = None
) -> LoadedModel:
    """Load an exported file like a checkpoint.

    Args:
        path: `.onnx`, `.xml` (with its `.bin`) or `.pt2` file.
        runtime: `"onnxruntime"`, `"openvino"` or `"torch"`; None is the default of the format. A `.pt2` needs an
            explicit `"torch"`, since loading it can run code of the file.
        threads: Number of CPU threads; None: as many as PyTorch uses.

    Returns:
        The loaded model. Its `model` is an `ExportedModel` on the CPU, or an `ExportedDetector`.

    Raises:
        CheckpointError: The file can't be used.
        SenetError: The runtime isn't installed, doesn't read the format, or could run code and was not named.
        UnknownNameError: The runtime is unknown.

    Example:
        >>> import tempfile, torch, senet
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> report = senet.deploy.export(model, f"{tempfile.mkdtemp()}/tiny.pt2", format="torch", size=(32, 32))
        >>> loaded = senet.deploy.load_exported(report.path, runtime="torch")
        >>> loaded.model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """
    path = Path(path)
    if runtime is not None and runtime not in RUNTIMES:
        raise UnknownNameError("runtime", runtime, RUNTIMES)
    metadata = read_export_metadata(path)
    kind = format_of(path)
    assert kind is not None
    run = RUNTIMES[kind.runtime(path, runtime)](path, metadata.precision, threads)
    training: dict[str, Any] = {"exported": kind.name, "precision": metadata.precision}
    if metadata.category_ids:
        training["category_ids"] = [*metadata.category_ids]
    description = CheckpointMetadata(
        model=metadata.model,
        classes=metadata.classes,
        preprocessing=metadata.preprocessing,
        metrics=metadata.metrics,
        data=metadata.data,
        training=training,
        task=metadata.task,
        thresholds=metadata.thresholds,
    )
    model = (
        ExportedDetector(run, metadata, str(path))
        if metadata.task == "detection"
        else ExportedModel(lambda images: run(images)[0], metadata, str(path))
    )
    return LoadedModel(model.eval(), metadata.classes, metadata.preprocessing, description)
