"""Checks that tensors are usable as weights, without allocating more memory than the file stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

__all__ = ["all_finite", "dtype_kind_differs", "storage_issue", "tensor_issue", "value_issue"]

READABLE: Final = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""Data types of real numbers that PyTorch converts."""

MOST_TIMES: Final = 64
"""Largest ratio of the tensors' size to the stored size: tied weights share storage, expanded ones repeat it."""

SLACK_BYTES: Final = 1 << 27


def storage_issue(tensors: Mapping[str, Tensor]) -> str | None:
    """Describe a tensor that is far larger than its storage, None if there is none.

    A few bytes of a file can describe a view with billions of values. Computing with it would exhaust the memory.
    """
    plain = {k: t for k, t in tensors.items() if type(t) in (Tensor, nn.Parameter) and t.layout is torch.strided}
    real = {key: tensor for key, tensor in plain.items() if not tensor.is_meta and not tensor.is_quantized}
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in real.values()}
    claimed = {key: tensor.numel() * tensor.itemsize for key, tensor in real.items()}
    if sum(claimed.values()) <= MOST_TIMES * sum(stored.values()) + SLACK_BYTES:
        return None
    key = max(claimed, key=claimed.__getitem__)
    numbers, stored_numbers = real[key].numel(), real[key].untyped_storage().nbytes() // real[key].itemsize
    return f"{key} claims {numbers:,} numbers, and {stored_numbers:,} are stored"


def tensor_issue(tensor: Tensor) -> str | None:
    """Describe the reason why a tensor from a file or state dict is unusable, None if it is usable."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return "is sparse or quantized; only plain tensors are read"
    if tensor.dtype not in READABLE:
        return f"has the type {str(tensor.dtype).removeprefix('torch.')}; only real numbers are read"
    if tensor.is_floating_point() and not tensor.is_meta and not all_finite(tensor):
        return "has non-finite values"
    return None


def all_finite(tensor: Tensor) -> bool:
    """Whether all values are finite."""
    if tensor.itemsize == 1:  # PyTorch has no arithmetic for 8-bit floats
        tensor = tensor.float()
    # A finite sum has finite terms only and is several times faster. A non-finite sum may be an overflow.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def value_issue(key: str, tensor: Tensor, dtype: torch.dtype) -> str | None:
    """Describe invalid values of a weight that will be converted to `dtype`, None if all are valid."""
    if tensor.is_meta:
        return "has no values: it was saved from the meta device"
    if tensor.dtype != dtype and dtype.is_floating_point and not all_finite(tensor.to(dtype)):
        return f"has values out of the range of {dtype}"
    if key.endswith("running_var") and tensor.numel() and tensor.min() < 0:
        return "has negative variances"
    return None


def dtype_kind_differs(given: Tensor, own: Tensor | None) -> bool:
    """Whether one tensor is floating-point and the other is not, False where `own` is None."""
    return own is not None and given.is_floating_point() != own.is_floating_point()
