"""What the parity tests share: tables of names, one a peer; random weights that hide nothing; the comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.nn import Attention
from senet.weights import LAYOUTS
from senet.weights.from_pytorchcv import SHAKE
from senet.weights.rules import Table

FLOAT32_TOLERANCE = 1e-4
"""Largest deviation of any logit, relative to the largest logit: float32 sums in another order."""

FLOAT64_TOLERANCE = 1e-9
"""The same in float64: what is left when rounding is no excuse."""


def shared(path: str) -> Path:
    """A file of the folder `shared` beside the checkout; the test that asks for it is skipped where it's absent."""
    found = Path(__file__).resolve().parents[2].parent / "shared" / path
    if not found.exists():
        pytest.skip(f"{found.name} is not in {found.parent}")
    return found


@dataclass(frozen=True)
class Naming:
    """How a peer calls the pieces of its networks.

    Attributes:
        block: Pattern of a block's prefix, with the numbers of its stage and of itself.
        first: The numbers that its first stage and its first block have.
        inside: Patterns of what follows that prefix, to our names.
        outside: Patterns of all other keys, to our names.
    """

    unit: str
    first: tuple[int, int]
    inside: Mapping[str, str]
    outside: Mapping[str, str]

    def translate(self, key: str) -> str:
        """Our name for one key of the peer; a key that not exactly one rule takes is an error."""
        prefix, rest, rules = "", key, self.outside
        if found := re.fullmatch(self.unit + "(.+)", key):
            stage, unit, rest = int(found[1]), int(found[2]), found[3]
            prefix, rules = f"stages.{stage - self.first[0] + 2}.{unit - self.first[1]}.", self.inside
        names = [m.expand(ours) for theirs, ours in rules.items() if (m := re.fullmatch(theirs, rest))]
        assert len(names) == 1, f"{key}: {len(names)} rules take it"
        return prefix + names[0]


def _table(layout: str, title: str) -> Table:
    [found] = [table for table in LAYOUTS[layout] if table.title == title]
    return found


TORCHVISION = _table("timm", "timm's SE-ResNets")
"""torchvision's ResNets, and timm's, which add `se`."""

TIMM_LEGACY = _table("cadene", "Cadene's (timm's legacy) SE networks")
"""timm's `legacy_se*`: the Cadene port of the authors' released networks."""

PYTORCHCV = _table("pytorchcv", "pytorchcv's ResNets for CIFAR")
PYTORCHCV_PREACT = _table("pytorchcv", "pytorchcv's pre-activation ResNets for CIFAR")
PYTORCHCV_SE_PREACT = _table("pytorchcv", "pytorchcv's pre-activation SE-ResNets for CIFAR")
PYTORCHCV_SHAKE = SHAKE


def adopt(ours: nn.Module, peer: nn.Module, table: Table) -> nn.Module:
    """Give our network, made on the meta device, the peer's weights: keys and shapes must fit, conventions need not."""
    found, own = table.translate(peer.state_dict()), ours.state_dict()
    assert not found.leftover
    assert {key: t.shape for key, t in found.tensors.items()} == {key: t.shape for key, t in own.items()}
    ours.load_state_dict(found.tensors, strict=True, assign=True)
    return ours.eval()


def pictures(count: int, size: tuple[int, int], *, channels: int = 3) -> Tensor:
    """Images that differ in colour, contrast and pattern, so that their averages differ too."""
    random = torch.Generator().manual_seed(7)
    coarse = torch.randn(count, channels, 3, 3, generator=random)
    smooth = nn.functional.interpolate(coarse, size, mode="bilinear")
    return 1.5 * smooth + 0.5 * torch.randn(count, channels, *size, generator=random)


@torch.no_grad()
def randomise(model: nn.Module, images: Tensor, *, seed: int = 0) -> nn.Module:
    """Make every weight, bias and statistic count, and keep the activations in range at any depth.

    He-distributed convolutions, gammas in 0.5..1.5, betas around 0; running statistics near those that
    `images` have, but off by random amounts. Excitations are strong, so that gates spread over 0..1.
    """
    model.to_empty(device="cpu")
    random = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, std: float) -> None:
        tensor.normal_(0, std, generator=random)

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain = 4 if re.search(r"\bse(_module)?\b", name) else 2
            normal(module.weight, (gain / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                normal(module.bias, 0.5)
        elif isinstance(module, _BatchNorm):
            module.weight.uniform_(0.5, 1.5, generator=random)
            normal(module.bias, 0.3)
            module.reset_running_stats()
            module.momentum = 1.0
    model.train()(images)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            variance = module.running_var
            off = torch.randn(variance.shape, generator=random)
            module.running_mean += 0.3 * off * variance.sqrt()
            variance *= torch.rand(variance.shape, generator=random) * 0.5 + 0.8
            variance += 0.1 * variance.mean()
    return model.eval()


@torch.no_grad()
def gates(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Every attention block's gate on these images, (N, C) each."""
    found: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda block, args: found.append(block.gate(args[0]).flatten(1)))
        for module in model.modules()
        if isinstance(module, Attention)
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def deviation(ours: nn.Module, peer: nn.Module, images: Tensor) -> float:
    """Largest difference of any logit, relative to the largest logit; both must be worth comparing."""
    want, got = peer(images), ours(images)
    assert want.shape == got.shape
    assert want.isfinite().all()
    scale = want.abs().max().item()
    assert want.std(1).min() > 0.05 * scale, "the logits of an image hardly differ: equality would prove nothing"
    assert want.std(0).max() > 0.01 * scale, "the images hardly differ: equality would prove nothing"
    return (want - got).abs().max().item() / scale


def assert_gates_vary(model: nn.Module, images: Tensor, blocks: int) -> None:
    """Each block must tell channels apart, and most of them images: else a wrong gate could hide."""
    found = gates(model, images)
    assert len(found) == blocks
    over_channels = torch.stack([gate.std(1).mean() for gate in found])
    over_images = torch.stack([gate.std(0).mean() for gate in found])
    assert over_channels.min() > 0.05, over_channels
    assert over_images.median() > 0.01, over_images
    open_part = torch.stack([((gate > 0.02) & (gate < 0.98)).float().mean() for gate in found])
    assert open_part.min() > 0.2, "a saturated gate hides its argument"
