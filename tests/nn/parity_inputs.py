"""What parity tests of layers compare on: random weights and feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

C = 32


def randomise(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    layer = layer.to(dtype).eval()
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if tensor.is_floating_point():
            value = torch.empty_like(tensor).normal_(0, 0.3, generator=generator)
            tensor.data.copy_(value.abs() + 0.5 if name.endswith("running_var") else value)
    return layer


def picture(dtype: torch.dtype, *size: int) -> Tensor:
    return torch.randn(3, C, *(size or (9, 7)), generator=torch.Generator().manual_seed(5), dtype=dtype)
