"""A state dict from a file, whoever wrote it; no file can run code here."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from senet.errors import CheckpointError
from senet.weights.checkpoint import read_checkpoint
from senet.weights.from_caffe import read_caffemodel
from senet.weights.values import overclaimed, unreadable
from senet.weights.wrappers import bare

__all__ = ["checked", "read_tensors"]

_MOST_UNPACKED, _SLACK_BYTES = 16, 1 << 26
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read `.safetensors`, `.pth`, `.pt`, `.th`, `.bin`, `.pkl` or `.caffemodel`; wrappers and prefixes are taken off.

    Raises:
        CheckpointError: Missing, truncated, altered, of another format, with anything but tensors, or with values
            that are no finite numbers.
    """
    path = Path(path)
    if path.is_dir():
        return read_checkpoint(path)[0]
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix not in _READERS:
        raise CheckpointError(f"{path}: weights are read from {', '.join(sorted(_READERS))}")
    return checked(_READERS[path.suffix](path), str(path))


def checked(content: Any, source: str) -> dict[str, Tensor]:
    """The state dict inside `content`, with only finite tensors.

    Args:
        content: A state dict, perhaps in a wrapper such as `{"state_dict": ...}`.
        source: What it is called in messages.

    Raises:
        CheckpointError: There is something else in it.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source}: holds a {type(content).__name__}, not a state dict")
    for _ in _WRAPPERS:  # no deeper than that: a pickle can hold itself
        content = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), content)
    if not content:
        raise CheckpointError(f"{source}: no weights in it")
    for key, value in content.items():
        if not isinstance(key, str) or not key or not key.isprintable():
            raise CheckpointError(f"{source}: {key!r} is no name of a weight")
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{source}: {key} is a {type(value).__name__}, not a tensor")
    tensors = dict(content)
    wrong = overclaimed(tensors)
    if wrong:
        raise CheckpointError(f"{source}: {wrong}")
    for key, value in tensors.items():
        wrong = unreadable(value)
        if wrong:
            raise CheckpointError(f"{source}: {key} {wrong}")
    return bare(tensors, source)


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol: it loads or it doesn't
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)|Unsupported (?:class|global) (\S+)", str(error))
        what = next((name for name in found.groups() if name), None) if found else None
        reason = f"it would call {what}" if what else _first_sentence(error)
        raise CheckpointError(
            f"{path}: not only weights, and loading the rest could run code; nothing was loaded ({reason})"
        ) from error
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise CheckpointError(f"{path}: not a whole PyTorch file ({_first_sentence(error) or 'empty'})") from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to many times its size: PyTorch doesn't compress."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # no archive, or a damaged one: the reader says so
        return
    if size > _MOST_UNPACKED * path.stat().st_size + _SLACK_BYTES:
        raise CheckpointError(f"{path}: its {path.stat().st_size:,} bytes unpack to {size:,}; no weights do")


def _first_sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0]


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _safetensors,
    ".caffemodel": read_caffemodel,
    **dict.fromkeys((".pth", ".pt", ".th", ".bin", ".pkl", ".tar"), _torch_file),
}
