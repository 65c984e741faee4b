"""`optimize`: the same network for inference, with fewer passes over its maps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.errors import SenetError
from senet.fusion.layers import FoldedBranch, FoldedConv, FoldedUnit
from senet.models.resnet import BasicBranch, BottleneckBranch
from senet.models.stages import ConvNormAct, ResidualUnit
from senet.nn import SqueezeExcite
from senet.nn.epilogue import untouched
from senet.nn.squeeze import mean

__all__ = ["OptimizeReport", "optimize"]


@dataclass
class OptimizeReport:
    """What `optimize` did.

    Attributes:
        norms_folded: Norms that their convolutions took in.
        norms_left: Paths of the norms that stayed: they follow no convolution, or something watches them.
        units_fused: Residual units whose sum and ReLU (and scale) are one pass, or part of the convolution.
        gates_early: Units whose gate is known before their last convolution runs.
    """

    norms_folded: int = 0
    norms_left: list[str] = field(default_factory=list)
    units_fused: int = 0
    gates_early: int = 0

    def __str__(self) -> str:
        left = f"; {len(self.norms_left)} norms stay" if self.norms_left else ""
        return (
            f"{self.norms_folded} norms folded, {self.units_fused} residual units fused, "
            f"{self.gates_early} gates computed early{left}"
        )


def optimize(model: nn.Module) -> tuple[nn.Module, OptimizeReport]:
    """Return an equivalent network for inference, and what was done; the given one stays as it is.

    Convolutions take in the norms behind them, and ReLUs; a bottleneck's gate is computed from the input of its last
    convolution; scale, sum and ReLU are one pass. What isn't recognised stays and computes what it did. The result
    evaluates only; `torch.export` sees plain PyTorch operations in it.

    Args:
        model: One of this package's networks, whole or as a backbone, or any network that contains its parts.

    Returns:
        The network (in evaluation mode, parameters without gradients), the report.

    Raises:
        SenetError: It is no network.

    Source: Hu et al. 2018, Fig. 3; the squeeze and a 1x1 convolution are both linear, so they commute.
    """
    if not isinstance(model, nn.Module):
        raise SenetError(f"optimize takes a network (an nn.Module), got {type(model).__name__}")
    report = OptimizeReport()
    before = sum(isinstance(m, _BatchNorm) for m in model.modules())
    made = _rebuilt(copy.deepcopy(model), report).eval().requires_grad_(False)
    report.norms_left = [path for path, m in made.named_modules() if isinstance(m, _BatchNorm)]
    report.norms_folded = before - len(report.norms_left)
    return made, report


def _rebuilt(module: nn.Module, report: OptimizeReport) -> nn.Module:
    """The module, or what takes its place; children first."""
    if not untouched(module):
        return module
    branch = _BRANCHES.get(type(module))
    if branch is not None:
        return branch(module) or module
    for name, child in module.named_children():
        setattr(module, name, _rebuilt(child, report))
    if type(module) in (nn.Sequential, ConvNormAct):
        _fold_pairs(module)
    if isinstance(module, ResidualUnit):
        return _unit(module, report)
    return module


def _conv(conv: nn.Module, norm: nn.Module, *, relu: bool) -> FoldedConv | None:
    """Both in one, or None if they aren't such a pair."""
    if (
        type(conv) is nn.Conv2d
        and type(norm) is nn.BatchNorm2d
        and norm.running_mean is not None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and untouched(conv, norm)
    ):
        return FoldedConv(conv, norm, relu=relu)
    return None


def _fold_pairs(sequence: nn.Module) -> None:
    """Fold each convolution of a sequence with the norm behind it, and a ReLU behind that; the positions stay."""
    layers = sequence._modules
    names = list(layers)
    for i, name in enumerate(names[:-1]):
        here, norm, *others = (layers[n] for n in names[i : i + 3])
        assert here is not None
        assert norm is not None
        relu = [n for n, m in zip(names[i + 2 :], others, strict=False) if type(m) is nn.ReLU and untouched(m)]
        folded = _conv(here, norm, relu=bool(relu))
        if folded is not None:
            layers[name] = folded
            layers.update(dict.fromkeys([names[i + 1], *relu], nn.Identity()))


def _branch(branch: Any, pairs: tuple[tuple[str, str], ...]) -> FoldedBranch | None:
    if not untouched(branch.relu):
        return None
    last = pairs[-1]
    found = [_conv(getattr(branch, c), getattr(branch, n), relu=(c, n) != last) for c, n in pairs]
    folded = [conv for conv in found if conv is not None]
    return FoldedBranch(nn.Sequential(*folded[:-1]), folded[-1]) if len(folded) == len(pairs) else None


def _basic(branch: nn.Module) -> FoldedBranch | None:
    return _branch(branch, (("conv1", "bn1"), ("conv2", "bn2")))


def _bottleneck(branch: nn.Module) -> FoldedBranch | None:
    return _branch(branch, (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")))


_BRANCHES: Final[Mapping[type[nn.Module], Callable[[nn.Module], FoldedBranch | None]]] = {
    BasicBranch: _basic,
    BottleneckBranch: _bottleneck,
}


def _unit(unit: ResidualUnit, report: OptimizeReport) -> nn.Module:
    if unit.placement != "standard" or not isinstance(unit.branch, FoldedBranch):
        return unit
    se = unit.se
    if type(se) is nn.Identity:
        made = FoldedUnit(unit.branch, unit.shortcut, None)
    elif isinstance(se, SqueezeExcite) and se.squeeze is mean and untouched(se, se.fc1, se.fc2):
        made = FoldedUnit(unit.branch, unit.shortcut, se)
    else:
        return unit
    report.units_fused += 1
    report.gates_early += made.early is not None
    return made
