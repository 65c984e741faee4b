"""Gate: the function that turns the excitation's output into a factor."""

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
    """A gate in two forms.

    Attributes:
        plain: The function as published.
        centred: The same shape, moved or stretched so that it is exactly 1 at 0 with a slope there: a layer
            whose last weights are zero then returns its input unchanged, and still learns.
    """

    plain: Callable[[Tensor], Tensor]
    centred: Callable[[Tensor], Tensor]


# Source: Hu et al. 2018, Table 12, for all but the hard sigmoid (Howard et al. 2019, MobileNetV3).
GATES: Final[Mapping[str, Gate]] = {
    "sigmoid": Gate(torch.sigmoid, sigmoid_centred),
    "hard-sigmoid": Gate(F.hardsigmoid, hard_sigmoid_centred),
    "tanh": Gate(torch.tanh, tanh_centred),
    "relu": Gate(torch.relu, relu_centred),
}
