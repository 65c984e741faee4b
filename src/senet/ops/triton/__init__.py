"""The GPU back end: kernels in Triton. Importing this package doesn't import triton.

Feature maps are channels_last, so each is a matrix of N * H * W rows and C columns. Sums are float32, in a fixed order.
Each program writes its own partial sums, and a second kernel adds them. No kernel uses atomics, and no step reads a
number on the host, so a step can be captured in a CUDA graph.

Never measured on a GPU. `SENET_KERNELS=triton` turns it on.
"""

from senet.ops.triton.library import State, describe, interpreted, state

__all__ = ["State", "describe", "interpreted", "state"]
