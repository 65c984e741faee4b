"""Decoding image files into RGB or grey pixels."""

from __future__ import annotations

import hashlib
import os
from io import BytesIO
from mmap import ACCESS_READ, mmap
from typing import NamedTuple

import numpy as np
from PIL import Image

from senet.data.formats import is_array, open_file, opened
from senet.data.image_errors import CorruptImage, as_corrupt_image
from senet.data.numpy_files import MAGIC
from senet.data.orientation import turned_size, upright
from senet.preprocessing import DEEP_WHITE

__all__ = [
    "CorruptImage",
    "Depth",
    "ImageInfo",
    "Stored",
    "as_corrupt_image",
    "decode_image",
    "decode_stored",
    "depth_of",
    "file_info",
    "image_info",
    "is_deep_colour",
    "load_image",
    "load_stored",
    "opened",
    "plain",
    "read_stored",
    "stored_form",
    "stored_info",
    "to_8_bits",
    "upright_size",
]  # fmt: skip


class Depth(NamedTuple):
    """Range of the values of a 16-bit image.

    Attributes:
        largest: Its largest value, of 65,535. Pillow reads the upper 8 bits of colours, so a colour image may have
            less.
        colour: Whether it has colours. A white level applies to grey only.
    """

    largest: int
    colour: bool


class ImageInfo(NamedTuple):
    """Properties of a readable image, for a check of a data set.

    Attributes:
        mode: Pillow's mode as stored, with `;16` behind it for 16-bit colours.
        width: In pixels, as stored.
        height: In pixels, as stored.
        digest: Hash of the content.
        depth: Range of its 16-bit values, or None for fewer bits.
        pages: Number of pages of a TIFF file.
    """

    mode: str
    width: int
    height: int
    digest: bytes
    depth: Depth | None = None
    pages: int = 1


class Stored(NamedTuple):
    """A stored image: the bytes of its file, and a name for messages. A `.npy` file is mapped into memory."""

    name: str
    content: bytearray | mmap


def load_image(path: str | os.PathLike[str], *, white_level: int = DEEP_WHITE) -> Image.Image:
    """Decode an image file into mode `"RGB"` or `"L"`, 8 bits a channel, turned upright by its EXIF or XMP.

    Transparent pixels are composited on white. 16-bit grey is scaled to 8 bits, not clipped. CMYK, YCbCr and palettes
    become RGB, and 1-bit becomes grey. An animation gives its first frame. The format follows from the content, not
    from the file's name. `PIL.Image.MAX_IMAGE_PIXELS` is a hard limit, checked before decoding. None lifts the limit.

    Args:
        path: The file.
        white_level: The value that becomes white in a 16-bit grey image. Larger values become white, too.

    Raises:
        CorruptImage: The file can't be opened, isn't an image, is truncated or damaged, has too many pixels, or has
            32-bit pixels, whose white is unknown.
        OSError: The disk or the network failed.
        MemoryError: Memory ran out.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from senet.data import load_image
        >>> path = tempfile.mkdtemp() + "/transparent.png"
        >>> Image.new("RGBA", (40, 30), (255, 0, 0, 0)).save(path)
        >>> load_image(path).getpixel((0, 0))
        (255, 255, 255)
    """
    return to_8_bits(decode_image(path), white_level)


def load_stored(stored: Stored, *, white_level: int = DEEP_WHITE) -> Image.Image:
    """Decode a file that is in memory, see `load_image`.

    Raises:
        CorruptImage: As `load_image`.
    """
    return to_8_bits(decode_stored(stored), white_level)


def decode_image(path: str | os.PathLike[str]) -> Image.Image:
    """Decode like `load_image`, but keep 16-bit grey in mode `"I;16"`. `to_8_bits` needs its white level.

    Raises:
        CorruptImage: As `load_image`.
    """
    with as_corrupt_image(path), open_file(path) as file:
        return plain(upright(opened(file)))


def decode_stored(stored: Stored) -> Image.Image:
    """Decode a file that is in memory, see `decode_image`.

    Raises:
        CorruptImage: As `load_image`.
    """
    with as_corrupt_image(stored.name):
        return plain(upright(opened(BytesIO(stored.content))))


