"""Which norms, activations and gates of the fused operators a module computes, whoever wrote the module."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import nn

from senet.ops import GATE_NUMBERS
from senet.ops.activation_functions import ACTIVATIONS

__all__ = ["activation_inside", "activation_number", "gate_number", "is_batch_norm"]

_ACTIVATIONS: Final = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "SiLU": "silu",
    "Swish": "silu",
    "Hardswish": "hard_swish",
    "HardSwish": "hard_swish",
    "GELU": "gelu",
    "Identity": "identity",
}
"""Class of an activation of torch or timm, to its name in `ACTIVATIONS`."""

_GATES: Final = {
    "Sigmoid": GATE_NUMBERS[torch.sigmoid],
    "Hardsigmoid": GATE_NUMBERS[F.hardsigmoid],
    "HardSigmoid": GATE_NUMBERS[F.hardsigmoid],
}
"""Class of a gate of torch or timm, to its number in `GATE_FUNCTIONS`."""


def activation_number(module: nn.Module) -> int | None:
    """Return the number in `ACTIVATIONS` of what a module computes. None if the operators lack it."""
    name = _ACTIVATIONS.get(_name(module))
    if name is None or getattr(module, "approximate", "none") != "none":
        return None  # not GELU by tanh
    return ACTIVATIONS.index(name)


def gate_number(module: nn.Module) -> int | None:
    """Return the number in `GATE_FUNCTIONS` of what a module computes. None if the operators lack it."""
    return _GATES.get(_name(module))


def is_batch_norm(module: nn.Module) -> bool:
    """Whether it is `nn.BatchNorm2d`, or timm's with an activation. A subclass may compute something else."""
    kind = type(module)
    timms = kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm.")
    return timms or (kind.__module__, kind.__qualname__) == (nn.BatchNorm2d.__module__, nn.BatchNorm2d.__qualname__)


def activation_inside(norm: nn.Module) -> int | None:
    """Return the number in `ACTIVATIONS` of the activation that is part of a norm (timm). None if there is no such."""
    act = getattr(norm, "act", None)
    if act is None:
        return ACTIVATIONS.index("identity")
    return activation_number(act) if type(getattr(norm, "drop", None)) is nn.Identity else None


def _name(module: nn.Module) -> str:
    """The name of its class, if torch or timm wrote it."""
    kind = type(module)
    return kind.__name__ if kind.__module__.partition(".")[0] in ("torch", "timm") else ""
