"""A small network, and images for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import senet

CLASSES = ("cat", "dog", "a very long name of a class <b>&amp;</script>")


def network(**options: object) -> nn.Module:
    """A network with varying gates: no parameter has its initial value."""
    torch.manual_seed(0)
    # Four hidden units at least: a single one may be dead, and its gate constant.
    model = senet.create_model("se_cifar_resnet20", num_classes=3, **{"attention": senet.SE(reduction=4)} | options)
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.ndim == 1 and tensor.is_floating_point():
            nn.init.uniform_(tensor.data, 0.5, 1.5) if "var" in key else nn.init.normal_(tensor.data, 0.4, 0.3)
    return model


def batches(count: int = 4, size: int = 6) -> list[tuple[Tensor, Tensor]]:
    """Images whose classes differ in brightness."""
    draw = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        labels = torch.randint(0, 3, (size,), generator=draw)
        found.append((torch.randn(size, 3, 32, 32, generator=draw) + labels[:, None, None, None], labels))
    return found
