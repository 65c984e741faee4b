"""The table of export formats: how each is written, read and named."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from senet.deploy.export_metadata import INPUT, ExportMetadata
from senet.deploy.extras import need
from senet.deploy.tracing import reason
from senet.errors import CheckpointError, SenetError, UnknownNameError
from senet.weights.strict_json import MOST_BYTES, parse_object

__all__ = ["FORMATS", "Format", "format_of"]

EXTRA = "senet.json"
"""Name of our entry among a .pt2's extra files."""


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        name: Value of `--format`.
        suffix: Suffix of the file.
        second_suffix: Suffix of a second file that belongs to it, if any.
        runtimes: Runtimes for the file, the default first.
        precisions: Supported precisions.
        write: Writes a traced network: an `ExportedProgram`, or an `onnx.ModelProto` of a detector.
        texts: Reads the embedded metadata.
        safe: Whether loading a file runs no code of the file.
    """

    name: str
    suffix: str
    second_suffix: str | None
    runtimes: tuple[str, ...]
    precisions: tuple[str, ...]
    write: Callable[[Any, Path, ExportMetadata], None]
    texts: Callable[[Path], Mapping[str, str]]
    safe: bool = True

    def files(self, path: Path) -> list[Path]:
        """Return the files of one export, the named one last."""
        return ([path.with_suffix(self.second_suffix)] if self.second_suffix else []) + [path]

    def runtime(self, path: Path, wanted: str | None) -> str:
        """Return the runtime for a file: the user's choice, else the default.

        Raises:
            SenetError: The runtime doesn't read this format, or the file could run code and no runtime was named.
        """
        if wanted is None and not self.safe:
            raise SenetError(
                f"{path}: loading such a file in PyTorch can run code of the file; "
                f"use --runtime {self.runtimes[0]} if you trust it"
            )
        if wanted is not None and wanted not in self.runtimes:
            raise SenetError(f"{path}: {wanted} doesn't read {self.suffix}; use --runtime {' or '.join(self.runtimes)}")
        return wanted or self.runtimes[0]


def format_of(path: Path) -> Format | None:
    """Return the format of a file's suffix; None for other files."""
    return next((f for f in FORMATS.values() if f.suffix == path.suffix), None)


def look_up(name: str) -> Format:
    """Return the format of a name.

    Raises:
        UnknownNameError: The format is unknown. The message names the nearest ones.
    """
    if name not in FORMATS:
        raise UnknownNameError("format", name, FORMATS)
    return FORMATS[name]


# --- ONNX -------------------------------------------------------------------------------------------------------------


def _write_onnx(traced: Any, path: Path, metadata: ExportMetadata) -> None:
    onnx = need("onnx", "--format onnx")
    model = _onnx_model(traced, metadata) if isinstance(traced, ExportedProgram) else traced
    onnx.helper.set_model_props(model, metadata.to_texts())
    onnx.save(model, path)


def _onnx_model(program: ExportedProgram, metadata: ExportMetadata) -> Any:
    need("onnxscript", "--format onnx")
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=[INPUT],
            output_names=[*metadata.outputs],
        )
        assert made is not None
        return made.model_proto
    except Exception as error:
        raise SenetError(f"this network can't be exported to onnx: {reason(error)}") from error


def _onnx_texts(path: Path) -> Mapping[str, str]:
    onnx = need("onnx", path.name)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own types
        raise CheckpointError(f"{path}: not a complete ONNX file ({reason(error)})") from error
    return {entry.key: entry.value for entry in model.metadata_props}


# --- OpenVINO ---------------------------------------------------------------------------------------------------------


def _write_openvino(traced: Any, path: Path, metadata: ExportMetadata) -> None:
    from senet.deploy.intermediate import convert, save

    save(convert(traced, metadata), path, metadata)


def _openvino_texts(path: Path) -> Mapping[str, str]:
    from senet.deploy.intermediate import texts

    return texts(path)


# --- torch.export -----------------------------------------------------------------------------------------------------


def _write_torch(program: ExportedProgram, path: Path, metadata: ExportMetadata) -> None:
    torch.export.save(program, path, extra_files={EXTRA: json.dumps(metadata.to_texts())})


def _torch_texts(path: Path) -> Mapping[str, str]:
    """Read from the archive itself, since `torch.export.load` would run code of the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if n.endswith(f"/extra/{EXTRA}")), None)
            texts = parse_object(_content(archive, name)) if name else {}
    except Exception as error:  # a damaged archive makes the reader raise anything
        raise CheckpointError(f"{path}: not a complete torch.export file ({error})") from error
    return {key: str(value) for key, value in texts.items()}


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read an entry up to the size limit."""
    with archive.open(name) as entry:
        return entry.read(MOST_BYTES + 1)


FORMATS = {
    f.name: f
    for f in (
        Format(
            name="onnx",
            suffix=".onnx",
            second_suffix=None,
            runtimes=("onnxruntime", "openvino"),
            precisions=("32", "fp16", "int8"),
            write=_write_onnx,
            texts=_onnx_texts,
        ),
        Format(
            name="openvino",
            suffix=".xml",
            second_suffix=".bin",
            runtimes=("openvino",),
            precisions=("32", "bf16", "fp16", "int8"),
            write=_write_openvino,
            texts=_openvino_texts,
        ),
        Format(
            name="torch",
            suffix=".pt2",
            second_suffix=None,
            runtimes=("torch",),
            precisions=("32", "bf16", "fp16"),
            write=_write_torch,
            texts=_torch_texts,
            safe=False,
        ),
    )
}
"""Name to format."""
