"""Arrays of `.npy` files as images."""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image

from senet.data.image_errors import Unsuitable

__all__ = ["MAGIC", "array_of", "channels_first", "pillow_image"]

MAGIC: Final = b"\x93NUMPY"
HEADERS: Final[dict[tuple[int, int], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
LONGEST_HEADER: Final = 16_384


def array_of(content: Any) -> np.ndarray:
    """Return the array of a `.npy` file as a view of its bytes, which may be a memory map. Nothing is unpickled.

    Raises:
        ValueError: It is damaged, or contains no numbers.
    """
    start = BytesIO(bytes(memoryview(content)[:LONGEST_HEADER]))
    version = np.lib.format.read_magic(start)
    if version not in HEADERS:
        raise ValueError(f"an array of version {version[0]}.{version[1]}, expected a plain array of numbers")
    shape, by_columns, dtype = HEADERS[version](start)
    if dtype.hasobject or dtype.kind not in "uif":
        raise ValueError(f"an array of {dtype}, expected numbers")
    count = int(np.prod(shape, dtype=object))
    if count < 1 or count * dtype.itemsize > len(content) - start.tell():
        raise ValueError(f"truncated (an array of {shape})" if count else f"empty (an array of {shape})")
    array = np.frombuffer(content, dtype, count, start.tell())
    return array.reshape(shape, order="F" if by_columns else "C")


def channels_first(array: np.ndarray, channels: int | None = None) -> np.ndarray:
    """Return a view (C, H, W) of an array (H, W), (H, W, C) or (C, H, W), in the machine's order of bytes.

    The channels are the last or else the first axis of the expected length. Without an expected number they are the
    shorter of both axes, or the last of equal ones.

    Raises:
        ValueError: It has another number of axes.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3:
        raise Unsuitable(f"an array of shape {array.shape}, expected (H, W), (H, W, C) or (C, H, W)")
    first, last = array.shape[0], array.shape[2]
    is_first = first < last if channels not in (first, last) else last != channels
    return array if is_first else array.transpose(2, 0, 1)


def pillow_image(content: Any) -> Image.Image:
    """Return an array of 8-bit RGB or of 8-bit or 16-bit grey as a Pillow image.

    Raises:
        ValueError: It has other channels or another depth. The message names the options that read it.
    """
    bands = channels_first(array_of(content))
    if len(bands) in (1, 3) and bands.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(bands.transpose(1, 2, 0)).squeeze(2 if len(bands) == 1 else ()))
    if len(bands) == 1 and bands.dtype == np.uint16:
        return Image.fromarray(np.ascontiguousarray(bands[0]))
    depth = {"uint8": "8", "uint16": "16"}.get(bands.dtype.name, "float")
    raise Unsuitable(
        f"{len(bands)} channel{'s' * (len(bands) != 1)} of {bands.dtype}, expected RGB or grey of 8 bits; a network "
        f"trained with --channels {len(bands)} --bit-depth {depth} reads it"
    )
