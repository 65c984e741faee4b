"""A norm, its activation and the channel attention behind it as one operator, in any network's own modules.

The three modules stay where they are. The norm computes all three; activation and attention then return their input.
Whatever watches one of them, or a tensor that the operator can't take, makes them compute as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from senet.nn.epilogue import kernel_available, unwatched, update_running_statistics
from senet.ops.bn_act_gate import SIGNATURE, bn_act_gate

__all__ = ["GatedNorm", "PassedOver"]

MIN_ELEMENTS: Final = 1 << 15
"""Smallest number of elements of a feature map for which the operator is used; below, its fixed cost dominates."""

_DONE: Final = "_senet_gated"
"""Attribute of a tensor that the operator made: the attention layer that it holds already."""


class GatedNorm:
    """The `forward` of a norm that computes activation and attention as well.

    Args:
        norm: `nn.BatchNorm2d`, or timm's with an activation.
        activation: Number of the activation in `senet.ops`.
        inner: Modules inside the norm and between norm and attention that compute the activation.
        attention: The attention layer.
        gate_of: Its gate from the means, (N, C, 1, 1) both.
    """

    def __init__(
        self,
        norm: nn.Module,
        *,
        activation: int,
        inner: tuple[nn.Module, ...],
        attention: nn.Module,
        gate_of: Callable[[Tensor], Tensor],
    ) -> None:
        self.norm, self.activation, self.inner = norm, activation, inner
        self.attention, self.gate_of = attention, gate_of
        self.waiting = False

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        if self.waiting:
            self.waiting = False
            raise RuntimeError(
                f"{type(self.attention).__name__} did not run after its norm. If a run was interrupted, run again; "
                "if the network skips it, call undo() of accelerate's report"
            )
        y = self._fused(x)
        if y is None:
            return type(self.norm).forward(self.norm, x)
        setattr(y, _DONE, self.attention)
        self.waiting = True
        return y

    def _fused(self, x: Tensor) -> Tensor | None:
        norm: Any = self.norm
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return None  # Inductor fuses the modules' plain operations itself
        if x.ndim != 4 or x.numel() < MIN_ELEMENTS or not kernel_available():
            return None
        if not unwatched(self.norm, self.attention, *self.inner):
            return None
        mean, var = norm.running_mean, norm.running_var
        if (mean is None) != (var is None) or (norm.training and x.numel() == x.shape[1]):
            return None
        training = norm.training or mean is None
        tracked = norm.training and norm.track_running_stats and mean is not None
        if tracked and not (mean.is_contiguous() and var.is_contiguous()):
            return None
        tensors = (x, norm.weight, norm.bias, mean, var)
        if not SIGNATURE.takes(tensors) or any(t is not None and t.requires_grad for t in (mean, var)):
            return None
        y, statistics = bn_act_gate(
            x,
            norm.weight,
            norm.bias,
            None if training else mean,
            None if training else var,
            self.gate_of,
            training=training,
            eps=norm.eps,
            activation=self.activation,
        )
        if tracked:
            update_running_statistics(norm, mean, var, statistics)
        return y


class PassedOver:
    """The `forward` of an activation or an attention layer whose work a `GatedNorm` may have done.

    Args:
        module: The module.
        norm: For the attention layer, the `GatedNorm` before it.
    """

    def __init__(self, module: nn.Module, norm: GatedNorm | None = None) -> None:
        self.module, self.norm = module, norm

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        done = getattr(x, _DONE, None)
        if self.norm is None:
            return x if done is not None else type(self.module).forward(self.module, x)
        if done is self.module:
            self.norm.waiting = False
            delattr(x, _DONE)
            return x
        if self.norm.waiting:
            self.norm.waiting = False
            raise RuntimeError(
                f"{type(self.module).__name__} got another tensor than its norm returned; call undo() of the report"
            )
        return type(self.module).forward(self.module, x)
