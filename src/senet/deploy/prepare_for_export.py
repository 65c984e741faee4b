"""Rewrite a network for export, so that runtimes compute it in the fewest passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.deploy.copying import copied, with_plain_weights
from senet.fusion.layers import FusedBlock, FusedConv
from senet.fusion.optimization import optimize
from senet.nn import SqueezeExcite
from senet.nn._dims import CONV
from senet.nn.epilogue import untouched
from senet.nn.precomputed import PrecomputedGate
from senet.nn.squeeze import average, mean

__all__ = ["Gate", "ScaledBlock", "ScaledFeatureMap", "prepare_for_export"]


def prepare_for_export(model: nn.Module, *, gated_weights: bool = False) -> nn.Module:
    """Copy a network to an equivalent one of plain float32 operations on the CPU. The given network is not changed.

    `optimize` folds norms and precomputes gates. The linear layers of gates become 1x1 convolutions of a 1x1 feature
    map. Runtimes would change the layout around a linear layer with extra operators, and they fuse the ReLU or sigmoid
    into a convolution.

    Args:
        model: Any network.
        gated_weights: Scale the weights instead of the feature map where they are smaller. Valid for one image of a
            fixed size only.
    """
    made, _ = optimize(with_plain_weights(copied(model)))
    return _rebuilt(made, gated_weights, {})


def _rebuilt(module: nn.Module, gated_weights: bool, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """Rewrite a module for export. A module with several names is rewritten once."""
    if module not in made:
        replaced = _replacement(module) if untouched(module) else None
        made[module] = module if replaced is None else replaced
        if replaced is None and "forward" not in module.__dict__:
            for name, child in module._modules.items():
                if child is not None:
                    module._modules[name] = _rebuilt(child, gated_weights, made)
            if isinstance(module, FusedBlock) and isinstance(module.se, Gate | ScaledFeatureMap):
                made[module] = ScaledBlock(module, gated_weights=gated_weights)
    return made[module]


def _replacement(module: nn.Module) -> nn.Module | None:
    """Return the replacement of a layer; None to keep it."""
    if isinstance(module, FusedConv):
        return module.dense()
    if isinstance(module, PrecomputedGate):
        return Gate(module.fc1, module.fc2, module.activate)
    if isinstance(module, SqueezeExcite) and module.squeeze is mean and _linear(module.fc1) and _linear(module.fc2):
        return ScaledFeatureMap(Gate(module.fc1, module.fc2, module.activate, ndim=module.ndim))
    return None


def _linear(layer: nn.Module) -> bool:
    """Whether a layer is a plain linear layer without hooks or other changes."""
    return type(layer) is nn.Linear and untouched(layer)


@final
class Gate(nn.Module):
    """Squeeze and excitation without the scale.

    Args:
        fc1: The first linear layer.
        fc2: The second linear layer.
        activate: The gate's activation.
        ndim: Number of spatial dimensions of the feature map.
    """

    def __init__(self, fc1: nn.Linear, fc2: nn.Linear, activate: Callable[[Tensor], Tensor], *, ndim: int = 2) -> None:
        super().__init__()
        self.reduce, self.expand, self.activate = _pointwise(fc1, ndim), _pointwise(fc2, ndim), activate
        self.space = tuple(range(2, 2 + ndim))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, *spatial) -> (N, C', 1, ...)."""
        squeezed = average(x, self.space, keepdim=True)
        return self.activate(self.expand(torch.relu(self.reduce(squeezed))))


@final
class ScaledFeatureMap(nn.Module):
    """`x * gate(x)`.

    Args:
        gate: The gate.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, *spatial) -> the same."""
        return x * self.gate(x)


@final
class ScaledBlock(nn.Module):
    """A residual block, `relu(shortcut(x) + gate * (W h + b))`, in one of two orders.

    Scaling the feature map: a runtime fuses scale, sum and ReLU into one pass. Scaling the weights,
    `(gate * [W b]) [h 1]`: sum and ReLU are fused into the convolution, as in a plain network, and no pass is left.
    Scaling the weights needs a gate that is known before the convolution, and a batch of one image.

    Args:
        block: The block, with its layers rewritten for export.
        gated_weights: Scale the weights where the feature map is larger.
    """

    def __init__(self, block: FusedBlock, *, gated_weights: bool) -> None:
        super().__init__()
        self.body, self.last, self.shortcut = block.branch.body, block.branch.last, block.shortcut
        self.precomputed = isinstance(block.se, Gate)
        gate = block.se.gate if isinstance(block.se, ScaledFeatureMap) else block.se
        assert isinstance(gate, Gate)
        self.gate = gate
        self.gated_weights = gated_weights and self.precomputed
        if self.gated_weights:
            weight_and_bias = torch.cat([self.last.dense_weight, self.last.bias[:, None, None, None]], 1)
            self.weight_and_bias = nn.Parameter(weight_and_bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        shortcut = self.shortcut(x)
        h = self.body(x)
        if self.gated_weights and h.shape[2] * h.shape[3] > 2 * h.shape[1]:
            return torch.relu(self._with_gated_weights(h) + shortcut)
        y = self.last(h)
        return torch.relu(y * self.gate(h if self.precomputed else y) + shortcut)

    def _with_gated_weights(self, h: Tensor) -> Tensor:
        """Return the scaled branch. A channel of ones carries the bias, since runtimes fuse only constant biases."""
        weight = self.weight_and_bias * self.gate(h).reshape(-1, 1, 1, 1)
        return F.conv2d(F.pad(h, (0, 0, 0, 0, 0, 1), value=1.0), weight, None, self.last.geometry.stride)


def _pointwise(fc: nn.Linear, ndim: int) -> nn.Module:
    made = CONV[ndim](fc.in_features, fc.out_features, 1, bias=fc.bias is not None)
    weight = fc.weight.detach().reshape(*fc.weight.shape, *[1] * ndim)
    made.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if fc.bias is not None:
        made.bias = nn.Parameter(fc.bias.detach().clone(), requires_grad=False)
    return made
