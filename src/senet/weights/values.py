"""Whether the numbers in tensors can be weights, found out without making more of them than are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

__all__ = ["all_finite", "impossible", "other_kind", "overclaimed", "unreadable"]

READABLE: Final = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""Types whose values are real numbers that PyTorch converts."""

MOST_TIMES: Final = 64
"""How often the numbers of a file may occur in its tensors: tied weights share them, expanded ones repeat them."""

SLACK_BYTES: Final = 1 << 27


def overclaimed(tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong where tensors are views that repeat what is stored without end; None for nothing.

    A few bytes of a file can describe a tensor of billions of numbers. Nothing may be computed with those.
    """
    plain = {k: t for k, t in tensors.items() if type(t) in (Tensor, nn.Parameter) and t.layout is torch.strided}
    real = {key: tensor for key, tensor in plain.items() if not tensor.is_meta and not tensor.is_quantized}
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in real.values()}
    claimed = {key: tensor.numel() * tensor.itemsize for key, tensor in real.items()}
    if sum(claimed.values()) <= MOST_TIMES * sum(stored.values()) + SLACK_BYTES:
        return None
    key = max(claimed, key=claimed.__getitem__)
    numbers, lock_folder = real[key].numel(), real[key].untyped_storage().nbytes() // real[key].itemsize
    return f"{key} claims {numbers:,} numbers, and {lock_folder:,} are stored"


def unreadable(tensor: Tensor) -> str | None:
    """What is wrong with a tensor from a file or a state dict; None for nothing."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return "is sparse or quantized; only plain tensors are read"
    if tensor.dtype not in READABLE:
        return f"has the type {str(tensor.dtype).removeprefix('torch.')}; only real numbers are read"
    if tensor.is_floating_point() and not tensor.is_meta and not all_finite(tensor):
        return "holds values that are no finite numbers"
    return None


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is infinite or no number."""
    if tensor.itemsize == 1:  # nothing is computed in floats of a byte
        tensor = tensor.float()
    # A finite sum has finite terms only, and is found several times faster; an infinite one may have overflown.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def impossible(key: str, tensor: Tensor, dtype: torch.dtype) -> str | None:
    """What is wrong with the values of a weight that is going to be of this type; None for nothing."""
    if tensor.is_meta:
        return "has no values: it was saved from the meta device"
    if tensor.dtype != dtype and dtype.is_floating_point and not all_finite(tensor.to(dtype)):
        return f"holds values that {dtype} can't"
    if key.endswith("running_var") and tensor.numel() and tensor.min() < 0:
        return "holds negative variances"
    return None


def other_kind(given: Tensor, own: Tensor | None) -> bool:
    """Whether there is a tensor, of numbers of another kind: whole ones for fractions, or the other way round."""
    return own is not None and given.is_floating_point() != own.is_floating_point()
