"""Read the authors' `.caffemodel` files without Caffe, and rename their layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from senet.errors import CheckpointError
from senet.weights import protobuf
from senet.weights.from_cadene import AUTHORS
from senet.weights.from_torchvision import SE_AS_PUBLISHED
from senet.weights.protobuf import MalformedError
from senet.weights.rules import AnyRule, Rule, Table, under

__all__ = ["TABLES", "read_caffemodel"]

# Field numbers in caffe.proto: NetParameter, LayerParameter, BlobProto, BlobShape.
_NET_OLD_LAYERS, _NET_LAYER = 2, 100
_LAYER_NAME, _LAYER_TYPE, _LAYER_BLOBS = 1, 2, 7
_BLOB_OLD_SHAPE, _BLOB_FLOATS, _BLOB_SHAPE, _BLOB_DOUBLES = range(1, 5), 5, 7, 8
_SHAPE_DIM = 1
_MAX_DIMENSIONS = 32


@dataclass
class _Layer:
    name: str = ""
    kind: str = ""
    blobs: tuple[Tensor, ...] = ()


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Read the weights of a `.caffemodel`, as `LAYER.weight`, `.bias`, `.running_mean` and `.running_var`.

    A BatchNorm's statistics are divided by their factor in float64. A factor of 0 gives zeros.

    Raises:
        CheckpointError: The file is not a `.caffemodel`, truncated, of the format before 2014, or has unknown layers.
    """
    try:
        # Memory-mapped, since the largest of these files has 440 MB.
        return _read(np.memmap(path, np.uint8, "r").data)
    except MalformedError as error:
        raise CheckpointError(f"{path}: not a complete .caffemodel ({error})") from error
    except (ValueError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise CheckpointError(f"{path}: {error}") from error
        raise CheckpointError(f"{path}: can't be read ({error})") from error


def _read(whole: memoryview) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for field in protobuf.fields(whole):
        if field.number == _NET_OLD_LAYERS and field.kind == protobuf.BYTES:
            raise CheckpointError("in Caffe's format before 2014; upgrade it with upgrade_net_proto_binary")
        if field.number != _NET_LAYER:
            continue
        layer = _layer(_content(field))
        if not layer.blobs:
            continue
        if layer.kind not in _NAMES:
            raise CheckpointError(f"layer {layer.name} is a {layer.kind}; known with weights: {', '.join(_NAMES)}")
        for name, tensor in _NAMES[layer.kind](layer):
            key = f"{layer.name}.{name}"
            if key in tensors:
                raise CheckpointError(f"two layers are called {layer.name}")
            tensors[key] = tensor
    if not tensors:
        raise CheckpointError("no layer with weights in it")
    return tensors


def _content(field: protobuf.Field) -> memoryview:
    if field.kind != protobuf.BYTES:
        raise MalformedError(f"field {field.number} has wire type {field.kind}")
    return field.content


def _text(field: protobuf.Field) -> str:
    try:
        return bytes(_content(field)).decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"field {field.number} is not UTF-8 text") from error


def _layer(message: memoryview) -> _Layer:
    layer, blobs = _Layer(), []
    for field in protobuf.fields(message):
        if field.number == _LAYER_NAME:
            layer.name = _text(field)
        elif field.number == _LAYER_TYPE:
            layer.kind = _text(field)
        elif field.number == _LAYER_BLOBS:
            blobs.append(_blob(_content(field), layer.name))
    layer.blobs = tuple(blobs)
    return layer


def _blob(message: memoryview, layer: str) -> Tensor:
    shape: list[int] = []
    old_shape: dict[int, int] = {}
    values: list[np.ndarray] = []
    for field in protobuf.fields(message):
        if field.number == _BLOB_SHAPE:
            shape += _dimensions(_content(field))
        elif field.number in _BLOB_OLD_SHAPE and field.kind == protobuf.VARINT:
            old_shape[field.number] = field.integer
        elif field.number in (_BLOB_FLOATS, _BLOB_DOUBLES):
            values.append(_numbers(field))
    shape = shape or [old_shape.get(n, 1) for n in _BLOB_OLD_SHAPE]
    data = np.concatenate(values) if len(values) > 1 else values[0] if values else np.empty(0, np.float32)
    if data.size == 0 or len(shape) > _MAX_DIMENSIONS or math.prod(shape) != data.size:
        raise MalformedError(f"layer {layer}: a blob of shape {tuple(shape[:8])} with {data.size} values")
    return torch.from_numpy(data).reshape(shape)


def _numbers(field: protobuf.Field) -> np.ndarray:
    single = field.number == _BLOB_FLOATS
    if field.kind not in (protobuf.BYTES, protobuf.FIXED32 if single else protobuf.FIXED64):
        raise MalformedError(f"field {field.number} has wire type {field.kind}")
    if len(field.content) % (4 if single else 8):
        raise MalformedError(f"{len(field.content)} bytes are not a whole number of values")
    # A copy, so that the mapped file can be closed.
    return np.frombuffer(field.content, "<f4" if single else "<f8").astype(np.float32 if single else np.float64)


def _dimensions(message: memoryview) -> Iterator[int]:
    for field in protobuf.fields(message):
        if field.number == _SHAPE_DIM:
            yield from [field.integer] if field.kind == protobuf.VARINT else protobuf.varints(_content(field))


