"""Post-training quantization to int8. The layers of the gates stay in float.

A gate scales its whole channel, so an error in it affects every pixel, and its cost is negligible. All operations from
the squeeze to the scale are excluded. They are found by their shape: 1x1 feature maps that end in a multiplication.
The multiplication is excluded too, since the libraries would round its inputs, among them the gate. The squeeze
averages the quantized feature map of the next convolution, so that the feature map is not stored twice.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from senet.deploy.export_metadata import ExportMetadata
from senet.deploy.extras import need
from senet.deploy.quiet import errors_only

__all__ = ["QUANTIZERS"]


def _openvino(source: Path, target: Path, batches: Sequence[np.ndarray], metadata: ExportMetadata) -> None:
    """Quantize with NNCF."""
    from senet.deploy.intermediate import read, save

    model = read(source)
    kept = _openvino_gates(model)
    with _quiet():
        nncf = need("nncf", "--precision int8 --format openvino")
        made = nncf.quantize(
            model,
            nncf.Dataset(batches),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(names=kept) if kept else None,
        )
    _squeeze_rounded(made, kept)
    save(made, target, metadata)


def _openvino_gates(model: Any) -> list[str]:
    """Return the names of the nodes from each squeeze to its scale."""
    found: dict[str, None] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Multiply" and any(_spatial(value.get_node()) for value in node.input_values()):
            gates = [value.get_node() for value in node.input_values() if _pooled(value.get_node())]
            for gate in gates:
                _collect(gate, found)
            if gates:
                found[node.get_friendly_name()] = None
    return list(found)


def _squeeze_rounded(model: Any, gates: Sequence[str]) -> None:
    """Let each squeeze read the quantized input of the convolution beside it."""
    for node in model.get_ordered_ops():
        if node.get_friendly_name() not in gates or node.get_type_name() == "Multiply":
            continue
        read = node.input(0).get_source_output()
        if not _pooled(read.get_node()):
            for other in read.get_target_inputs():
                if other.get_node().get_type_name() == "FakeQuantize":
                    node.input(0).replace_source_output(other.get_node().output(0))


def _pooled(node: Any) -> bool:
    """Whether a node computes one value per channel."""
    shape = node.output(0).get_partial_shape()
    computed = node.get_type_name() not in ("Constant", "Parameter")
    return computed and shape.rank.is_static and shape.rank.get_length() == 4 and all(shape[i] == 1 for i in (2, 3))


def _spatial(node: Any) -> bool:
    """Whether a node computes a feature map. A product without one is an activation of pooled features."""
    shape = node.output(0).get_partial_shape()
    four = shape.rank.is_static and shape.rank.get_length() == 4
    return four and node.get_type_name() != "Constant" and not _pooled(node)


def _collect(node: Any, found: dict[str, None]) -> None:
    if not _pooled(node) or node.get_friendly_name() in found:
        return
    found[node.get_friendly_name()] = None
    for value in node.input_values():
        _collect(value.get_node(), found)


def _onnx(source: Path, target: Path, batches: Sequence[np.ndarray], metadata: ExportMetadata) -> None:
    """Quantize with ONNX Runtime."""
    need("onnxruntime", "--precision int8 --format onnx")
    onnx = need("onnx", "--format onnx")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.with_name(f"prepared-{source.name}")
    with _quiet():
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        name, kept = model.graph.input[0].name, _onnx_gates(model)

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.left = iter(batches)

            def get_next(self) -> dict[str, np.ndarray] | None:
                batch = next(self.left, None)
                return None if batch is None else {name: batch}

        quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
        )
    prepared.unlink()
    made = onnx.load(target)
    _onnx_squeeze_rounded(made, kept)
    onnx.helper.set_model_props(made, metadata.to_texts())
    onnx.save(made, target)


def _onnx_gates(model: Any) -> list[str]:
    makers = {output: node for node in model.graph.node for output in node.output}
    shapes = {
        info.name: [d.dim_value if d.HasField("dim_value") else -1 for d in info.type.tensor_type.shape.dim]
        for info in (*model.graph.input, *model.graph.value_info)
    }
    found: dict[str, None] = {}

    def pooled(name: str) -> bool:
        return name in makers and shapes.get(name, [])[2:] == [1, 1]

    def spatial(name: str) -> bool:
        return len(shapes.get(name, [])) == 4 and not pooled(name)

    def collect(name: str) -> None:
        if not pooled(name) or makers[name].name in found:
            return
        found[makers[name].name] = None
        for source in makers[name].input:
            collect(source)

    for node in model.graph.node:
        if node.op_type == "Mul" and any(map(spatial, node.input)):  # else an activation of pooled features
            gates = [source for source in node.input if pooled(source)]
            for gate in gates:
                collect(gate)
            if gates:
                found[node.name] = None
    return list(found)


def _onnx_squeeze_rounded(model: Any, gates: Sequence[str]) -> None:
    """Do the same as `_squeeze_rounded` for ONNX."""
    rounded = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    restored = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.name in gates and node.op_type != "Mul" and node.input[0] in rounded:
            node.input[0] = restored[rounded[node.input[0]]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence both libraries' progress bars and log lines, which would mix with JSON on standard output."""
    loggers = errors_only("", "nncf", "torch.utils.cpp_extension")
    with loggers, warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


QUANTIZERS = {"openvino": _openvino, "onnx": _onnx}
"""Format to its quantizer: a function of the float32 file, the int8 file, calibration batches and metadata."""
