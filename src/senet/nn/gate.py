"""Gate: the function that turns the excitation's output into a factor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

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


def _sigmoid_centred(z: Tensor) -> Tensor:
    return 2 * torch.sigmoid(z)


def _hard_sigmoid_centred(z: Tensor) -> Tensor:
    return 2 * F.hardsigmoid(z)


def _tanh_centred(z: Tensor) -> Tensor:
    return 1 + torch.tanh(z)


def _relu_centred(z: Tensor) -> Tensor:
    return torch.relu(1 + z)


# Source: Hu et al. 2018, Table 12, for all but the hard sigmoid (Howard et al. 2019, MobileNetV3).
# Named functions, not lambdas: a layer holds one of them and must pickle.
GATES: Final[Mapping[str, Gate]] = {
    "sigmoid": Gate(torch.sigmoid, _sigmoid_centred),
    "hard-sigmoid": Gate(F.hardsigmoid, _hard_sigmoid_centred),
    "tanh": Gate(torch.tanh, _tanh_centred),
    "relu": Gate(torch.relu, _relu_centred),
}
