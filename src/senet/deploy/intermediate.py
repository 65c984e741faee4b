"""OpenVINO's intermediate representation: an .xml with the graph and a .bin with the weights."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.export import ExportedProgram

from senet.deploy.export_metadata import INPUT, ExportMetadata
from senet.deploy.extras import need
from senet.deploy.tracing import reason
from senet.errors import CheckpointError, SenetError
from senet.weights.files import sha256

__all__ = ["convert", "read", "save", "texts"]

SECTION, DIGEST = "senet", "weights_sha256"


def convert(traced: Any, metadata: ExportMetadata) -> Any:
    """Convert to an `openvino.Model`, directly from torch.export, since ONNX needs extra operators for dynamic biases.

    Args:
        traced: An `ExportedProgram`, or an `onnx.ModelProto` of a detector.
        metadata: Metadata of the file.

    Raises:
        SenetError: An operator has no counterpart in OpenVINO.
    """
    ov = need("openvino", "--format openvino")
    try:
        if isinstance(traced, ExportedProgram):
            model = ov.convert_model(traced)
        else:
            model = ov.Core().read_model(traced.SerializeToString())
    except Exception as error:  # its own types
        raise SenetError(f"this network can't be exported to openvino: {reason(error)}") from error
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, metadata.outputs, strict=True):
        output.get_tensor().set_names({name})
    _fix_shape(ov, model, metadata)
    if metadata.precision == "bf16":
        _store_weights(ov, model, ov.Type.bf16)
    if metadata.precision == "fp16":
        _store_weights(ov, model, ov.Type.f16, readers=READERS if metadata.task == "detection" else None)
    return model


def _fix_shape(ov: Any, model: Any, metadata: ExportMetadata) -> None:
    shape = [metadata.batch or -1, metadata.preprocessing.in_channels, *(metadata.size or (-1, -1))]
    model.reshape(ov.PartialShape(shape))


READERS = ("Convolution", "GroupConvolution", "MatMul")
"""Operations whose constants are weights. A detector's other constants are coordinates and thresholds."""


def _store_weights(ov: Any, model: Any, dtype: Any, *, readers: Sequence[str] | None = None) -> None:
    """Store the float32 constants in 16 bits, at half the size. The runtime chooses the precision to compute in.

    Args:
        ov: The package.
        model: Changed in place.
        dtype: The 16-bit type.
        readers: Only constants that these operations read; None: all.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == ov.Type.f32 and np.prod(node.shape) > 1:
            targets = node.output(0).get_target_inputs()
            if readers is not None:
                targets = {target for target in targets if target.get_node().get_type_name() in readers}
            if not targets:
                continue
            small = opset13.constant(node.data, dtype=dtype)
            back = opset13.convert(small, "f32")
            for target in targets:
                target.replace_source_output(back.output(0))
    model.validate_nodes_and_infer_types()


def save(model: Any, path: Path, metadata: ExportMetadata) -> None:
    """Write both files. The .xml contains the hash of the .bin, so that a mismatched pair is detected."""
    ov = need("openvino", "--format openvino")
    weights = path.with_suffix(".bin")
    for key, text in metadata.to_texts().items():
        model.set_rt_info(text, [SECTION, key])
    ov.serialize(model, path, weights)
    model.set_rt_info(sha256(weights), [SECTION, DIGEST])
    ov.serialize(model, path, weights)


def texts(path: Path) -> Mapping[str, str]:
    """Read the metadata that `save` embedded, without OpenVINO.

    Raises:
        CheckpointError: The file is damaged, or the .bin is not the one written with it.
    """
    try:
        section = ET.parse(path).getroot().find(f"rt_info/{SECTION}")
    except ET.ParseError as error:
        raise CheckpointError(f"{path}: not a complete OpenVINO file ({error})") from error
    found = {} if section is None else {entry.tag: entry.get("value", "") for entry in section}
    digest = found.pop(DIGEST, None)
    weights = path.with_suffix(".bin")
    if digest is not None and sha256(weights) != digest:
        raise CheckpointError(f"{weights}: its hash differs from the one in {path.name}: truncated, or of another file")
    return found


def read(path: Path) -> Any:
    """Read the `openvino.Model` of a file."""
    ov = need("openvino", "--format openvino")
    return ov.Core().read_model(path)
