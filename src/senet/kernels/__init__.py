"""What the end of a residual unit runs on: a kernel in C for processors, as PyTorch operators."""

from senet.kernels.library import Choice, choose, describe, pointer
from senet.kernels.operators import rescale_, tail, tail_backward
from senet.kernels.pointwise import Pointwise

__all__ = ["Choice", "Pointwise", "choose", "describe", "pointer", "rescale_", "tail", "tail_backward"]
