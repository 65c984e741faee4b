"""Read state dicts from files of this package and other libraries, without running code of the file."""

from __future__ import annotations

import os
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
from senet.weights.contents import Contents, check_tensors, flattened
from senet.weights.from_caffe import read_caffemodel
from senet.weights.safe_pickle import placeholders

__all__ = ["read_contents", "read_tensors"]

_ZIP: Final = b"PK\x03\x04"
_PICKLE: Final = b"\x80\x02"
"""First bytes of PyTorch's files before version 1.6."""
_REMEDY: Final = "In the program that made it, use torch.save(model.state_dict(), FILE)"
_MOST_UNPACKED, _SLACK_BYTES = 16, 1 << 26


def read_contents(path: Path) -> Contents:
    """Read all values of a file.

    Args:
        path: A `.safetensors` or `.caffemodel` file, a checkpoint of this package or its folder, or a PyTorch file
            with any suffix.

    Raises:
        CheckpointError: The file is missing, truncated, altered, of another format, or needs code to be run.
    """
    path = Path(path)
    if path.is_dir():
        return flattened(read_checkpoint(path)[0], str(path))
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return flattened(_reader(path)(path), str(path))


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the largest state dict in a file, without its wrappers, under the file's own names.

    Among state dicts of equal size, an average over training (EMA, SWA) is preferred.

    Args:
        path: A `.safetensors` or `.caffemodel` file, a checkpoint of this package or its folder, or a PyTorch file
            with any suffix.

    Raises:
        CheckpointError: The file is missing, truncated, altered, of another format, needs code to be run, or has
            non-finite values.

    Example:
        >>> import tempfile, torch
        >>> from senet.weights import read_tensors
        >>> path = f"{tempfile.mkdtemp()}/trained.ckpt"
        >>> torch.save({"epoch": 3, "state_dict": {"module.fc.weight": torch.ones(2, 4)}}, path)
        >>> read_tensors(path)["fc.weight"].shape
        torch.Size([2, 4])
    """
    contents = read_contents(Path(path)).plain(())
    sizes = Counter(entry.prefix for entry in contents.entries if isinstance(entry.value, Tensor))
    tensors = contents.below(max(sizes, key=lambda prefix: (sizes[prefix], contents.is_averaged(prefix))))
    check_tensors(tensors, contents.source)
    return tensors


def _reader(path: Path) -> Callable[[Path], Any]:
    """Choose the reader by the suffix, else by the first bytes."""
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
    if path.with_suffix(".json").is_file():  # a checkpoint of this package, with a known hash
        return read_checkpoint(path)[0]
    try:
        return load_file(path)
    except Exception as error:  # the library's own types, and PyTorch's for unknown dtypes
        raise CheckpointError(f"{path}: not a complete safetensors file ({error})") from error


def _torch_file(path: Path) -> Any:
    _check_archive(path)
    try:
        with warnings.catch_warnings(), placeholders():
            warnings.simplefilter("ignore")  # warnings of the pickle protocol
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        with path.open("rb") as file:
            start = file.read(40)
        if found is None and start.isascii() and start[:1] in b"<v{":
            raise CheckpointError(
                f"{path}: not a PyTorch file but text ({start.decode()!r} ...), like a web page or a Git LFS pointer; "
                "download the file itself"
            ) from error
        what = f"contains {found[1]}" if found else f"is not a plain checkpoint ({_first_sentence(error)})"
        raise CheckpointError(
            f"{path}: {what}, and reading it could run code; nothing was loaded. {_REMEDY}"
        ) from error
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise CheckpointError(f"{path}: not a complete PyTorch file ({_first_sentence(error) or 'empty'})") from error


def _check_archive(path: Path) -> None:
    """Refuse TorchScript programs, and archives that unpack to many times their size (PyTorch doesn't compress)."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            names = {entry.filename.partition("/")[2] for entry in archive.infolist()}
    except Exception:  # not an archive, or a damaged one: the reader reports it
        return
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path}: a TorchScript program, not weights; save torch.jit.load(FILE).state_dict() with torch.save"
        )
    if size > _MOST_UNPACKED * path.stat().st_size + _SLACK_BYTES:
        raise CheckpointError(f"{path}: its {path.stat().st_size:,} bytes unpack to {size:,}, too many for weights")


def _first_sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0]


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _safetensors,
    ".caffemodel": read_caffemodel,
    **dict.fromkeys((".pth", ".pt", ".th", ".bin", ".pkl", ".tar", ".ckpt"), _torch_file),
}
