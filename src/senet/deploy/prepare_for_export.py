"""Rewrite a network for export, so that runtimes compute it in the fewest passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

__all__ = ["Form", "Gate", "ScaledBlock", "ScaledFeatureMap", "prepare_for_export"]


@dataclass(frozen=True)
class Form:
    """The form of the scale in the exported graph. All forms compute the same. `benchmarks/deploy.md` has their times.

    Without options, scale, sum and ReLU of a residual block are adjacent, and OpenVINO makes one pass of them.

    Attributes:
        one_image: In residual blocks, scale the last convolution's weights instead of the feature map where they are
            smaller. Sum and ReLU are then part of the convolution. Valid for one image of a fixed size only.
        blocked: Multiply feature maps of equal shape, and add in convolutions, where the size is fixed. ONNX Runtime
            has these in its blocked layout, and a product with a smaller gate in another layout only.
    """

    one_image: bool = False
    blocked: bool = False

    def scaled(self, x: Tensor, gate: Tensor) -> Tensor:
        """(N, C, *spatial) and (N, C, 1, ...) -> (N, C, *spatial)."""
        if self.blocked and x.ndim == 4 and _fixed_size(x):
            gate = F.interpolate(gate, scale_factor=tuple(map(float, x.shape[2:])), mode="nearest")
        return x * gate


def prepare_for_export(model: nn.Module, form: Form = Form()) -> nn.Module:
    """Copy a network to an equivalent one of plain float32 operations on the CPU. The given network is not changed.

    `optimize` folds norms and precomputes gates. The linear layers of gates become 1x1 convolutions of a 1x1 feature
    map. Runtimes would change the layout around a linear layer with extra operators, and they fuse the ReLU or sigmoid
    into a convolution.

    Args:
        model: Any network.
        form: The form of the scale in residual blocks.
    """
    made, _ = optimize(with_plain_weights(copied(model)))
    return _rebuilt(made, form, {})


def _rebuilt(module: nn.Module, form: Form, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """Rewrite a module for export. A module with several names is rewritten once."""
    if module not in made:
        replaced = _replacement(module, form) if untouched(module) else None
        made[module] = module if replaced is None else replaced
        if replaced is None and "forward" not in module.__dict__:
            for name, child in module._modules.items():
                if child is not None:
                    module._modules[name] = _rebuilt(child, form, made)
            if isinstance(module, FusedBlock) and isinstance(module.se, Gate | ScaledFeatureMap):
                made[module] = ScaledBlock(module, form)
    return made[module]


def _replacement(module: nn.Module, form: Form) -> nn.Module | None:
    """Return the replacement of a layer; None to keep it."""
    if isinstance(module, FusedConv):
        return module.dense()
    if isinstance(module, PrecomputedGate):
        return Gate(module.fc1, module.fc2, module.activate)
    if isinstance(module, SqueezeExcite) and module.squeeze is mean and _linear(module.fc1) and _linear(module.fc2):
        return ScaledFeatureMap(Gate(module.fc1, module.fc2, module.activate, ndim=module.ndim), form)
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
        return self.activate(self.expand(torch.relu(self.reduce(self._squeezed(x)))))

    def _squeezed(self, x: Tensor) -> Tensor:
        """Return the mean. Both runtimes average by pooling, which needs a fixed size, in the feature map's layout."""
        if len(self.space) == 2 and _fixed_size(x):
            return F.avg_pool2d(x, x.shape[2:])
        return average(x, self.space, keepdim=True)


@final
class ScaledFeatureMap(nn.Module):
    """`x * gate(x)`.

    Args:
        gate: The gate.
        form: The form of the scale.
    """

    def __init__(self, gate: Gate, form: Form) -> None:
        super().__init__()
        self.gate, self.form = gate, form

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, *spatial) -> the same."""
        return self.form.scaled(x, self.gate(x))


@final
class ScaledBlock(nn.Module):
    """A residual block, `relu(shortcut(x) + gate * (W h + b))`, in the fewest passes that a runtime has for it.

    Args:
        block: The block, with its layers rewritten for export.
        form: The form of the scale.
    """

    def __init__(self, block: FusedBlock, form: Form) -> None:
        super().__init__()
        self.body, self.last, self.shortcut = block.branch.body, block.branch.last, block.shortcut
        self.precomputed = isinstance(block.se, Gate)
        gate = block.se.gate if isinstance(block.se, ScaledFeatureMap) else block.se
        assert isinstance(gate, Gate)
        self.gate, self.form = gate, form
        projects = any(isinstance(layer, FusedConv) for layer in self.shortcut.modules())
        self.ones: nn.Parameter | None = None
        if form.blocked and not projects:
            self.ones = nn.Parameter(torch.ones(len(self.last.bias), 1, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        shortcut = self.shortcut(x)
        h = self.body(x)
        if self.form.one_image and self.precomputed and h.shape[2] * h.shape[3] > 2 * h.shape[1]:
            return torch.relu(self._with_gated_weights(h) + shortcut)
        y = self.last(h)
        scaled = self.form.scaled(y, self.gate(h if self.precomputed else y))
        if self.ones is not None and _fixed_size(y):
            # ONNX Runtime fuses sum and ReLU into convolutions only; this one multiplies each channel by 1.
            scaled = F.conv2d(scaled, self.ones, groups=len(self.ones))
        return torch.relu(scaled + shortcut)

    def _with_gated_weights(self, h: Tensor) -> Tensor:
        """Return the scaled branch, `(gate * W) h + gate * b`."""
        gate, weight, bias = self.gate(h).reshape(-1, 1, 1, 1), self.last.dense_weight, self.last.bias
        if self.form.blocked:
            return F.conv2d(h, weight * gate, bias * gate.flatten(), self.last.geometry.stride)
        # OpenVINO fuses constant biases only, so a channel of ones carries this one.
        weight = torch.cat([weight, bias[:, None, None, None]], 1) * gate
        return F.conv2d(F.pad(h, (0, 0, 0, 0, 0, 1), value=1.0), weight, None, self.last.geometry.stride)


def _fixed_size(x: Tensor) -> bool:
    """Whether the height and width are numbers, and not symbols of a trace."""
    return all(isinstance(length, int) for length in x.shape[2:])


def _pointwise(fc: nn.Linear, ndim: int) -> nn.Module:
    made = CONV[ndim](fc.in_features, fc.out_features, 1, bias=fc.bias is not None)
    weight = fc.weight.detach().reshape(*fc.weight.shape, *[1] * ndim)
    made.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if fc.bias is not None:
        made.bias = nn.Parameter(fc.bias.detach().clone(), requires_grad=False)
    return made
