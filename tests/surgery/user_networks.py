"""Networks as people write them: shared blocks, normalised weights, odd outputs, loops over children."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from senet.nn import Attention

WIDTH = 16


def conv(channels: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, kernel // 2)


class Residual(nn.Module):
    """One ReLU for both places, and a sum in place."""

    def __init__(self, channels: int, out: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        stride = 1 if channels == out else 2
        self.conv1, self.norm1 = conv(channels, out, stride=stride), norm(out)
        self.conv2, self.norm2 = conv(out, out), norm(out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity() if channels == out else conv(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu(y)


class Residuals(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem = conv(3, WIDTH)
        self.blocks = nn.Sequential(Residual(WIDTH, WIDTH, norm), Residual(WIDTH, 2 * WIDTH, norm))
        self.head = nn.Linear(2 * WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class LayerNormOfMaps(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Functions(nn.Module):
    """A plain stack whose activations and pools are functions."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(in_channels, WIDTH), conv(WIDTH, 2 * WIDTH)
        self.head = nn.Linear(2 * WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.head(F.relu(self.conv2(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """The same block three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = conv(3, WIDTH), Residual(WIDTH, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.block(x)
        return self.head(x.mean((2, 3)))


class Encoded(nn.Module):
    """A U-Net of one level."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = self.twice(3, WIDTH), self.twice(WIDTH, 2 * WIDTH)
        self.up, self.right = nn.ConvTranspose2d(2 * WIDTH, WIDTH, 2, 2), self.twice(2 * WIDTH, WIDTH)
        self.out = nn.Conv2d(WIDTH, 2, 1)

    @staticmethod
    def twice(channels: int, out: int) -> nn.Sequential:
        layers = [layer for i in (channels, out) for layer in (conv(i, out), nn.BatchNorm2d(out), nn.ReLU(True))]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        left = self.down(x)
        return self.out(self.right(torch.cat([self.up(self.bottom(F.max_pool2d(left, 2))), left], 1)))


class Loop(nn.Module):
    """All that it has, one after another; the last step is a function."""

    def __init__(self, children: Callable[[nn.Module], Any] = nn.Module.children) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(WIDTH, WIDTH), conv(WIDTH, WIDTH)
        self.run = children

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.run(self):
            x = F.leaky_relu(layer(x), 0.1)
        return F.dropout(x, 0.1, self.training)


class NormLast(nn.Module):
    """A loop over children that ends in a module, so that attention has a place inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = conv(channels, WIDTH), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return F.relu(x)


class Branches(nn.Module):
    """A shortcut around each branch."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.stem, self.branches, self.head = conv(3, WIDTH), nn.ModuleList(branches), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = F.relu(x + branch(x))
        return self.head(x.mean((2, 3)))


class Wrapped(nn.Module):
    """Convolutions that something wraps, with a sum as a function."""

    def __init__(self, wrap: Callable[[nn.Conv2d], nn.Module]) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = (wrap(conv(i, WIDTH)) for i in (3, WIDTH, WIDTH))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(x + self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


class InSpace(nn.Module):
    """A residual block over time or in a volume."""

    def __init__(self, ndim: int, in_channels: int, width: int = WIDTH) -> None:
        super().__init__()
        layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[ndim - 1]
        self.stem, self.conv = layer(in_channels, width, 3, padding=1), layer(width, width, 3, padding=1)
        self.norm, self.head = norm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(x + self.norm(self.conv(x))).flatten(2).mean(2))


class Quantizable(nn.Module):
    """A sum that an observer can watch."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
        self.stem, self.conv, self.norm = conv(3, WIDTH), conv(WIDTH, WIDTH), nn.BatchNorm2d(WIDTH)
        self.add, self.head = torch.ao.nn.quantized.FloatFunctional(), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.quant(x))
        x = self.add.add_relu(self.norm(self.conv(x)), x)
        return self.dequant(self.head(x.mean((2, 3))))


class DropPath(nn.Module):
    """A scaled branch that some samples leave out in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(WIDTH, WIDTH), nn.GroupNorm(4, WIDTH), nn.GELU(), nn.Conv2d(WIDTH, WIDTH, 1))
        self.gamma = nn.Parameter(torch.full((WIDTH, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) * self.gamma
        return y * (torch.rand(len(x), 1, 1, 1) > 0.1) / 0.9 if self.training else y


class Auxiliary(Residuals):
    """One output in evaluation, two in training."""

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        out = self.head(self.blocks(x).mean((2, 3)))
        return (out, x.mean((2, 3))) if self.training else out


class Checkpointed(Residuals):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(x.mean((2, 3)))


class WithTable(nn.Module):
    """An image and a table in, a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.table = Residuals(), nn.Linear(7, 5)

    def forward(self, image: Tensor, table: Tensor, scale: float = 1.0) -> dict[str, Any]:
        return {"logits": self.image(image) * scale + self.table(table), "aux": None}


class ByName(WithTable):
    def forward(self, *, image: Tensor, table: Tensor) -> Tensor:  # type: ignore[override]
        return self.image(image) + self.table(table)


class PastHooks(nn.Module):
    """Calls of `forward`, which skip hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = conv(3, WIDTH), conv(WIDTH, WIDTH), nn.BatchNorm2d(WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(x + self.norm.forward(self.conv.forward(x))).mean((2, 3)))


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.LazyConv2d(WIDTH, 3, padding=1), nn.LazyBatchNorm2d()
        self.conv2, self.head = nn.LazyConv2d(WIDTH, 3, padding=1), nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return self.head(F.relu(x + self.conv2(x)).mean((2, 3)))


class Closures(nn.Module):
    """Steps of a branch as functions that hold its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(WIDTH, WIDTH), nn.BatchNorm2d(WIDTH)
        self.steps = [lambda x: self.conv(x), lambda x, norm=self.norm: norm(x)]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


def frozen() -> nn.Module:
    return Residuals().requires_grad_(False)


IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TABLE = torch.ones(2, 7)

# Name: the network, its example inputs, and the number of places.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "residual blocks": (Residuals, IMAGES, 2),
    "group norm": (lambda: Residuals(lambda c: nn.GroupNorm(4, c)), IMAGES, 2),
    "layer norm of maps": (lambda: Residuals(LayerNormOfMaps), IMAGES, 2),
    "functions": (Functions, IMAGES, 2),
    "gray images": (lambda: Functions(1), IMAGES[:, :1], 2),
    "shared block": (Recurrent, IMAGES, 1),
    "U-Net": (Encoded, IMAGES, 6),
    "loop over children, place inside": (
        lambda: nn.Sequential(NormLast(3), NormLast(WIDTH), nn.AvgPool2d(2)),
        IMAGES,
        2,
    ),
    "old weight norm": (lambda: Wrapped(weight_norm), IMAGES, 1),
    "weight norm": (lambda: Wrapped(parametrizations.weight_norm), IMAGES, 1),
    "old spectral norm": (lambda: Wrapped(spectral_norm), IMAGES, 1),
    "spectral norm": (lambda: Wrapped(parametrizations.spectral_norm), IMAGES, 1),
    "over time": (lambda: InSpace(1, 12), torch.randn(2, 12, 50), 1),
    "in a volume": (lambda: InSpace(3, 1), torch.randn(2, 1, 8, 8, 8), 1),
    "quantizable": (Quantizable, IMAGES, 1),
    "drop path": (lambda: Branches(DropPath(), DropPath()), IMAGES, 2),
    "auxiliary output": (Auxiliary, IMAGES, 2),
    "checkpointing": (Checkpointed, IMAGES, 2),
    "two inputs": (WithTable, (IMAGES, TABLE), 2),
    "two inputs by name": (WithTable, {"image": IMAGES, "table": TABLE, "scale": 2.0}, 2),
    "inputs by name alone": (ByName, {"image": IMAGES, "table": TABLE}, 2),
    "closures": (lambda: Branches(Closures(), Closures()), IMAGES, 2),
    "frozen weights": (frozen, IMAGES, 2),
    "half weights": (lambda: Residuals().half(), IMAGES.half(), 2),
}


def gates(model: nn.Module) -> dict[str, Attention]:
    return {path: module for path, module in model.named_modules() if isinstance(module, Attention)}


def randomise_gates(model: nn.Module) -> None:
    for gate in gates(model).values():
        for parameter in gate.parameters():
            nn.init.normal_(parameter)
