"""Reading images of any number of channels and any bit depth, as arrays of their exact values."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageSequence, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_png

from senet.data.formats import is_array, opened
from senet.data.image_errors import CorruptImage, Unsuitable, as_corrupt_image
from senet.data.images import ImageInfo, Stored, is_deep_colour, plain
from senet.data.numpy_files import array_of, channels_first
from senet.data.orientation import upright
from senet.preprocessing import FLOAT_DEPTH

if TYPE_CHECKING:
    from senet.data.sources import Source

__all__ = ["TIFF_MAGIC", "Form", "as_bands", "bits_of", "describe", "form_of", "read_bands"]

SAMPLES_PER_PIXEL, SUBFILE_TYPE = 277, 254
TIFF_MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

BANDS: Final = {"L": "L", "1": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "I": "I", "F": "F"}
"""Pillow's modes whose bands are channels, and the mode that is read as an array."""

COUNTS: Final = {"P": 3, "PA": 4, "CMYK": 3}
"""Channels of modes whose bands are no channels."""


class Form(NamedTuple):
    """The form of an image.

    Attributes:
        channels: Number of channels.
        bits: Bits of each value: 8, 16, or 32 for floating point and other integers.
    """

    channels: int
    bits: int

    def __str__(self) -> str:
        bits = "floating point" if self.bits == FLOAT_DEPTH else f"{self.bits} bit"
        return f"{self.channels} channel{'s' * (self.channels != 1)}, {bits}"


def read_bands(stored: Stored, channels: int | None = None) -> np.ndarray:
    """Decode a file into (C, H, W) of its own type: uint8, uint16, or any other number.

    The pages of a TIFF file are channels, if it has several. An array of a `.npy` file is a view of the file.

    Args:
        stored: The file.
        channels: Expected number of channels, which decides which axis of a `.npy` file has the channels, and whether
            transparency is a channel. None keeps all channels.

    Raises:
        CorruptImage: The file can't be decoded.
        UnsuitableImage: The file has another number of channels, or needs a library that isn't installed. A grey image
            also suits 3 channels, and an RGB image suits 1.
    """
    with as_corrupt_image(stored.name):
        return matched(_decoded(stored, channels), channels)


def as_bands(image: Image.Image | np.ndarray, channels: int | None = None) -> np.ndarray:
    """Convert a Pillow image, or an array (H, W), (H, W, C) or (C, H, W), to (C, H, W).

    Raises:
        UnsuitableImage: As `read_bands`.
    """
    with as_corrupt_image("the image"):
        bands = channels_first(image, channels) if isinstance(image, np.ndarray) else _bands_of_pillow(image, channels)
        return matched(bands, channels)


def form_of(stored: Stored) -> Form:
    """Return the number of channels and the bit depth of a file.

    Raises:
        CorruptImage: The file can't be decoded.
    """
    bands = read_bands(stored)
    return Form(len(bands), bits_of(bands))


def bits_of(bands: np.ndarray) -> int:
    """Return the bit depth of an array."""
    return {"uint8": 8, "uint16": 16}.get(bands.dtype.name, FLOAT_DEPTH)


def matched(bands: np.ndarray, channels: int | None) -> np.ndarray:
    """Return the bands as `channels` channels: grey is repeated for 3, and RGB becomes luminance for 1.

    Raises:
        Unsuitable: Other numbers of channels.
    """
    if channels is None or len(bands) == channels:
        return bands
    if (len(bands), channels) == (1, 3):
        return np.broadcast_to(bands, (3, *bands.shape[1:]))
    if (len(bands), channels) == (3, 1):
        return _luminance(bands)
    raise Unsuitable(f"{len(bands)} channel{'s' * (len(bands) != 1)}, expected {channels}")


def _luminance(bands: np.ndarray) -> np.ndarray:
    """Return ITU-R 601 luminance of RGB, as Pillow's mode L, rounded for integers."""
    grey = np.tensordot([0.299, 0.587, 0.114], bands, axes=1)[None]
    return (np.rint(grey) if bands.dtype.kind in "iu" else grey).astype(bands.dtype)


