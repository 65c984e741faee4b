"""The gate functions, from the logits of the excitation to the factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.gate_functions import hard_sigmoid_centred, relu_centred, sigmoid_centred, tanh_centred

__all__ = ["GATES", "Gate"]


@dataclass(frozen=True)
class Gate:
    """A gate function in two forms.

    Attributes:
        plain: The function as published.
        centred: The same function, shifted or scaled to be exactly 1 at 0 with a nonzero slope. A layer with zero
            weights in its last linear layer then returns its input unchanged, and still learns.

    Example:
        >>> import torch
        >>> from senet.nn import GATES
        >>> zero = torch.zeros(1)
        >>> GATES["sigmoid"].plain(zero), GATES["sigmoid"].centred(zero)
        (tensor([0.5000]), tensor([1.]))
    """

    plain: Callable[[Tensor], Tensor]
    centred: Callable[[Tensor], Tensor]


def softmax(z: Tensor) -> Tensor:
    """Return the softmax over the channels, which sums to 1: (N, C, ...) -> the same."""
    return z.softmax(1).to(z.dtype)  # autocast computes it in float32


def softmax_centred(z: Tensor) -> Tensor:
    """Return the softmax over the channels times C, which averages to 1."""
    # The mean of equal exponentials is exact for any C. C times a rounded 1/C is not.
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    powers = (wide - wide.amax(1, keepdim=True)).exp()
    return (powers / powers.mean(1, keepdim=True)).to(z.dtype)


# Source: Hu et al. 2018, Table 12. The hard sigmoid is from Howard et al. 2019 (MobileNetV3), 1 + tanh from Yang et al.
# 2020 (GCT). The softmax makes the channels compete.
GATES: Final[Mapping[str, Gate]] = {
    "sigmoid": Gate(torch.sigmoid, sigmoid_centred),
    "hard-sigmoid": Gate(F.hardsigmoid, hard_sigmoid_centred),
    "tanh": Gate(torch.tanh, tanh_centred),
    "relu": Gate(torch.relu, relu_centred),
    "1+tanh": Gate(tanh_centred, tanh_centred),
    "softmax": Gate(softmax, softmax_centred),
}
