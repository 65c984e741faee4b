"""Fused operators, one file each with definition, registration, derivative and batching rule. Back ends are folders."""

from senet.ops.backend import describe, using
from senet.ops.bn_se_add_relu import bn_se_add_relu
from senet.ops.cpu import Choice, choose
from senet.ops.gate_functions import GATE_FUNCTIONS, GATE_NUMBERS
from senet.ops.packed_convolution import packed_convolution
from senet.ops.scale_add_relu import scale_add_relu_

__all__ = [
    "GATE_FUNCTIONS",
    "GATE_NUMBERS",
    "Choice",
    "bn_se_add_relu",
    "choose",
    "describe",
    "packed_convolution",
    "scale_add_relu_",
    "using",
]
