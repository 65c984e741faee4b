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
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from senet.errors import CheckpointError
from senet.weights.checkpoint import read_checkpoint
from senet.weights.from_caffe import read_caffemodel

__all__ = ["all_finite", "checked", "read_tensors"]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read `.safetensors`, `.pth`, `.pt`, `.th`, `.bin`, `.pkl` or `.caffemodel`; wrappers and prefixes are taken off.

    Raises:
        CheckpointError: Missing, truncated, altered, of another format, with anything but tensors, or with values
            that are no finite numbers.
    """
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
        if value.layout is not torch.strided or value.is_quantized:
            raise CheckpointError(f"{source}: {key} is sparse or quantized; only plain tensors are read")
        if value.is_floating_point() and not value.is_meta and not all_finite(value):
            raise CheckpointError(f"{source}: {key} holds values that are no finite numbers")
    return _bare(dict(content))


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is infinite or no number."""
    if tensor.itemsize == 1:  # nothing is computed in floats of a byte
        tensor = tensor.float()
    # A finite sum has finite terms only, and is found several times faster; an infinite one may have overflown.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that wrappers of networks put before every key."""
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            return _bare({key.removeprefix(prefix): tensor for key, tensor in tensors.items()})
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    if path.with_suffix(".json").is_file():  # our own: its hash is known
        return read_checkpoint(path)[0]
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error


def _torch_file(path: Path) -> Any:
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
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError,
            IndexError, AssertionError, OverflowError, MemoryError) as error:  # fmt: skip
        raise CheckpointError(f"{path}: not a whole PyTorch file ({_first_sentence(error) or 'empty'})") from error


def _first_sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0]


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _safetensors,
    ".caffemodel": read_caffemodel,
    **dict.fromkeys((".pth", ".pt", ".th", ".bin", ".pkl", ".tar"), _torch_file),
}
