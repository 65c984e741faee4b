"""The message for weights that do not fit a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from senet.weights.diagnostics import diagnose
from senet.weights.matching import Match
from senet.weights.rules import Translation
from senet.weights.values import dtype_kind_differs

__all__ = ["COUNTER", "described_key", "mismatch"]

COUNTER: Final = "num_batches_tracked"
"""Name of the norms' counters. Old files lack them."""


def mismatch(
    wanted: Mapping[str, Tensor],
    fit: Match,
    own: Mapping[str, Tensor],
    newly_initialized: Sequence[str],
    *,
    explained: bool,
) -> str:
    """Describe the mismatch between a file and a network, its likely cause and a remedy.

    Args:
        wanted: Tensors to load, under the network's names.
        fit: The part of the file that they are from.
        own: The network's state dict.
        newly_initialized: Keys of the network that keep their weights.
        explained: Whether the network is of this package, so that options may explain the mismatch.

    Returns:
        The text, empty where everything fits.
    """
    found = fit.found
    learnt = {key for key in own if not key.endswith(COUNTER)} - set(newly_initialized)
    unknown = [*found.leftover, *(found.sources[key] for key in wanted.keys() - own.keys())]
    extra = sorted(key for key in unknown if key not in fit.left_out)
    missing = sorted(learnt - wanted.keys())
    shapes = [
        (key, tuple(wanted[key].shape), tuple(own[key].shape))
        for key in own
        if key in wanted and wanted[key].shape != own[key].shape
    ]
    shapes += [
        (theirs, tuple(bias.shape), tuple(own[key].shape))
        for key, (theirs, bias) in found.biases.items()
        if key in own and bias.shape != own[key].shape
    ]
    kinds = [
        (described_key(key, found), tensor.dtype)
        for key, tensor in wanted.items()
        if dtype_kind_differs(tensor, own.get(key))
    ]
    kinds += [
        (theirs, bias.dtype) for key, (theirs, bias) in found.biases.items() if dtype_kind_differs(bias, own.get(key))
    ]
    problems = []
    if shapes:
        key, theirs, ours = shapes[0]
        problems.append(f"{described_key(key, found)} is {theirs} in the file and {ours} in the network{_more(shapes)}")
    if extra:
        problems.append(f"{extra[0]} has no counterpart in the network{_more(extra)}")
    if missing:
        problems.append(f"{missing[0]} is missing in the file{_more(missing)}")
    if kinds and not problems:
        problems.append(f"{kinds[0][0]} is {kinds[0][1]} in the file{_more(kinds)}")
    if not problems:
        return ""
    cause = diagnose(wanted, own) if explained else ""
    if not cause and extra and not shapes and not missing:
        cause = f"--ignore {_pattern(extra)!r} (ignore=[...]) skips it"
    elif not cause and missing and all(key.startswith("head.fc.") for key in missing) and not extra and not shapes:
        cause = "The file has no classifier; transfer=True keeps the network's own"
    return "; ".join(problems) + (f". {cause}" if cause else "")


def _pattern(keys: Sequence[str]) -> str:
    """Return a shell-style pattern for these keys."""
    parts = {key.partition(".")[0] for key in keys}
    return f"{parts.pop()}.*" if len(parts) == 1 and "." in keys[0] else keys[0]


def described_key(key: str, found: Translation) -> str:
    """Name a key as in the file, and as in the network where it differs."""
    theirs = found.sources.get(key, key)
    return key if theirs == key else f"{theirs} (here {key})"


def _more(things: list[Any]) -> str:
    return f" ({len(things)} in all)" if len(things) > 1 else ""
