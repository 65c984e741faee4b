"""Writes `.caffemodel` files, as far as the tests need them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import numpy as np


def varint(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(values: np.ndarray, *, doubles: bool = False, old_shape: bool = False, packed: bool = True) -> bytes:
    if old_shape:
        sizes = (1,) * (4 - values.ndim) + values.shape
        shape = b"".join(varint(n << 3) + varint(size) for n, size in enumerate(sizes, 1))
    else:
        shape = field(7, field(1, b"".join(map(varint, values.shape))))
    if not packed:
        return shape + b"".join(varint(5 << 3 | 5) + struct.pack("<f", v) for v in values.ravel())
    return shape + field(8 if doubles else 5, values.astype("<f8" if doubles else "<f4").tobytes())


def layer(name: str, kind: str, blobs: Iterable[bytes]) -> bytes:
    return field(100, field(1, name.encode()) + field(2, kind.encode()) + b"".join(field(7, b) for b in blobs))


def caffemodel(layers: Iterable[tuple[str, str, list[np.ndarray]]]) -> bytes:
    """The bytes of a network of (name, type, blobs)."""
    return field(1, b"made by a test") + b"".join(layer(n, k, map(blob, blobs)) for n, k, blobs in layers)


def made_up(definition: Iterable[Mapping[str, object]], seed: int = 0) -> list[tuple[str, str, list[np.ndarray]]]:
    """Layers of one of the authors' definitions with weights that keep activations in range and hide nothing."""
    rng = np.random.default_rng(seed)
    found = []
    for entry in definition:
        shapes, kind = entry["param_shapes"], entry["type"]
        if not shapes:
            continue
        if kind == "BatchNorm":
            factor = rng.uniform(0.5, 900)
            blobs = [rng.normal(0, 0.2, shapes[0]) * factor, rng.uniform(0.8, 1.2, shapes[1]) * factor, [factor]]
        elif kind == "Scale":
            blobs = [rng.uniform(0.5, 1.2, shapes[0]), rng.normal(0, 0.2, shapes[1])]
        else:
            fan_in = np.prod(shapes[0][1:])
            blobs = [rng.normal(0, (2 / fan_in) ** 0.5, shapes[0]), *(rng.normal(0, 0.5, s) for s in shapes[1:])]
        found.append((entry["name"], kind, [np.asarray(b, np.float32) for b in blobs]))
    return found
