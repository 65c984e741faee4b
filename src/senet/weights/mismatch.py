"""Why a file's weights can't be loaded into a network, for a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from senet.weights.diagnostics import diagnose
from senet.weights.matching import Match
from senet.weights.rules import Translation
from senet.weights.values import other_kind

__all__ = ["COUNTER", "both", "mismatch"]

COUNTER: Final = "num_batches_tracked"
"""The name of norms' counters, which older files lack."""


def mismatch(
    wanted: Mapping[str, Tensor],
    fit: Match,
    own: Mapping[str, Tensor],
    newly_initialized: Sequence[str],
    *,
    explained: bool,
) -> str:
    """What is wrong, why, and what to do; empty where all fits.

    Args:
        wanted: What is to be loaded, under the network's names.
        fit: Where it is from.
        own: The network's state dict.
        newly_initialized: Keys of the network that keep their weights.
        explained: Whether it is a network of this package, whose options could be others.
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
    kinds = [(both(key, found), tensor.dtype) for key, tensor in wanted.items() if other_kind(tensor, own.get(key))]
    kinds += [(theirs, bias.dtype) for key, (theirs, bias) in found.biases.items() if other_kind(bias, own.get(key))]
    problems = []
    if shapes:
        key, theirs, ours = shapes[0]
        problems.append(f"{both(key, found)} is {theirs} in the file and {ours} in the network{_more(shapes)}")
    if extra:
        problems.append(f"{extra[0]} has no place in the network{_more(extra)}")
    if missing:
        problems.append(f"{missing[0]} is missing in the file{_more(missing)}")
    if kinds and not problems:
        problems.append(f"{kinds[0][0]} is {kinds[0][1]} in the file{_more(kinds)}")
    if not problems:
        return ""
    cause = diagnose(wanted, own) if explained else ""
    if not cause and extra and not shapes and not missing:
        cause = f"--ignore {_pattern(extra)!r} (ignore=[...]) leaves that out"
    elif not cause and missing and all(key.startswith("head.fc.") for key in missing) and not extra and not shapes:
        cause = "The file has no classifier; transfer=True leaves the network's own as it is"
    return "; ".join(problems) + (f". {cause}" if cause else "")


def _pattern(keys: Sequence[str]) -> str:
    """A pattern that a user could write for these keys."""
    parts = {key.partition(".")[0] for key in keys}
    return f"{parts.pop()}.*" if len(parts) == 1 and "." in keys[0] else keys[0]


def both(key: str, found: Translation) -> str:
    """A key as the file has it, and as it is here."""
    theirs = found.sources.get(key, key)
    return key if theirs == key else f"{theirs} (here {key})"


def _more(things: list[Any]) -> str:
    return f" ({len(things)} in all)" if len(things) > 1 else ""
