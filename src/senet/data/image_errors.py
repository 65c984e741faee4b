"""Whose fault a failure to read an image is: the file's, which is skipped, or the machine's, which ends the work."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import UnidentifiedImageError

from senet.errors import DataError

__all__ = ["CorruptImage", "as_corrupt_image", "is_machine_fault"]

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
"""Errors of the system that say something about the file. All others (EIO, ESTALE, ETIMEDOUT, ...) don't."""

ABOUT_THE_FILE = (
    FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, UnidentifiedImageError,
)  # fmt: skip
"""The same where an error comes without a number."""

NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


class CorruptImage(DataError):  # noqa: N818 - named as what it is
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


@contextmanager
def as_corrupt_image(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever Pillow's decoders raise about a file into `CorruptImage`.

    Raises:
        CorruptImage: The file can't be read, or holds no image.
        OSError: The disk, the network or the system failed, which says nothing about the file; it names the file.
        MemoryError: Memory ran out; it names the file.
    """
    try:
        yield
    except CorruptImage:
        raise
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, IndexError, ...
        if is_machine_fault(error):
            named = _named(error, os.fspath(path))
            if named is error:
                raise
            raise named from error
        raise CorruptImage(path, _reason(error)) from error


def is_machine_fault(error: BaseException) -> bool:
    """Whether a failure says something about memory, disk, network or system, and nothing about the file."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, RuntimeError):  # PyTorch's
        return any(words in str(error).lower() for words in NO_MEMORY)
    if not isinstance(error, OSError):
        return False
    if error.errno is not None:
        return error.errno not in REASONS
    if type(error) is OSError:  # Pillow's own, of a damaged file; but one of them is about memory
        return any(words in str(error).lower() for words in NO_MEMORY)
    return not isinstance(error, ABOUT_THE_FILE)


def _named(error: Exception, path: str) -> Exception:
    """The same failure, with the file at which it happened."""
    if not isinstance(error, OSError) or (error.errno is None and type(error) is OSError):
        told = isinstance(error, MemoryError) and path in str(error)
        return error if told else MemoryError(f"{path}: memory ran out while the image was decoded")
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
