"""From a file to pixels: every readable image becomes RGB or grey; every other one says why not."""

from __future__ import annotations

import hashlib
import os
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from senet.data.formats import open_file, opened
from senet.data.image_errors import CorruptImage, as_corrupt_image
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
    "read_stored",
    "stored_form",
    "stored_info",
    "to_8_bits",
    "upright_size",
]  # fmt: skip


class Depth(NamedTuple):
    """What a 16-bit image uses.

    Attributes:
        largest: Its largest value, of 65,535. Of colours Pillow reads the upper 8 bits, so there it may be less.
        colour: Whether it has colours: a white level is for grey.
    """

    largest: int
    colour: bool


class ImageInfo(NamedTuple):
    """What a check of a data set notes about a readable image.

    Attributes:
        mode: Pillow's, as it is stored; with `;16` behind it where colours have 16 bits.
        width: In pixels, as stored.
        height: In pixels, as stored.
        digest: A hash of its content.
        depth: What it uses of its 16 bits; None where it has fewer.
    """

    mode: str
    width: int
    height: int
    digest: bytes
    depth: Depth | None = None


class Stored(NamedTuple):
    """An image as it is stored: the bytes of a file of its own, and what a person would call it."""

    name: str
    content: bytearray


def load_image(path: str | os.PathLike[str], *, white_level: int = DEEP_WHITE) -> Image.Image:
    """Decode a whole image file into mode `"RGB"` or `"L"`, 8 bits a channel, turned upright by its EXIF or XMP.

    Transparent pixels are laid over white. 16-bit grey is scaled to 8 bits, not clipped. CMYK, YCbCr and palettes
    become RGB; 1-bit becomes grey. The first frame of an animation is taken. The format is told from the content, not
    from the file's name. `PIL.Image.MAX_IMAGE_PIXELS` is a hard limit here, checked before decoding; set it to None
    to lift the limit.

    Args:
        path: The file.
        white_level: The value that becomes white in an image of 16-bit grey, and so do larger ones.

    Raises:
        CorruptImage: The file can't be opened, isn't an image, is truncated or damaged, has too many pixels,
            or has 32-bit pixels, whose white is anybody's guess.
        OSError: The disk or the network failed.
        MemoryError: Memory ran out.
    """
    return to_8_bits(decode_image(path), white_level)


def load_stored(stored: Stored, *, white_level: int = DEEP_WHITE) -> Image.Image:
    """The same of a file that is in memory.

    Raises:
        CorruptImage: As `load_image`.
    """
    return to_8_bits(decode_stored(stored), white_level)


def decode_image(path: str | os.PathLike[str]) -> Image.Image:
    """As `load_image`, but 16-bit grey stays what it is, in mode `"I;16"`: `to_8_bits` needs to know its white.

    Raises:
        CorruptImage: As `load_image`.
    """
    with as_corrupt_image(path), open_file(path) as file:
        return _plain(upright(opened(file)))


def decode_stored(stored: Stored) -> Image.Image:
    """The same of a file that is in memory.

    Raises:
        CorruptImage: As `load_image`.
    """
    with as_corrupt_image(stored.name):
        return _plain(upright(opened(BytesIO(stored.content))))


def to_8_bits(image: Image.Image, white_level: int = DEEP_WHITE) -> Image.Image:
    """An image of 16-bit grey in 8 bits, of which 255 stands for `white_level` and all above; any other as it is."""
    if not image.mode.startswith("I;16"):
        return image
    grey = np.minimum(np.asarray(image).astype(np.uint32), white_level)
    return Image.fromarray(((grey * 255 + white_level // 2) // white_level).astype(np.uint8))


def read_stored(path: str | os.PathLike[str]) -> Stored:
    """Read a file's bytes, whatever they are.

    Raises:
        CorruptImage: It can't be opened.
        OSError: The disk or the network failed.
    """
    with as_corrupt_image(path), open_file(path) as file:
        content = bytearray(os.fstat(file.fileno()).st_size)  # one copy less than bytearray(file.read())
        del content[file.readinto(content) :]
        return Stored(os.fspath(path), content)


def file_info(path: str | os.PathLike[str]) -> ImageInfo:
    """Decode an image file, as `load_image` does, and note its stored form and a hash of its bytes.

    Raises:
        CorruptImage: As `load_image`.
    """
    image = decode_image(path)  # first: whatever isn't an image isn't read whole, be it as large as it likes
    return _image_info(image, read_stored(path))


def stored_info(stored: Stored) -> ImageInfo:
    """The same of a file that is in memory.

    Raises:
        CorruptImage: As `load_image`.
    """
    return _image_info(decode_stored(stored), stored)


def _image_info(decoded: Image.Image, stored: Stored) -> ImageInfo:
    with as_corrupt_image(stored.name):
        image = opened(BytesIO(stored.content))
    digest = hashlib.blake2b(stored.content, digest_size=16).digest()
    mode = f"{image.mode};16" if is_deep_colour(image) else image.mode
    return ImageInfo(mode, *image.size, digest, depth_of(decoded, colour=is_deep_colour(image)))


def image_info(image: Image.Image) -> ImageInfo:
    """The same of an image that is in memory already; the hash is of its pixels."""
    return ImageInfo(
        image.mode, *image.size, hashlib.blake2b(image.tobytes(), digest_size=16).digest(), depth_of(image)
    )


def depth_of(decoded: Image.Image, *, colour: bool = False) -> Depth | None:
    """What an image uses of its 16 bits; None where it has fewer.

    Args:
        decoded: As `decode_image` gives it.
        colour: Whether its file holds 16-bit colours, see `is_deep_colour`.
    """
    if not colour and not decoded.mode.startswith("I;16"):
        return None
    largest = int(np.asarray(decoded).max(initial=0))
    return Depth(largest * 256 + 255 if colour else largest, colour)


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a file, of which the header is read, holds 16-bit colours: Pillow reads their upper 8 bits."""
    return not image.mode.startswith("I") and ";16" in stored_form(image)


def stored_form(image: Image.Image) -> str:
    """Pillow's name of how the pixels of a file are packed, of which the header is read: `RGB;16B`, `L;2`, ..."""
    tiles = getattr(image, "tile", None)
    packed = tiles[0][3] if tiles else ""
    first = packed[0] if isinstance(packed, tuple) and packed else packed
    return first if isinstance(first, str) else ""


def _plain(image: Image.Image) -> Image.Image:
    """In mode RGB, L or I;16."""
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
    """Width and height of what `load_image` gives, from the file's header.

    Raises:
        CorruptImage: The header can't be read.
    """
    with as_corrupt_image(path), open_file(path) as file:
        return turned_size(opened(file))
