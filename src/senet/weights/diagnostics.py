"""Likely causes of a mismatch between weights and a network, found from keys and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from senet.nn import ROUNDINGS, hidden_width

__all__ = ["diagnose"]

_HIDDEN = ".fc1.weight"
_REDUCTIONS = (2, 4, 8, 16, 32, 64)


def diagnose(wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Name the likely cause of a mismatch in one sentence, empty where no known mistake explains it.

    Args:
        wanted: The file's tensors under our names.
        own: The network's state dict.
    """
    for find in (_kind, _plain_or_attention, _biases, _widths, _classes, _channels, _blocks, _shortcuts, _stem_norm):
        found = find(wanted, own)
        if found:
            return f"Likely cause: {found}"
    return ""


def _kind(wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Detect another family: its weights have other names inside the blocks."""
    theirs, ours = ({re.sub(r"stages\.\d+\.\w+\.", "", key) for key in set(t) - set(_se(t))} for t in (wanted, own))
    return "" if 2 * len(theirs & ours) >= len(theirs | ours) else "the file is of another network family"


def _se(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if ".se." in key}


def _plain_or_attention(wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    theirs, ours = bool(_se(wanted)), bool(_se(own))
    if theirs == ours:
        return ""
    has, hasnt = ("the file", "the network") if theirs else ("the network", "the file")
    return f"{has} has SE blocks and {hasnt} has none; use the {'se_' if theirs else 'plain'} variant of the network"


def _biases(wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    theirs, ours = (any(key.endswith(".bias") for key in _se(tensors)) for tensors in (wanted, own))
    if theirs == ours:
        return ""
    return (
        f"the file's SE blocks have {'biases' if theirs else 'no biases'}; "
        f"build the network with attention=senet.SE(bias={theirs})"
    )


def _widths(wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    theirs, ours = _hidden(wanted), _hidden(own)
    if all(theirs[key] == ours[key] for key in theirs.keys() & ours.keys()):
        return ""
    there, here = _reduction(theirs), _reduction(ours)
    if there is None or here is None:
        return "the SE blocks' hidden widths differ; set them with attention=senet.SE(hidden_channels=...)"
    if there[0] == here[0]:
        return (
            f"checkpoint rounding={there[1]!r}, model rounding={here[1]!r}; build the network with "
            f"attention=senet.SE(rounding={there[1]!r})"
        )
    return (
        f"checkpoint reduction={there[0]}, model reduction={here[0]}; build the network with "
        f"attention=senet.SE(reduction={there[0]}{'' if there[1] == 'floor' else f', rounding={there[1]!r}'})"
    )


def _hidden(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    return {
        key: (tensor.shape[0], tensor.shape[1])
        for key, tensor in _se(tensors).items()
        if key.endswith(_HIDDEN) and tensor.ndim == 2
    }


def _reduction(widths: Mapping[str, tuple[int, int]]) -> tuple[int, str] | None:
    """Find the reduction and the rounding that give all these widths."""
    for rounding in sorted(ROUNDINGS):
        for reduction in _REDUCTIONS:
            if all(c >= reduction and hidden_width(c, reduction, rounding) == h for h, c in widths.values()):
                return reduction, rounding
    return None


def _classes(wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    for key, tensor in own.items():
        there = wanted.get(key)
        if key != "head.fc.bias" or there is None or there.ndim != 1 or tensor.ndim != 1:
            continue
        if there.shape != tensor.shape:
            return f"checkpoint num_classes={len(there)}, model num_classes={len(tensor)}"
    return ""


def _channels(wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    for key, tensor in own.items():
        if tensor.ndim == 4:
            there = wanted.get(key)
            if there is not None and there.ndim == 4 and there.shape[1] != tensor.shape[1]:
                return f"checkpoint in_channels={there.shape[1]}, model in_channels={tensor.shape[1]}"
            return ""
    return ""


def _blocks(wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    theirs, ours = _depths(wanted), _depths(own)
    if theirs == ours:
        return ""
    return f"checkpoint depths={tuple(theirs.values())}, model depths={tuple(ours.values())}"


def _shortcuts(wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Checked after the depths: with equal depths, these are small networks for CIFAR."""
    theirs, ours = (any(".shortcut." in key for key in tensors) for tensors in (wanted, own))
    if theirs == ours:
        return ""
    has = "weights" if theirs else "no weights"
    return f"the file's shortcuts have {has}; build the network with projection={theirs}"


def _stem_norm(wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Pre-activation networks have a final norm. pytorchcv's with SE have a norm in the stem instead."""
    stems, ends = ([any(key.startswith(part) for key in t) for t in (wanted, own)] for part in ("stem.1.", "final."))
    if stems[0] == stems[1] or ends[0] == ends[1] or stems[0] == ends[0]:
        return ""
    return (
        f"the file's norm is {'in its stem' if stems[0] else 'at its end'}; build the network with stem_norm={stems[0]}"
    )


def _depths(tensors: Mapping[str, Tensor]) -> dict[int, int]:
    found: dict[int, set[str]] = {}
    for key in tensors:
        block = re.match(r"stages\.(\d+)\.(\w+)\.", key)
        if block:
            found.setdefault(int(block[1]), set()).add(block[2])
    return {stage: len(found[stage]) for stage in sorted(found)}
