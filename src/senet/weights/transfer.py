"""Weights for another number of classes or channels than the network's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

__all__ = ["adapt_stem", "leave_head", "stem_weight"]

_MOST_CHANNELS: Final = 65_535


def leave_head(wanted: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Take out what doesn't fit the head; what the network keeps there."""
    headless = not any(key.startswith("head.") for key in own)
    for key in [key for key in wanted if headless and key.startswith(("head.fc.", "head.hidden."))]:
        del wanted[key]
    head = [key for key in own if key.startswith("head.fc.")]
    if not any(key in wanted for key in head):
        return head
    newly_initialized = [key for key in head if key in wanted and _fewer_or_more(wanted[key], own[key])]
    for key in newly_initialized:
        del wanted[key]
    return newly_initialized


def _fewer_or_more(given: Tensor, own: Tensor) -> bool:
    """Whether the first dimension alone differs: the number of classes."""
    return given.ndim == own.ndim and given.shape[1:] == own.shape[1:] and given.shape != own.shape


def adapt_stem(
    model: nn.Module, wanted: dict[str, Tensor], own: Mapping[str, Tensor], actual: Mapping[str, str]
) -> None:
    """Give a first convolution for other channels weights made from the file's."""
    first = next((f"{path}.weight" for path, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    key = next((plain for plain, name in actual.items() if name == first), "")
    if key not in wanted:
        return
    there, here = wanted[key].shape, own[key].shape
    # Checked first: what doesn't fit anyway may claim any size.
    if len(there) == 4 and 0 < there[1] <= _MOST_CHANNELS and (there[0], *there[2:]) == (here[0], *here[2:]):
        wanted[key] = stem_weight(wanted[key], here[1]) if there[1] != here[1] else wanted[key]


def stem_weight(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weight (out, C, H, W) for another number of input channels.

    For one channel their sum; else they are repeated in turn and scaled by C / channels.
    """
    given = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, [c % given for c in range(channels)]] * (given / channels)