def to_8_bits(image: Image.Image, white_level: int = DEEP_WHITE) -> Image.Image:
    """Scale 16-bit grey to 8 bits, with 255 for `white_level` and above. Any other image is returned unchanged."""
    if not image.mode.startswith("I;16"):
        return image
    grey = np.minimum(np.asarray(image).astype(np.uint32), white_level)
    return Image.fromarray(((grey * 255 + white_level // 2) // white_level).astype(np.uint8))


def read_stored(path: str | os.PathLike[str]) -> Stored:
    """Read a file's bytes without decoding, or map them into memory.

    Raises:
        CorruptImage: The file can't be opened.
        OSError: The disk or the network failed.
    """
    with as_corrupt_image(path), open_file(path) as file:
        if is_array(file.peek(len(MAGIC))):
            return Stored(os.fspath(path), mmap(file.fileno(), 0, access=ACCESS_READ))
        content = bytearray(os.fstat(file.fileno()).st_size)  # one copy less than bytearray(file.read())
        del content[file.readinto(content) :]
        return Stored(os.fspath(path), content)


def file_info(path: str | os.PathLike[str]) -> ImageInfo:
    """Decode an image file like `load_image`, and return its stored form with a hash of its bytes.

    Raises:
        CorruptImage: As `load_image`.
    """
    image = decode_image(path)  # first, so that a large file of another kind isn't read whole
    return _image_info(image, read_stored(path))


def stored_info(stored: Stored) -> ImageInfo:
    """Return the stored form of a file that is in memory, see `file_info`.

    Raises:
        CorruptImage: As `load_image`.
    """
    return _image_info(decode_stored(stored), stored)


def _image_info(decoded: Image.Image, stored: Stored) -> ImageInfo:
    with as_corrupt_image(stored.name):
        image = opened(BytesIO(stored.content))
    digest = hashlib.blake2b(stored.content, digest_size=16).digest()
    mode = f"{image.mode};16" if is_deep_colour(image) else image.mode
    pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    return ImageInfo(mode, *image.size, digest, depth_of(decoded, colour=is_deep_colour(image)), pages)


def image_info(image: Image.Image) -> ImageInfo:
    """Return the form of an image in memory. The hash is of its pixels."""
    return ImageInfo(
        image.mode, *image.size, hashlib.blake2b(image.tobytes(), digest_size=16).digest(), depth_of(image)
    )


def depth_of(decoded: Image.Image, *, colour: bool = False) -> Depth | None:
    """Return the range of an image's 16-bit values, or None for fewer bits.

    Args:
        decoded: The result of `decode_image`.
        colour: Whether its file holds 16-bit colours, see `is_deep_colour`.
    """
    if not colour and not decoded.mode.startswith("I;16"):
        return None
    largest = int(np.asarray(decoded).max(initial=0))
    return Depth(largest * 256 + 255 if colour else largest, colour)


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a file holds 16-bit colours, from its header. Pillow reads their upper 8 bits."""
    return not image.mode.startswith("I") and ";16" in stored_form(image)


def stored_form(image: Image.Image) -> str:
    """Return Pillow's name for the packing of a file's pixels, from its header: `RGB;16B`, `L;2`, ..."""
    tiles = getattr(image, "tile", None)
    packed = tiles[0][3] if tiles else ""
    first = packed[0] if isinstance(packed, tuple) and packed else packed
    return first if isinstance(first, str) else ""


def plain(image: Image.Image) -> Image.Image:
    """Convert a decoded image to mode RGB, L or I;16."""
    if image.mode in ("RGB", "L", "1") and "transparency" in image.info:
        return _over_white(image)
    if image.mode in ("RGB", "L"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I"):
        return _deep_grey(image)
    if image.mode == "F":
        raise ValueError("32-bit float pixels; save it with 8 or 16 bits a channel")
    return _over_white(image) if image.has_transparency_data else image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > DEEP_WHITE:
        raise ValueError("32-bit integer pixels; save it with 8 or 16 bits a channel")
    return Image.fromarray(grey.astype(np.uint16))


def _over_white(image: Image.Image) -> Image.Image:
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert(mode)


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return width and height of the result of `load_image`, from the file's header.

    Raises:
        CorruptImage: The header is unreadable.
    """
    with as_corrupt_image(path), open_file(path) as file:
        return turned_size(opened(file))
