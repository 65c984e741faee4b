"""From a file to pixels: every readable picture becomes 8-bit RGB or grey; every other one says why not."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from senet.errors import DataError

__all__ = [
    "BrokenImage", "Facts", "Stored", "file_facts", "image_facts", "load_image", "load_stored", "opened", "read_stored",
    "stored_facts", "told_as_broken", "turned", "upright_size",
]  # fmt: skip

ORIENTATION = 0x0112
"""EXIF's tag."""

TROUBLE_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Failures to open a file that say nothing about the file."""

REASONS = {
    errno.ENOENT: "no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "a folder, not a file",
    errno.ELOOP: "a link that leads nowhere",
}


class BrokenImage(DataError):  # noqa: N818 - named as what it is
    """An image file that can't be read. It survives the way from a worker process to the main one.

    Args:
        path: The file, or another name of the image.
        reason: Why it can't be read, in a few words.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path).encode("utf-8", "backslashreplace").decode()  # printable everywhere
        self.reason = reason
        super().__init__(self.path, reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Facts(NamedTuple):
    """What a check of a data set notes about a readable image: its stored form and a hash of its content."""

    mode: str
    width: int
    height: int
    digest: bytes


class Stored(NamedTuple):
    """An image as it is stored: the bytes of a file of its own, and what a person would call it."""

    name: str
    content: bytearray


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Decode a whole image file into mode `"RGB"` or `"L"`, 8 bits a channel, turned upright by its EXIF.

    Transparent pixels are laid over white. 16-bit grey is scaled to 8 bits (65535 becomes 255), not clipped.
    CMYK, YCbCr and palettes become RGB; 1-bit becomes grey. The first frame of an animation is taken. The
    format is told from the content, not from the file's name. `PIL.Image.MAX_IMAGE_PIXELS` is a hard limit
    here, checked before decoding; set it to None to lift the limit.

    Raises:
        BrokenImage: The file can't be opened, isn't an image, is truncated or damaged, has too many pixels,
            or has 32-bit pixels, whose white is anybody's guess.
    """
    with told_as_broken(path), open(path, "rb") as file:
        return _loaded(opened(file))


def load_stored(stored: Stored) -> Image.Image:
    """The same of a file that is in memory.

    Raises:
        BrokenImage: As `load_image`.
    """
    with told_as_broken(stored.name):
        return _loaded(opened(BytesIO(stored.content)))


def read_stored(path: str | os.PathLike[str]) -> Stored:
    """Read a file's bytes, whatever they are.

    Raises:
        BrokenImage: It can't be opened.
    """
    with told_as_broken(path), open(path, "rb") as file:
        content = bytearray(os.fstat(file.fileno()).st_size)  # one copy less than bytearray(file.read())
        del content[file.readinto(content) :]
        return Stored(os.fspath(path), content)


def file_facts(path: str | os.PathLike[str]) -> Facts:
    """Decode an image file, as `load_image` does, and note its stored mode, its size and a hash of its bytes.

    Raises:
        BrokenImage: As `load_image`.
    """
    load_image(path)  # first: whatever isn't an image isn't read whole, be it as large as it likes
    return _facts(read_stored(path))


def stored_facts(stored: Stored) -> Facts:
    """The same of a file that is in memory.

    Raises:
        BrokenImage: As `load_image`.
    """
    load_stored(stored)
    return _facts(stored)


def _facts(stored: Stored) -> Facts:
    with told_as_broken(stored.name):
        image = opened(BytesIO(stored.content))
        return Facts(image.mode, *image.size, hashlib.blake2b(stored.content, digest_size=16).digest())


def image_facts(image: Image.Image) -> Facts:
    """The same of an image that is in memory already; the hash is of its pixels."""
    return Facts(image.mode, *image.size, hashlib.blake2b(image.tobytes(), digest_size=16).digest())


@contextmanager
def told_as_broken(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever Pillow's decoders raise into `BrokenImage`; keep warnings about odd metadata quiet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except BrokenImage:
        raise
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, IndexError, ...
        if isinstance(error, OSError) and error.errno in TROUBLE_OF_THE_MACHINE:
            raise
        raise BrokenImage(path, _reason(error)) from error


def opened(file: BinaryIO) -> Image.Image:
    """Read the header only."""
    if file.seek(0, os.SEEK_END) == 0:
        raise ValueError("empty file (0 bytes)")
    file.seek(0)
    return Image.open(file)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return _too_large(text)
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.errno is not None:
        return REASONS.get(error.errno, error.strerror or text)
    if "truncated" in text.lower():
        detail = re.search(r"\(([^()]*)\)$", text)
        return f"truncated ({detail[1]})" if detail else "truncated"
    return text if isinstance(error, ValueError) else f"damaged ({text})"


def _too_large(text: str) -> str:
    pixels = re.search(r"\((\d+) pixels\)", text)
    count = f"{int(pixels[1]) / 1e6:,.0f} million pixels" if pixels else "too many pixels"
    return f"too large: {count}, limit {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:,.0f} million"


def _loaded(image: Image.Image) -> Image.Image:
    image.load()
    with suppress(Exception):  # damaged metadata; the pixels are fine
        ImageOps.exif_transpose(image, in_place=True)
    return _to_8_bits(image)


def turned(image: Image.Image) -> bool:
    """Whether EXIF says that an image, of which the header is read, is stored lying or mirrored."""
    if "exif" not in image.info:
        return False
    try:
        return image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # damaged metadata; the pixels are fine
        return False


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "L"):
        return image if "transparency" not in image.info else _over_white(image)
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode == "F":
        raise ValueError("32-bit float pixels; save it with 8 or 16 bits a channel")
    return _over_white(image) if image.has_transparency_data else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("32-bit integer pixels; save it with 8 or 16 bits a channel")
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    mode = "L" if image.mode in ("L", "LA", "La") else "RGB"
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert(mode)


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of what `load_image` gives, from the file's header alone.

    Raises:
        BrokenImage: The header can't be read.
    """
    with told_as_broken(path), open(path, "rb") as file:
        image = opened(file)
        lies = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return image.size[::-1] if lies else image.size
