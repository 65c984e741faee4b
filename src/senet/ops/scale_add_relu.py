"""`senet::scale_add_relu_`: the residual epilogue with a precomputed gate, `relu(gate * x + shortcut)`, in place.

The operator is for inference and has no derivative.

Source: Hu et al. 2018, eq. 4 and Fig. 3; the authors fuse scale and addition in inference ("Axpy").
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from senet.ops.arguments import Signature, is_observed, loop_over_batch, memory_format
from senet.ops.backend import backend_for

__all__ = ["SIGNATURE", "definition", "scale_add_relu_"]

SIGNATURE: Final = Signature(
    "scale_add_relu_", (("x", "NCHW"), ("gate", "NC"), ("shortcut", "NCHW")), optional=frozenset(), gpu=True
)


def scale_add_relu_(x: Tensor, gate: Tensor, shortcut: Tensor) -> None:
    """Compute `relu(gate * x + shortcut)` in place of x.

    Args:
        x: (N, C, H, W), float32, bfloat16 or float16.
        gate: (N, C), float32.
        shortcut: (N, C, H, W), of the type of x.

    Raises:
        ValueError: Sizes, types or devices don't match.

    Example:
        >>> import torch
        >>> from senet.ops import scale_add_relu_
        >>> x = torch.ones(1, 2, 1, 1)
        >>> scale_add_relu_(x, gate=torch.tensor([[0.5, 2.0]]), shortcut=torch.ones(1, 2, 1, 1))
        >>> x.flatten()
        tensor([1.5000, 3.0000])
    """
    if is_observed():
        torch.ops.senet.scale_add_relu_(x, gate, shortcut)
    else:
        _compute(x, gate, shortcut)


def definition(x: Tensor, gate: Tensor, shortcut: Tensor) -> Tensor:
    """Return the new x, computed in plain PyTorch: any device, any type, differentiable."""
    return torch.relu(x * gate[:, :, None, None] + shortcut).to(x.dtype)


@torch.library.custom_op("senet::scale_add_relu_", mutates_args=("x",))
def _operator(x: Tensor, gate: Tensor, shortcut: Tensor) -> None:
    _compute(x, gate, shortcut)


@_operator.register_fake
def _(*_tensors: Tensor) -> None:
    return None


@torch.library.register_vmap("senet::scale_add_relu_")
def _(info: Any, dims: tuple[Any, ...], *tensors: Tensor) -> tuple[None, None]:
    if dims[0] is None:
        raise ValueError("scale_add_relu_: x must be batched if gate or shortcut is")
    loop_over_batch(torch.ops.senet.scale_add_relu_, info, dims, tensors)
    return None, None


def _compute(x: Tensor, gate: Tensor, shortcut: Tensor) -> None:
    SIGNATURE.check((x, gate, shortcut))
    if not x.numel():
        return
    layout = memory_format(x)
    # A shortcut in another view of the same memory would be overwritten before it is read.
    same = x.untyped_storage().data_ptr() == shortcut.untyped_storage().data_ptr()
    disjoint = not same or x.data_ptr() == shortcut.data_ptr()
    backend = backend_for(x)
    if backend is None or not x.is_contiguous(memory_format=layout) or not disjoint:
        x.copy_(definition(x, gate, shortcut))
        return
    backend.step.rescale(x, gate.contiguous(), shortcut.contiguous(memory_format=layout))
