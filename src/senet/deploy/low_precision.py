"""Networks that compute in bf16 or fp16, with float32 inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

__all__ = ["DTYPES", "InPrecision", "lowered", "lowered_detector"]

DTYPES: Final[Mapping[str, torch.dtype]] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Value of `--precision` to its type."""

CONVOLUTIONAL: Final = ("backbone", "head", "rpn.head", "roi_heads.box_head", "roi_heads.box_predictor")
"""Parts of torchvision's detectors that compute feature maps and logits. The rest computes coordinates."""


@final
class InPrecision(nn.Module):
    """A network in a precision, with its input converted to it, and its outputs to float32.

    Args:
        network: Any network. Its parameters are converted in place.
        dtype: The type.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, x: Any) -> Any:
        """A float tensor, or a list or dictionary of them -> the network's output in float32."""
        return _converted(self.network(_converted(x, self.dtype)), torch.float32)


def _converted(values: Any, dtype: torch.dtype) -> Any:
    return tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, values)


def lowered(network: nn.Module, precision: str) -> nn.Module:
    """Return the network in bf16 or fp16."""
    return InPrecision(network, DTYPES[precision])


def lowered_detector(detector: nn.Module, precision: str) -> nn.Module:
    """Let a detector compute its feature maps and logits in bf16 or fp16, in place. Boxes stay in float32.

    In fp16 a coordinate of 800 pixels would be a multiple of half a pixel.
    """
    for path in CONVOLUTIONAL:
        owner, _, name = path.rpartition(".")
        parent = _part(detector, owner)
        if parent is not None and isinstance(getattr(parent, name, None), nn.Module):
            setattr(parent, name, InPrecision(getattr(parent, name), DTYPES[precision]))
    return detector


def _part(module: nn.Module, path: str) -> nn.Module | None:
    return module if not path else getattr(module, path, None)
