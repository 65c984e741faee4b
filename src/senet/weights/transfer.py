"""Adapt weights to another number of classes or input channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

__all__ = ["adapt_stem", "drop_head", "stem_weight"]

_MOST_CHANNELS: Final = 65_535


def drop_head(wanted: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Remove the classifier's tensors that do not fit, and return the network's keys that keep their weights."""
    headless = not any(key.startswith("head.") for key in own)
    for key in [key for key in wanted if headless and key.startswith(("head.fc.", "head.hidden."))]:
        del wanted[key]
    head = [key for key in own if key.startswith("head.fc.")]
    if not any(key in wanted for key in head):
        return head
    newly_initialized = [key for key in head if key in wanted and _num_classes_differs(wanted[key], own[key])]
    for key in newly_initialized:
        del wanted[key]
    return newly_initialized


def _num_classes_differs(given: Tensor, own: Tensor) -> bool:
    """Whether only the first dimension differs: the number of classes."""
    return given.ndim == own.ndim and given.shape[1:] == own.shape[1:] and given.shape != own.shape


def adapt_stem(
    model: nn.Module, wanted: dict[str, Tensor], own: Mapping[str, Tensor], actual: Mapping[str, str]
) -> None:
    """Adapt the first convolution's weights to the network's number of input channels."""
    first = next((f"{path}.weight" for path, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    key = next((plain for plain, name in actual.items() if name == first), "")
    if key not in wanted:
        return
    there, here = wanted[key].shape, own[key].shape
    # Checked first, since a tensor of another shape may claim any size.
    if len(there) == 4 and 0 < there[1] <= _MOST_CHANNELS and (there[0], *there[2:]) == (here[0], *here[2:]):
        wanted[key] = stem_weight(wanted[key], here[1]) if there[1] != here[1] else wanted[key]


def stem_weight(weight: Tensor, channels: int) -> Tensor:
    """Adapt a first convolution's weight (out, C, H, W) to another number of input channels.

    For one channel the input channels are summed. Otherwise they are repeated in turn and scaled by C / channels.
    """
    given = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, [c % given for c in range(channels)]] * (given / channels)
