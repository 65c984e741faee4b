"""Where and how a network runs when it isn't training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from senet.errors import UnknownNameError

__all__ = ["DTYPES", "default_device", "running"]

DTYPES = {"32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision to the type that matrix products run in; None leaves them as the weights are."""


def default_device() -> torch.device:
    """The accelerator, if there is one that works, else the processor."""
    if torch.accelerator.is_available():
        found = torch.accelerator.current_accelerator()
        assert found is not None
        return found
    return torch.device("cpu")


@contextmanager
def running(model: nn.Module, precision: str) -> Iterator[torch.device]:
    """Put a network where it runs best, in evaluation mode, without gradients, in that precision.

    Args:
        model: Is moved, and stays there.
        precision: A key of `DTYPES`.

    Yields:
        The device that images must be moved to.

    Raises:
        UnknownNameError: No such precision.
    """
    if precision not in DTYPES:
        raise UnknownNameError("precision", precision, DTYPES)
    device, dtype = default_device(), DTYPES[precision]
    model.to(device).to(memory_format=torch.channels_last).eval()
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        yield device
