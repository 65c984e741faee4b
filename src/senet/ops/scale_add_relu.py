"""`senet::scale_add_relu_`: the end of a residual block whose gate is known, `relu(gate * x + shortcut)`, in place.

For inference: it has no derivative.

Source: Hu et al. 2018, eq. 4 and Fig. 3; the authors fuse scale and addition in inference ("Axpy").
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from senet.ops.arguments import Signature, memory_format, one_by_one, watched
from senet.ops.cpu import choose, step

__all__ = ["SIGNATURE", "definition", "scale_add_relu_"]

SIGNATURE: Final = Signature(
    "scale_add_relu_", (("x", "NCHW"), ("gate", "NC"), ("shortcut", "NCHW")), optional=frozenset()
)


def scale_add_relu_(x: Tensor, gate: Tensor, shortcut: Tensor) -> None:
    """Let x become `relu(gate * x + shortcut)`.

    Args:
        x: (N, C, H, W), float32 or bfloat16.
        gate: (N, C), float32.
        shortcut: As x.

    Raises:
        ValueError: Sizes, types or devices don't belong together.
    """
    if watched():
        torch.ops.senet.scale_add_relu_(x, gate, shortcut)
    else:
        _compute(x, gate, shortcut)


def definition(x: Tensor, gate: Tensor, shortcut: Tensor) -> Tensor:
    """What x becomes, in plain PyTorch: any device, any type, differentiable."""
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
        raise ValueError("scale_add_relu_: x isn't batched, but what it would become is")
    one_by_one(torch.ops.senet.scale_add_relu_, info, dims, tensors)
    return None, None


def _compute(x: Tensor, gate: Tensor, shortcut: Tensor) -> None:
    SIGNATURE.check((x, gate, shortcut))
    if not x.numel():
        return
    kept = memory_format(x)
    # Another view of the same memory would be overwritten before it is read.
    same = x.untyped_storage().data_ptr() == shortcut.untyped_storage().data_ptr()
    apart = not same or x.data_ptr() == shortcut.data_ptr()
    if choose().library is None or not x.is_contiguous(memory_format=kept) or not apart:
        x.copy_(definition(x, gate, shortcut))
        return
    step.rescale(x, gate.contiguous(), shortcut.contiguous(memory_format=kept))
