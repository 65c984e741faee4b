"""Errors in reading images: a faulty file is skipped, a fault of the machine ends the run."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import UnidentifiedImageError

from senet.errors import DataError

__all__ = ["CorruptImage", "Unsuitable", "UnsuitableImage", "as_corrupt_image", "is_machine_fault"]

REASONS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.ENAMETOOLONG: "no such file (its name is too long)",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "a folder, not a file",
    errno.ELOOP: "a link that leads nowhere",
    errno.ENXIO: "not a file that can be read",
    errno.ESPIPE: "not a file that can be read",
    errno.EINVAL: "damaged (it points outside of itself)",
    errno.EOVERFLOW: "damaged (it points outside of itself)",
}
"""System errors that concern the file. All others (EIO, ESTALE, ETIMEDOUT, ...) don't."""

ABOUT_THE_FILE = (
    FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, UnidentifiedImageError,
)  # fmt: skip
"""The same errors of exceptions without an `errno`."""

NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


class CorruptImage(DataError):  # noqa: N818 - named after its subject
    """An unreadable image file. The exception survives the way from a worker process to the main one.

    Args:
        path: The file, or another name of the image.
        reason: The cause, in a few words.

    Example:
        >>> from senet.data import CorruptImage, load_image
        >>> try:
        ...     load_image("missing.jpg")
        ... except CorruptImage as error:
        ...     print(error)
        missing.jpg: no such file
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path).encode("utf-8", "backslashreplace").decode()  # printable everywhere
        self.reason = reason
        super().__init__(self.path, reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class UnsuitableImage(CorruptImage):
    """An intact image of other channels or of another bit depth than the network's. A training ends with it."""


class Unsuitable(ValueError):  # noqa: N818 - named after its subject
    """A reason for `UnsuitableImage`, raised where the file's name isn't known."""


@contextmanager
def as_corrupt_image(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any error of Pillow's decoders about a file into `CorruptImage`.

    Raises:
        CorruptImage: The file is unreadable or holds no image.
        UnsuitableImage: `Unsuitable` was raised.
        OSError: The disk, the network or the system failed, regardless of the file. The message names the file.
        MemoryError: Memory ran out. The message names the file.
    """
    try:
        yield
    except CorruptImage:
        raise
    except Unsuitable as error:
        raise UnsuitableImage(path, str(error)) from error
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, IndexError, ...
        if is_machine_fault(error):
            named = _named(error, os.fspath(path))
            if named is error:
                raise
            raise named from error
        raise CorruptImage(path, _reason(error)) from error


def is_machine_fault(error: BaseException) -> bool:
    """Whether an error concerns memory, disk, network or system rather than the file."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, RuntimeError):  # PyTorch's
        return any(words in str(error).lower() for words in NO_MEMORY)
    if not isinstance(error, OSError):
        return False
    if error.errno is not None:
        return error.errno not in REASONS
    if type(error) is OSError:  # Pillow's own errors of a damaged file, one of them about memory
        return any(words in str(error).lower() for words in NO_MEMORY)
    return not isinstance(error, ABOUT_THE_FILE)


def _named(error: Exception, path: str) -> Exception:
    """Return the same error with the name of the file."""
    if not isinstance(error, OSError) or (error.errno is None and type(error) is OSError):
        named = isinstance(error, MemoryError) and path in str(error)
        return error if named else MemoryError(f"{path}: memory ran out while the image was decoded")
    if error.errno is not None:
        return error if error.filename is not None else OSError(error.errno, error.strerror, path)
    if path in str(error):
        return error
    kind = type(error) if type(error).__module__ == "builtins" else OSError
    return kind(f"{path}: {error}")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.errno is not None:
        return REASONS[error.errno]
    if "truncated" in text.lower():
        detail = re.search(r"\(([^()]*)\)$", text)
        return f"truncated ({detail[1]})" if detail else "truncated"
    return text if isinstance(error, ValueError) else f"damaged ({text})"
