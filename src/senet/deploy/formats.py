"""The kinds of files: how each is written, read and named. One table, so that all that differs stands here."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from senet.deploy.export_metadata import INPUT, OUTPUT, ExportMetadata
from senet.deploy.extras import need
from senet.deploy.tracing import reason
from senet.errors import CheckpointError, SenetError, UnknownNameError
from senet.weights.strict_json import MOST_BYTES, parse_object

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["FORMATS", "Format", "format_of"]

EXTRA = "senet.json"
"""Our entry among a .pt2's extra files."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        name: As `--format` has it.
        suffix: Of the file.
        beside: Suffix of a second file that belongs to it, if any.
        runtimes: What runs it, the usual one first.
        precisions: What it can be written in.
        write: Writes a traced network.
        texts: Reads what is embedded.
        safe: Loading a file runs no code that is in it.
    """

    name: str
    suffix: str
    beside: str | None
    runtimes: tuple[str, ...]
    precisions: tuple[str, ...]
    write: Callable[[ExportedProgram, Path, ExportMetadata], None]
    texts: Callable[[Path], Mapping[str, str]]
    safe: bool = True

    def files(self, path: Path) -> list[Path]:
        """The files that make one export; the named one last."""
        return ([path.with_suffix(self.beside)] if self.beside else []) + [path]

    def runtime(self, path: Path, wanted: str | None) -> str:
        """What is to run a file: what the user wants, else the usual one.

        Raises:
            SenetError: It doesn't read this format; or nobody said that the file is to be trusted.
        """
        if wanted is None and not self.safe:
            raise SenetError(
                f"{path}: PyTorch runs code that such a file may hold when it loads it; "
                f"say --runtime {self.runtimes[0]} if you trust it"
            )
        if wanted is not None and wanted not in self.runtimes:
            raise SenetError(f"{path}: {wanted} reads no {self.suffix}; use --runtime {' or '.join(self.runtimes)}")
        return wanted or self.runtimes[0]


def format_of(path: Path) -> Format | None:
    """The format that a file's name says; None for a checkpoint's."""
    return next((f for f in FORMATS.values() if f.suffix == path.suffix), None)


def look_up(name: str) -> Format:
    """The format of that name.

    Raises:
        UnknownNameError: There is none; names the nearest.
    """
    if name not in FORMATS:
        raise UnknownNameError("format", name, FORMATS)
    return FORMATS[name]


# --- ONNX -------------------------------------------------------------------------------------------------------------


def _write_onnx(program: ExportedProgram, path: Path, passport: ExportMetadata) -> None:
    onnx = need("onnx", "--format onnx")
    need("onnxscript", "--format onnx")
    try:
        made = torch.onnx.export(
            program, dynamo=True, external_data=False, verbose=False, input_names=[INPUT], output_names=[OUTPUT]
        )
        assert made is not None
        model = made.model_proto
    except Exception as error:
        raise SenetError(f"this network can't be exported to onnx: {reason(error)}") from error
    onnx.helper.set_model_props(model, passport.to_texts())
    onnx.save(model, path)


def _onnx_texts(path: Path) -> Mapping[str, str]:
    onnx = need("onnx", path.name)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own types
        raise CheckpointError(f"{path}: no ONNX file, or a part of one ({reason(error)})") from error
    return {entry.key: entry.value for entry in model.metadata_props}


# --- OpenVINO ---------------------------------------------------------------------------------------------------------


def _write_openvino(program: ExportedProgram, path: Path, passport: ExportMetadata) -> None:
    from senet.deploy.intermediate import convert, save

    save(convert(program, passport), path, passport)


def _openvino_texts(path: Path) -> Mapping[str, str]:
    from senet.deploy.intermediate import texts

    return texts(path)


# --- torch.export -----------------------------------------------------------------------------------------------------


def _write_torch(program: ExportedProgram, path: Path, passport: ExportMetadata) -> None:
    torch.export.save(program, path, extra_files={EXTRA: json.dumps(passport.to_texts())})


def _torch_texts(path: Path) -> Mapping[str, str]:
    """Read from the archive itself: `torch.export.load` would run what is in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if n.endswith(f"/extra/{EXTRA}")), None)
            texts = parse_object(_content(archive, name)) if name else {}
    except Exception as error:  # a damaged archive makes the reader raise anything
        raise CheckpointError(f"{path}: no file of torch.export, or a part of one ({error})") from error
    return {key: str(value) for key, value in texts.items()}


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry, of which no more is unpacked than may be read."""
    with archive.open(name) as entry:
        return entry.read(MOST_BYTES + 1)


FORMATS = {
    f.name: f
    for f in (
        Format(
            name="onnx",
            suffix=".onnx",
            beside=None,
            runtimes=("onnxruntime", "openvino"),
            precisions=("32", "int8"),
            write=_write_onnx,
            texts=_onnx_texts,
        ),
        Format(
            name="openvino",
            suffix=".xml",
            beside=".bin",
            runtimes=("openvino",),
            precisions=("32", "bf16", "int8"),
            write=_write_openvino,
            texts=_openvino_texts,
        ),
        Format(
            name="torch",
            suffix=".pt2",
            beside=None,
            runtimes=("torch",),
            precisions=("32", "bf16"),
            write=_write_torch,
            texts=_torch_texts,
            safe=False,
        ),
    )
}
"""Name to format."""
