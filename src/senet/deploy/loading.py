"""Exported files, read back."""

from __future__ import annotations

import os
from pathlib import Path

from senet.deploy.compiled import Compiled
from senet.deploy.export_metadata import ExportMetadata
from senet.deploy.formats import FORMATS, format_of
from senet.deploy.runtimes import RUNTIMES
from senet.errors import CheckpointError, UnknownNameError
from senet.weights import CheckpointMetadata
from senet.zoo import LoadedModel

__all__ = ["is_exported", "load_exported", "read_export_metadata"]


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name says that it was exported."""
    return format_of(Path(path)) is not None


def read_export_metadata(path: Path) -> ExportMetadata:
    """What an exported file says of itself.

    Raises:
        CheckpointError: It isn't there, is damaged, or another program's.
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
    """Load an exported file, to be used like a checkpoint's network.

    Args:
        path: `.onnx`, `.xml` (with its `.bin`) or `.pt2`.
        runtime: `"onnxruntime"`, `"openvino"` or `"torch"`; None is the format's own. A `.pt2` must be asked for with
            `"torch"`, since loading it can run code that is in it.
        threads: That it computes with; None is as many as PyTorch uses.

    Returns:
        Its `model` is a `Compiled`: call it with images of the processor.

    Raises:
        CheckpointError: The file can't be used.
        SenetError: The runtime isn't installed, doesn't read that format, or would run code unasked.
        UnknownNameError: There is no such runtime.
    """
    path = Path(path)
    if runtime is not None and runtime not in RUNTIMES:
        raise UnknownNameError("runtime", runtime, RUNTIMES)
    passport = read_export_metadata(path)
    kind = format_of(path)
    assert kind is not None
    run = RUNTIMES[kind.runtime(path, runtime)](path, passport.precision, threads)
    description = CheckpointMetadata(
        model=passport.model,
        classes=passport.classes,
        preprocessing=passport.preprocessing,
        metrics=passport.metrics,
        data=passport.data,
        training={"exported": kind.name, "precision": passport.precision},
    )
    model = Compiled(run, passport, str(path)).eval()
    return LoadedModel(model, passport.classes, passport.preprocessing, description)