def _decoded(stored: Stored, channels: int | None) -> np.ndarray:
    if is_array(stored.content):
        return channels_first(array_of(stored.content), channels)
    try:
        image = opened(BytesIO(stored.content))
    except UnidentifiedImageError:
        if bytes(stored.content[:4]) in TIFF_MAGIC:
            return _by_tifffile(stored)
        raise
    if image.format == "TIFF":
        return _tiff(image, stored, channels)
    if is_deep_colour(image):
        if image.format != "PNG":
            raise Unsuitable("16-bit colours, of which only the upper 8 bits can be read; save it as .npy or TIFF")
        # Pillow reads the upper 8 bits only.
        content = torch.frombuffer(bytearray(stored.content), dtype=torch.uint8)
        return decode_png(content, ImageReadMode.UNCHANGED, apply_exif_orientation=True).numpy()
    return _bands_of_pillow(upright(image), channels)


def _tiff(image: Image.Image, stored: Stored, channels: int | None) -> np.ndarray:
    """Read one page with its bands, or several pages of one band each. Reduced copies of the image don't count."""
    pages: list[np.ndarray] = []
    for page in ImageSequence.Iterator(image):
        if page.tag_v2.get(SUBFILE_TYPE, 0) & 1:
            continue
        if is_deep_colour(page) or page.tag_v2.get(SAMPLES_PER_PIXEL, 1) != len(page.getbands()):
            return _by_tifffile(stored)
        pages.append(_bands_of_pillow(upright(page), channels))
    if len(pages) == 1:
        return pages[0]
    forms = {(len(page), page.shape[1:], page.dtype) for page in pages}
    if len(forms) > 1 or len(pages[0]) != 1:
        raise Unsuitable(f"{len(pages)} pages that are no channels of one image (one grey page each, of one size)")
    return np.concatenate(pages)


def _by_tifffile(stored: Stored) -> np.ndarray:
    try:
        import tifffile
    except ImportError as error:
        raise Unsuitable(
            "a TIFF that needs tifffile, which isn't installed: pip install 'senet[tiff]', or save it as .npy or with "
            "one page for each channel"
        ) from error
    with tifffile.TiffFile(BytesIO(stored.content)) as file:
        series = file.series[0]
        axes = series.axes
        found = series.asarray()
    if "Y" not in axes or "X" not in axes or len(axes) > 3:
        raise Unsuitable(f"a TIFF with the axes {axes}, expected height, width and channels")
    others = [axis for axis in axes if axis not in "YX"]
    order = [axes.index(axis) for axis in (*others, "Y", "X")]
    return found.transpose(order).reshape(-1, *(found.shape[axes.index(axis)] for axis in "YX"))


def _bands_of_pillow(image: Image.Image, channels: int | None) -> np.ndarray:
    if channels == 4 and image.has_transparency_data:
        image = image.convert("RGBA")
    keeps = channels is None or len(image.getbands()) == channels
    if image.mode.startswith("I;16"):
        found = np.asarray(image).astype(np.uint16)
    elif image.mode in BANDS and (keeps or image.mode in ("I", "F")):
        found = np.asarray(image.convert(BANDS[image.mode]))
        fits = found.dtype == np.int32 and found.min() >= 0 and found.max() <= np.iinfo(np.uint16).max
        found = found.astype(np.uint16) if fits else found
    else:
        found = np.asarray(plain(image))
    return found.transpose(2, 0, 1) if found.ndim == 3 else found[None]


def describe(source: Source, index: int) -> tuple[ImageInfo, Form]:
    """Decode one image of a source, and return its properties and its form.

    Raises:
        CorruptImage: The image can't be decoded as RGB or grey, nor with any channels.
    """
    try:
        info = source.info(index)
    except CorruptImage:
        stored = source.stored(index)
        if stored is None:
            raise
        bands = read_bands(stored)
        form, digest = Form(len(bands), bits_of(bands)), hashlib.blake2b(stored.content, digest_size=16).digest()
        return ImageInfo(f"{bands.dtype} x{len(bands)}", bands.shape[2], bands.shape[1], digest), form
    stored = source.stored(index) if info.pages > 1 else None
    if stored is not None:
        return info, form_of(stored)
    mode, deep, _ = info.mode.partition(";16")
    return info, Form(COUNTS.get(mode, Image.getmodebands(mode)), 16 if deep or mode == "I" else 8)
