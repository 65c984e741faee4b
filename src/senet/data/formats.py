"""Image formats, and the one function that opens image files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from mmap import mmap
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from PIL import Image, features

from senet.data.image_errors import CorruptImage, as_corrupt_image
from senet.data.numpy_files import MAGIC, pillow_image
from senet.errors import DataError

__all__ = [
    "ImageFiles",
    "is_array",
    "list_images",
    "loose_images",
    "open_file",
    "opened",
    "readable_formats",
    "readable_suffixes",
]

SUFFIXES: Final = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Pillow's formats that are opened, and their file suffixes. Formats that need an interpreter, such as PostScript, are
never opened, whatever a file is called.
"""

ARRAYS: Final = (".npy",)
"""Suffixes of NumPy's arrays, which Pillow doesn't read."""

LIBRARIES: Final = {"JPEG": "jpg", "PNG": "zlib", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
"""Libraries that Pillow may be built without."""


def readable_formats() -> list[str]:
    """List the formats of `SUFFIXES` that this Pillow reads. HEIF needs a registered plug-in."""
    return [
        name
        for name in SUFFIXES
        if (name in Image.OPEN if name == "HEIF" else name not in LIBRARIES or features.check(LIBRARIES[name]))
    ]


def readable_suffixes() -> tuple[str, ...]:
    """Return the file suffixes of these formats and of NumPy's arrays, in lower case."""
    return (*(suffix for name in readable_formats() for suffix in SUFFIXES[name]), *ARRAYS)


def open_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file for reading. A pipe is refused, since its other end may never be written.

    Raises:
        OSError: The file is missing, is a pipe or a device, or the system refuses it, see `as_corrupt_image`.
    """
    file = open(path, "rb", opener=_unblocked)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), os.fspath(path))
    return file


def _unblocked(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def is_array(content: bytes | bytearray | mmap) -> bool:
    """Whether bytes are a `.npy` file."""
    return bytes(content[: len(MAGIC)]) == MAGIC


def opened(file: BinaryIO) -> Image.Image:
    """Read the header only. A `.npy` file is read whole.

    Raises:
        ValueError: The file is empty, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
        Unsuitable: An array is no image that Pillow knows.
        Exception: Any error of Pillow, see `as_corrupt_image`.
    """
    if file.seek(0, os.SEEK_END) == 0:
        raise ValueError("empty file (0 bytes)")
    file.seek(0)
    if is_array(file.read(len(MAGIC))):
        file.seek(0)
        return pillow_image(file.read())
    file.seek(0)
    try:
        image = Image.open(file, formats=readable_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(_too_large(str(error).partition("(")[2].partition(" ")[0])) from error
    pixels = image.width * image.height
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise ValueError(_too_large(str(pixels)))
    return image


def _too_large(pixels: str) -> str:
    count = f"{int(pixels) / 1e6:,.0f} million pixels" if pixels.isdigit() else "too many pixels"
    return f"too large: {count}, limit {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:,.0f} million"


class ImageFiles(NamedTuple):
    """The files below a folder.

    Attributes:
        images: Paths of the images.
        left_out: Paths of all other files, and of images in a format that this Pillow doesn't read.
    """

    images: list[str]
    left_out: list[str]


def list_images(folder: str | os.PathLike[str]) -> ImageFiles:
    """List the files below a folder at any depth, in order. Hidden files and folders are skipped.

    A file's suffix decides, in any case. A file without a suffix is opened.

    Raises:
        DataError: A folder is unreadable.
        OSError: The disk or the network failed.
    """
    found, suffixes = ImageFiles([], []), readable_suffixes()
    for place, names in sorted(_walk(Path(folder))):
        for name in names:
            path = os.path.join(place, name)
            (found.images if _is_image(path, suffixes) else found.left_out).append(path)
    return found


def loose_images(folder: str | os.PathLike[str]) -> list[str]:
    """List image files directly in a folder, sorted, including formats that this Pillow doesn't read."""
    known = (*(suffix for suffixes in SUFFIXES.values() for suffix in suffixes), *ARRAYS)
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name[0] != "." and entry.name.lower().endswith(known)]
    return sorted(os.path.join(folder, name) for name in names if not os.path.isdir(os.path.join(folder, name)))


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each visible folder and the names of its visible files, including links that lead in circles.

    A link to a folder that contains it isn't followed. Its images would occur twice, maybe in training and in
    validation.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise DataError(f"{error.filename} can't be read: permission denied") from error
        raise error

    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        circles = {name for name in folders if _leads_back(place, name, folder)}
        folders[:] = [name for name in folders if not name.startswith(".") and name not in circles]
        yield place, sorted(name for name in (*names, *circles) if not name.startswith("."))


def _leads_back(place: str, name: str, root: Path) -> bool:
    """Whether a path is a link to one of the folders above it."""
    link = os.path.join(place, name)
    if not os.path.islink(link):
        return False
    target = Path(os.path.realpath(link))
    way = [Path(place), *Path(place).parents]
    return any(step.is_relative_to(root) and step.resolve().is_relative_to(target) for step in way)


def _is_image(path: str, suffixes: tuple[str, ...]) -> bool:
    suffix = os.path.splitext(path)[1].lower()
    return suffix in suffixes if len(suffix) > 1 else _holds_an_image(path)


def _holds_an_image(path: str) -> bool:
    try:
        with as_corrupt_image(path), open_file(path) as file:
            opened(file)
    except CorruptImage:
        return False
    return True
