"""Attention layers of other libraries as this package's Squeeze-and-Excitation."""

from __future__ import annotations

from torch import nn

from senet.gates.excitation import excitation
from senet.nn.block import SqueezeExcite
from senet.ops import GATE_FUNCTIONS
from senet.ops.activation_functions import ACTIVATIONS

__all__ = ["as_squeeze_excite"]


def as_squeeze_excite(layer: nn.Module) -> nn.Module:
    """Return the same attention as this package's `SqueezeExcite` where it has this form, else the layer itself."""
    found = None if isinstance(layer, SqueezeExcite) else excitation(layer)
    if found is None or found.activation != ACTIVATIONS.index("relu") or (found.b1 is None) != (found.b2 is None):
        return layer
    hidden, channels = found.w1.shape[:2]
    made = SqueezeExcite(channels, hidden_channels=hidden, bias=found.b1 is not None).to(found.w1)
    made.activate = GATE_FUNCTIONS[found.gate]
    for fc, weight, bias in ((made.fc1, found.w1, found.b1), (made.fc2, found.w2, found.b2)):
        fc.weight = nn.Parameter(weight.detach().flatten(1).clone(), requires_grad=False)
        if bias is not None:
            fc.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return made.eval()
