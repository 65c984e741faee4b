"""The version of ONNX's operators (opset) and of its file format (IR) in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from senet.deploy.extras import need
from senet.deploy.tracing import reason
from senet.errors import SenetError

__all__ = ["check_versions", "set_versions"]

LEAST_OPSET = 18
"""Oldest opset. ONNX's own converter has no way to older ones for padding and reductions."""


def check_versions(opset: int | None, ir_version: int | None) -> None:
    """Refuse versions that the installed `onnx` can't write.

    Raises:
        SenetError: A version is out of range, or the IR is older than the opset.
    """
    if opset is None and ir_version is None:
        return
    onnx = need("onnx", "--format onnx")
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not LEAST_OPSET <= opset <= newest:
        raise SenetError(f"opset={opset} must be {LEAST_OPSET} to {newest}, the newest of onnx {onnx.__version__}")
    if ir_version is None:
        return
    least = _least_ir(onnx, opset or LEAST_OPSET)
    if not least <= ir_version <= onnx.IR_VERSION:
        raise SenetError(
            f"ir_version={ir_version} must be {least} to {onnx.IR_VERSION}: opset {opset or LEAST_OPSET} began with "
            f"IR {least}, and onnx {onnx.__version__} writes up to {onnx.IR_VERSION}"
        )


def set_versions(path: Path, opset: int | None, ir_version: int | None) -> None:
    """Rewrite an ONNX file in the wanted versions, and check it with `onnx.checker`.

    Args:
        path: The file.
        opset: Version of the operators; None: unchanged.
        ir_version: Version of the format; None: the oldest for this opset, which most runtimes read.

    Raises:
        SenetError: An operator of the network has no counterpart in this opset.
    """
    if opset is None and ir_version is None:
        return
    onnx = need("onnx", "--format onnx")
    model = onnx.load(path)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    try:
        if opset is not None and _opset(model) != opset:
            model = onnx.version_converter.convert_version(model, opset)
        least = _least_ir(onnx, _opset(model))
        if ir_version is not None and ir_version < least:
            raise ValueError(f"opset {_opset(model)} began with IR {least}; set the opset too")
        model.ir_version = ir_version or least
        onnx.helper.set_model_props(model, texts)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # RuntimeError and types of its own
        wanted = " and ".join(f"{name} {n}" for name, n in (("opset", opset), ("IR version", ir_version)) if n)
        raise SenetError(f"this network can't be exported to ONNX with {wanted}: {reason(error)}") from error
    onnx.save(model, path)


def _opset(model: Any) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _least_ir(onnx: Any, opset: int) -> int:
    return int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]))
