"""`optimize`: prepare a network for fast inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.errors import SenetError
from senet.fusion.convolutions import FusedConv, fused_conv
from senet.fusion.deferred import restore
from senet.fusion.flow import fuse, replace
from senet.fusion.gated_chain import GatedChain
from senet.fusion.layers import FusedBlock, FusedBranch
from senet.fusion.residual import is_foldable, is_norm
from senet.graph.inputs import ExampleInputs
from senet.graph.replica import replica
from senet.graph.trace import trace
from senet.models.resnet import BasicBranch, BottleneckBranch
from senet.models.stages import ResidualBlock
from senet.nn import SqueezeExcite
from senet.nn.epilogue import untouched
from senet.nn.precomputed import PrecomputedGate
from senet.nn.squeeze import mean

__all__ = ["OptimizeReport", "optimize"]


@dataclass
class OptimizeReport:
    """The changes made by `optimize`.

    Attributes:
        norms_folded: Number of norms folded into their convolutions.
        norms_left: Paths of the remaining norms, which follow no convolution or have hooks.
        blocks_fused: Number of residual blocks whose sum and ReLU (and scale) are one pass, or part of the convolution.
        gates_precomputed: Number of blocks whose gate is computed before their last convolution.
        chains_fused: Number of attention layers that share passes with the convolutions around them.
        not_traced: The reason why the network could not run on the example. Empty if it ran.

    Example:
        >>> import senet
        >>> _, report = senet.optimize(senet.create_model("se_cifar_resnet20"))
        >>> print(report)
        19 norms folded, 9 residual blocks fused, 0 gates precomputed
    """

    norms_folded: int = 0
    norms_left: list[str] = field(default_factory=list)
    blocks_fused: int = 0
    gates_precomputed: int = 0
    chains_fused: int = 0
    not_traced: str = ""

    def __str__(self) -> str:
        chains = f", {self.chains_fused} attention layers fused" if self.chains_fused else ""
        left = f"; {len(self.norms_left)} norms left" if self.norms_left else ""
        return (
            f"{self.norms_folded} norms folded, {self.blocks_fused} residual blocks fused, "
            f"{self.gates_precomputed} gates precomputed{chains}{left}"
        )


def optimize(model: nn.Module, example_inputs: ExampleInputs | None = None) -> tuple[nn.Module, OptimizeReport]:
    """Return an equivalent network for inference, and a report. The given network doesn't change.

    Norms and activations are folded into the convolutions before them. Inside a block, the convolution before an
    attention layer adds up the means, and the 1x1 convolution after it applies the scale. The gate of a bottleneck is
    computed from the input of its last convolution. Scale, sum and ReLU become one pass. Large weights are packed once,
    for CPUs. Layers with hooks and unknown layers stay unchanged. The result only evaluates. `torch.export` converts it
    to plain PyTorch operations.

    Args:
        model: A network of this package, of timm, of torchvision, or your own, whole or as a backbone.
        example_inputs: As in `senet.retrofit`; None guesses an image from the first convolution. A network that can't
            run on it is optimized only in this package's residual blocks.

    Returns:
        The network (in evaluation mode, parameters without gradients), and the report.

    Raises:
        SenetError: It is not a network.

    Source: Hu et al. 2018, Fig. 3; the squeeze and a 1x1 convolution are both linear, so they commute.

    Example:
        >>> import torch, senet
        >>> model, images = senet.create_model("se_cifar_resnet20").eval(), torch.rand(2, 3, 32, 32)
        >>> fast, report = senet.optimize(model)
        >>> torch.allclose(fast(images), model(images), atol=1e-4)
        True
    """
    if not isinstance(model, nn.Module):
        raise SenetError(f"optimize expects a torch.nn.Module, got {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # unwrap torch.compile: its code belongs to the old layers
    copied = replica(model, meta=False)
    restore(copied.modules())
    optimized = _Optimizing().rebuilt(copied)
    report = OptimizeReport()
    try:
        made = fuse(trace(optimized, example_inputs))
    except SenetError as error:
        made, report.not_traced = {}, str(error)
    optimized = replace(optimized, made).eval().requires_grad_(False)
    report.norms_left = [path for path, m in optimized.named_modules() if isinstance(m, _BatchNorm)]
    report.norms_folded = sum(isinstance(m, _BatchNorm) for m in model.modules()) - len(report.norms_left)
    blocks = [m for m in optimized.modules() if isinstance(m, FusedBlock)]
    report.blocks_fused = len(blocks)
    report.gates_precomputed = sum(isinstance(block.se, PrecomputedGate) for block in blocks)
    report.chains_fused = sum(isinstance(m, GatedChain) for m in optimized.modules())
    return optimized, report


class _Optimizing:
    """One run of `optimize`. A layer with several names is replaced under all of them by the same new one."""

    def __init__(self) -> None:
        self.made: dict[nn.Module, nn.Module] = {}

    def rebuilt(self, module: nn.Module) -> nn.Module:
        """Return the module or its replacement, children first."""
        if module not in self.made:
            self.made[module] = module  # already set while its children are rebuilt
            self.made[module] = self._rebuilt(module)
        return self.made[module]

    def _rebuilt(self, module: nn.Module) -> nn.Module:
        if "forward" in module.__dict__:
            return module  # a replaced forward may call its children in any way
        branch = _BRANCHES.get(type(module))
        if branch is not None:
            return (branch(module) if untouched(module) else None) or module
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = self.rebuilt(child)
        return _block(module) if isinstance(module, ResidualBlock) and untouched(module) else module


def _conv(conv: nn.Module, norm: nn.Module, *, relu: bool) -> FusedConv | None:
    """Return the folded convolution, or None if this isn't a foldable pair."""
    if (
        isinstance(conv, nn.Conv2d)
        and type(norm) is nn.BatchNorm2d
        and is_foldable(conv)
        and is_norm(norm)
        and untouched(conv, norm)
    ):
        return fused_conv(conv, norm, activation=int(relu))
    return None


def _branch(branch: Any, pairs: tuple[tuple[str, str], ...]) -> FusedBranch | None:
    if not untouched(branch.relu):
        return None
    last = pairs[-1]
    found = [_conv(getattr(branch, c), getattr(branch, n), relu=(c, n) != last) for c, n in pairs]
    folded = [conv for conv in found if conv is not None]
    return FusedBranch(nn.Sequential(*folded[:-1]), folded[-1]) if len(folded) == len(pairs) else None


def _basic(branch: nn.Module) -> FusedBranch | None:
    return _branch(branch, (("conv1", "bn1"), ("conv2", "bn2")))


def _bottleneck(branch: nn.Module) -> FusedBranch | None:
    return _branch(branch, (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")))


_BRANCHES: Final[Mapping[type[nn.Module], Callable[[nn.Module], FusedBranch | None]]] = {
    BasicBranch: _basic,
    BottleneckBranch: _bottleneck,
}


def _block(block: ResidualBlock) -> nn.Module:
    if block.placement != "standard" or not isinstance(block.branch, FusedBranch):
        return block
    se = block.se
    if type(se) is nn.Identity and untouched(se):
        return FusedBlock(block.branch, block.shortcut, None)
    if type(se) is SqueezeExcite and se.squeeze is mean and untouched(se, se.fc1, se.fc2):
        linear = type(se.fc1) is nn.Linear and type(se.fc2) is nn.Linear
        return FusedBlock(block.branch, block.shortcut, se) if linear else block
    return block
