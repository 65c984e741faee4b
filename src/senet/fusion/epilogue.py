"""The end of a residual unit in inference, `relu(s * branch(x) + shortcut)`, where no gradient is wanted.

Behind a 1x1 convolution the gate s is known before the convolution runs: the squeeze is linear, and commutes with it.

Source: Hu et al. 2018, eqs. 2-4 and Fig. 3; the authors fuse scale and addition in inference ("Axpy").
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from senet.nn._dims import over_space
from senet.nn.block import SqueezeExcite
from senet.nn.epilogue import alike, eager, on_the_processor
from senet.nn.squeeze import mean
from senet.ops import GATE_NUMBERS, Pointwise, choose, pointer, scale_add_relu_

__all__ = ["Convolved", "rescaled", "version"]


def rescaled(x: Tensor, gate: Tensor, shortcut: Tensor) -> Tensor:
    """Return `relu(gate * x + shortcut)`, perhaps written over x.

    Args:
        x: What the branch gives, (N, C, H, W); nobody else needs it.
        gate: (N, C).
        shortcut: As x.
    """
    if on_the_processor(x) and alike(x, shortcut) and not torch.is_grad_enabled():
        scale_add_relu_(x, gate.float().contiguous(), shortcut)
        return x
    return torch.relu(x * over_space(gate, x) + shortcut)


@final
class Convolved:
    """The end `relu(s * conv(x) + shortcut)` of a unit whose last convolution is 1x1.

    Args:
        conv: (N, C, H, W) -> (N, C', H, W), with the parameters `weight`, (C', C, 1, 1), and `bias`.
        first: The gate's first linear layer, merged into the convolution: it reads the mean of x.
        se: The block whose second layer and gate follow.
    """

    def __init__(self, conv: nn.Module, first: nn.Linear, se: SqueezeExcite) -> None:
        self.conv, self.first, self.se = conv, first, se
        self._gate = GATE_NUMBERS.get(se.activate)
        layers = (conv, first, se.fc2)
        # Where the parameters are kept: a module's attributes are looked for long.
        self._places = tuple((layer._parameters, name) for layer in layers for name in ("weight", "bias"))
        self._prepared: tuple[list[int | None], Pointwise] | None = None

    def __call__(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """Compute it.

        Args:
            x: (N, C, H, W).
            shortcut: (N, C', H, W).
        """
        if self._gate is None or not _fits(x, shortcut):
            gate = self.se.activate(self.se.fc2(torch.relu(self.first(mean(x)))))
            return rescaled(self.conv(x), gate, shortcut)
        return self._kernel(self._gate)(x, shortcut)

    def _kernel(self, gate: int) -> Pointwise:
        tensors = [kept[name] for kept, name in self._places]
        weight, bias, w1, b1, w2, b2 = tensors
        assert weight is not None
        key = [version(weight), *map(pointer, tensors)]
        if self._prepared is None or self._prepared[0] != key:
            assert bias is not None
            assert w1 is not None
            assert w2 is not None
            self._prepared = key, Pointwise(weight, bias, w1, b1, w2, b2, gate=gate)
        return self._prepared[1]


def version(tensor: Tensor) -> int | None:
    """Changes when the tensor does in place; None of what inference mode made, which counts no versions."""
    return None if tensor.is_inference() else tensor._version


def _fits(x: Tensor, shortcut: Tensor) -> bool:
    """Whether the compiled kernel can multiply, and nobody would miss the operators that it stands for."""
    return (
        type(x) is Tensor
        and type(shortcut) is Tensor
        and x.dtype is torch.float32
        and shortcut.dtype is torch.float32
        and x.is_cpu
        and x.is_contiguous(memory_format=torch.channels_last)
        and shortcut.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_grad_enabled()
        and not torch._C._len_torch_dispatch_stack()
        and eager()
        and choose().library is not None
    )
