"""float64 on machines whose accelerator lacks it, such as Apple's GPUs."""

from __future__ import annotations

from torch import Tensor

__all__ = ["in_float64"]


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor's values in float64, on the CPU and without its graph. A tensor on the meta device stays there.

    The values leave the device before the conversion, since the device may lack float64.

    Example:
        >>> import torch
        >>> from senet.nn.precision import in_float64
        >>> in_float64(torch.ones(2, dtype=torch.float16))
        tensor([1., 1.], dtype=torch.float64)
    """
    values = tensor.detach()
    return (values if values.is_meta else values.cpu()).double()
