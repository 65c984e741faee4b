"""What the end of a residual unit runs on: a kernel in C for processors, as PyTorch operators."""

from senet.kernels.library import Choice, choose, describe
from senet.kernels.operators import rescale_, tail, tail_backward
from senet.kernels.pointwise import Excitation, pointwise

__all__ = ["Choice", "Excitation", "choose", "describe", "pointwise", "rescale_", "tail", "tail_backward"]
