"""Which files are images, and the one door through which they are opened."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from PIL import Image, features

from senet.data.image_errors import CorruptImage, as_corrupt_image
from senet.errors import DataError

__all__ = ["ImageFiles", "list_images", "loose_images", "open_file", "opened", "readable_formats", "readable_suffixes"]

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
"""Pillow's formats that are opened, and how their files are called. Formats that need an interpreter, such as
PostScript, are none of them, whatever a file is called."""

LIBRARIES: Final = {"JPEG": "jpg", "PNG": "zlib", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
"""What Pillow may be built without."""


def readable_formats() -> list[str]:
    """The formats of `SUFFIXES` that this Pillow reads; HEIF only where a plug-in for it is registered."""
    return [
        name
        for name in SUFFIXES
        if (name in Image.OPEN if name == "HEIF" else name not in LIBRARIES or features.check(LIBRARIES[name]))
    ]


def readable_suffixes() -> tuple[str, ...]:
    """How files of these formats are called, in lower case."""
    return tuple(suffix for name in readable_formats() for suffix in SUFFIXES[name])


def open_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a plain file to read; a pipe, of which nobody may ever write the other end, isn't waited for.

    Raises:
        OSError: It isn't there, is a pipe or a device, or the system refuses it; see `as_corrupt_image`.
    """
    file = open(path, "rb", opener=_unblocked)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), os.fspath(path))
    return file


def _unblocked(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def opened(file: BinaryIO) -> Image.Image:
    """Read the header only.

    Raises:
        ValueError: It is empty, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
        Exception: Whatever Pillow raises; see `as_corrupt_image`.
    """
    if file.seek(0, os.SEEK_END) == 0:
        raise ValueError("empty file (0 bytes)")
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
        images: Paths of those that are read.
        left_out: Paths of those that aren't: of another kind, or of a format that this Pillow doesn't read.
    """

    images: list[str]
    left_out: list[str]


def list_images(folder: str | os.PathLike[str]) -> ImageFiles:
    """The files below a folder at any depth, in order. Hidden ones, and those in hidden folders, are in neither list.

    A file's suffix decides, in any case. Of a file without one, the content does.

    Raises:
        DataError: A folder can't be read.
        OSError: The disk or the network failed.
    """
    found, suffixes = ImageFiles([], []), readable_suffixes()
    for place, names in sorted(_walk(Path(folder))):
        for name in names:
            path = os.path.join(place, name)
            (found.images if _is_image(path, suffixes) else found.left_out).append(path)
    return found


def loose_images(folder: str | os.PathLike[str]) -> list[str]:
    """Files directly in a folder that are called like images, of formats that aren't read here, too; sorted."""
    known = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name[0] != "." and entry.name.lower().endswith(known)]
    return sorted(os.path.join(folder, name) for name in names if not os.path.isdir(os.path.join(folder, name)))


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder that isn't hidden, and the names of its files that aren't; with those of links that lead in circles.

    A link to a folder in which it lies isn't followed: all images would come again, some to train on and some to
    validate on.
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
    """Whether it is a link to a folder in which the way from the root to it lies."""
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
