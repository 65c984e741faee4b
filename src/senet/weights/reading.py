"""A state dict from a file, whoever wrote it; no file can run code here."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor

from senet.errors import CheckpointError
from senet.weights.checkpoint import read_checkpoint
from senet.weights.contents import Contents, check, flattened
from senet.weights.from_caffe import read_caffemodel
from senet.weights.safe_pickle import placeholders

__all__ = ["read_contents", "read_tensors"]

_ZIP: Final = b"PK\x03\x04"
_PICKLE: Final = b"\x80\x02"
"""How PyTorch's files before version 1.6 begin."""
_REMEDY: Final = "In the program that made it, save torch.save(model.state_dict(), FILE)"
_MOST_UNPACKED, _SLACK_BYTES = 16, 1 << 26


def read_contents(path: Path) -> Contents:
    """Read all that a file holds.

    Args:
        path: A `.safetensors` or `.caffemodel` file, a checkpoint of this package or its folder, or PyTorch's file,
            whatever its suffix.

    Raises:
        CheckpointError: Missing, truncated, altered, of another format, or with what only running code could read.
    """
    path = Path(path)
    if path.is_dir():
        return flattened(read_checkpoint(path)[0], str(path))
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return flattened(_reader(path)(path), str(path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the largest state dict in a file under its own names, without what it is wrapped in.

    Of several as large, an average over training is taken.

    Raises:
        CheckpointError: As `read_contents`; or with values that are no finite numbers.
    """
    contents = read_contents(path).plain(())
    sizes = Counter(entry.prefix for entry in contents.entries if isinstance(entry.value, Tensor))
    tensors = contents.below(max(sizes, key=lambda prefix: (sizes[prefix], contents.is_averaged(prefix))))
    check(tensors, contents.source)
    return tensors


def _reader(path: Path) -> Callable[[Path], Any]:
    """By the suffix; a file of another name is asked how it begins."""
    if path.suffix in _READERS:
        return _READERS[path.suffix]
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return _safetensors
    if start.startswith((_ZIP, _PICKLE)):
        return _torch_file
    raise CheckpointError(f"{path}: weights are read from {', '.join(sorted(_READERS))}")


def _safetensors(path: Path) -> dict[str, Tensor]:
    if path.with_suffix(".json").is_file():  # our own: its hash is known
        return read_checkpoint(path)[0]
    try:
        return load_file(path)
    except Exception as error:  # its own types, and those of PyTorch for types that it doesn't know
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error


def _torch_file(path: Path) -> Any:
    _check_archive(path)
    try:
        with warnings.catch_warnings(), placeholders():
            warnings.simplefilter("ignore")  # of the pickle's protocol: it loads or it doesn't
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        with path.open("rb") as file:
            start = file.read(40)
        if found is None and start.isascii() and start[:1] in b"<v{":
            raise CheckpointError(
                f"{path}: no PyTorch file but a text ({start.decode()!r} ...), as of a web page or a Git LFS pointer; "
                "download the file itself"
            ) from error
        what = f"holds {found[1]}" if found else f"is no plain checkpoint ({_first_sentence(error)})"
        raise CheckpointError(
            f"{path}: {what}, and reading that could run code; nothing was loaded. {_REMEDY}"
        ) from error
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise CheckpointError(f"{path}: not a whole PyTorch file ({_first_sentence(error) or 'empty'})") from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to many times its size (PyTorch doesn't compress), or that holds a program."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            names = {entry.filename.partition("/")[2] for entry in archive.infolist()}
    except Exception:  # no archive, or a damaged one: the reader says so
        return
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path}: a TorchScript program, not weights; save torch.jit.load(FILE).state_dict() with torch.save"
        )
    if size > _MOST_UNPACKED * path.stat().st_size + _SLACK_BYTES:
        raise CheckpointError(f"{path}: its {path.stat().st_size:,} bytes unpack to {size:,}; no weights do")


def _first_sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0]


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _safetensors,
    ".caffemodel": read_caffemodel,
    **dict.fromkeys((".pth", ".pt", ".th", ".bin", ".pkl", ".tar", ".ckpt"), _torch_file),
}
