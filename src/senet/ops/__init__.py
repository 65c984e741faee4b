"""Fused operators, one file each; their CPU back end is a kernel in C."""

from senet.ops.bn_se_add_relu import bn_se_add_relu, bn_se_add_relu_backward
from senet.ops.cpu import Choice, choose, describe, pointer
from senet.ops.gate_functions import GATE_FUNCTIONS, GATE_NUMBERS
from senet.ops.pointwise import Pointwise
from senet.ops.scale_add_relu import scale_add_relu_

__all__ = [
    "GATE_FUNCTIONS",
    "GATE_NUMBERS",
    "Choice",
    "Pointwise",
    "bn_se_add_relu",
    "bn_se_add_relu_backward",
    "choose",
    "describe",
    "pointer",
    "scale_add_relu_",
]