def _counted(layer: _Layer, *counts: int) -> tuple[Tensor, ...]:
    if len(layer.blobs) not in counts:
        raise CheckpointError(
            f"layer {layer.name}: a {layer.kind} with {len(layer.blobs)} blobs, not {' or '.join(map(str, counts))}"
        )
    return layer.blobs


def _weight_and_bias(layer: _Layer) -> Iterator[tuple[str, Tensor]]:
    blobs = _counted(layer, 1, 2)
    weight = blobs[0]
    if layer.kind == "InnerProduct":
        if weight.ndim < 2 or weight.shape[-2:].numel() != weight.numel():
            raise CheckpointError(f"layer {layer.name}: a matrix of shape {tuple(weight.shape)}")
        weight = weight.reshape(weight.shape[-2:])  # old files have (1, 1, out, in)
    elif layer.kind == "Scale":
        weight = _vector(layer, weight)
    yield "weight", weight
    if len(blobs) == 2:
        yield "bias", _vector(layer, blobs[1])


def _vector(layer: _Layer, blob: Tensor) -> Tensor:
    """Return one value per channel. Old files have (1, 1, 1, C)."""
    if max(blob.shape, default=1) != blob.numel():
        raise CheckpointError(f"layer {layer.name}: expected one value per channel, got shape {tuple(blob.shape)}")
    return blob.flatten()


def _statistics(layer: _Layer) -> Iterator[tuple[str, Tensor]]:
    mean, variance, factor = _counted(layer, 3)
    if factor.numel() != 1:
        raise CheckpointError(f"layer {layer.name}: a factor of {factor.numel()} values")
    if not factor.isfinite().all():
        raise CheckpointError(f"layer {layer.name}: a non-finite factor")
    for name, blob in (("running_mean", mean), ("running_var", variance)):
        sums = _vector(layer, blob).double()
        yield name, sums / factor.double().flatten() if factor.item() else torch.zeros_like(sums)


_NAMES: dict[str, Callable[[_Layer], Iterator[tuple[str, Tensor]]]] = {
    "Convolution": _weight_and_bias,
    "InnerProduct": _weight_and_bias,
    "Scale": _weight_and_bias,
    "BatchNorm": _statistics,
}


def _conv_norm(theirs: str, conv: str, norm: str) -> tuple[Rule, ...]:
    """Return the rules of a convolution and its norm: statistics in `/bn`, gamma and beta in `/bn/scale`."""
    return (
        Rule(theirs + ".{p}", conv + ".{p}"),
        Rule(theirs + "/bn.{p:running_mean|running_var}", norm + ".{p:running_mean|running_var}"),
        Rule(theirs + "/bn/scale.{p:weight|bias}", norm + ".{p:weight|bias}"),
    )


def _steps(places: Mapping[str, str]) -> tuple[Rule, ...]:
    return tuple(r for theirs, ours in places.items() for r in _conv_norm(theirs, f"{ours}.0", f"{ours}.1"))


_SE = (Rule("1x1_down.{p}", "se.fc1.{p}", kernel=1), Rule("1x1_up.{p}", "se.fc2.{p}", kernel=1))
_OUTPUT = (Rule("classifier.{p}", "head.fc.{p}"),)
_BLOCK = (
    *_conv_norm("1x1_reduce", "branch.conv1", "branch.bn1"),
    *_conv_norm("3x3", "branch.conv2", "branch.bn2"),
    *_conv_norm("1x1_increase", "branch.conv3", "branch.bn3"),
    *_steps({"1x1_proj": "shortcut"}),
    *_SE,
)
_RESIDUAL = (*under("conv{s}_{u+1}_", "stages.{s}.{u}.", _BLOCK), *_OUTPUT)

_BRANCHES = _steps(
    {
        "1x1": "1x1.0",
        "3x3_reduce": "3x3.0",
        "3x3": "3x3.1",
        "double3x3_reduce": "double3x3.0",
        "double3x3a": "double3x3.1",
        "double3x3b": "double3x3.2",
        "pool_proj": "pool.1",
    }
)


def _inception() -> tuple[AnyRule, ...]:
    rules: list[AnyRule] = []
    for stage, names in ((3, ("3a", "3b")), (4, ("3c", "4a", "4b", "4c", "4d")), (5, ("4e", "5a", "5b"))):
        for block, name in enumerate(names):
            rules += under(f"inception_{name}/", f"stages.{stage}.{block}.branches.", _BRANCHES)
            rules += under(f"inception_{name}_", f"stages.{stage}.{block}.", _SE)
    return tuple(rules)


TABLES = (
    Table("caffe", "the authors' SE-ResNets", (*_steps({"conv1/7x7_s2": "stem.0"}), *_RESIDUAL), AUTHORS),
    Table(
        "caffe",
        "the authors' SENet-154",
        (*_steps({"conv1_1/3x3_s2": "stem.0", "conv1_2/3x3": "stem.1", "conv1_3/3x3": "stem.2"}), *_RESIDUAL),
        AUTHORS,
    ),
    Table(
        "caffe",
        "the authors' SE-BN-Inception",
        (
            *_steps({"conv1/7x7_s2": "stem.0", "conv2/3x3_reduce": "stem.2", "conv2/3x3": "stem.3"}),
            *_inception(),
            *_OUTPUT,
        ),
        SE_AS_PUBLISHED,
    ),
)
