"""Device and precision of inference."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn

from senet.errors import UnknownNameError

__all__ = ["DTYPES", "default_device", "running"]

DTYPES = {"32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision to the data type of matrix products. None keeps the data type of the weights."""


LOCAL_RANKS: Final = ("LOCAL_RANK", "SLURM_LOCALID")
"""Environment variables with the number of this process on its machine: of `torchrun` and Lightning, and of `srun`."""


def default_device() -> torch.device:
    """Return the accelerator if one is available, else the CPU. Each of several processes has one of its own."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    found = torch.accelerator.current_accelerator()
    assert found is not None
    rank = next((os.environ[name] for name in LOCAL_RANKS if name in os.environ), None)
    if rank is None or int(rank) >= torch.accelerator.device_count():  # a launcher may show each process its own alone
        return found
    return torch.device(found.type, int(rank))


@contextmanager
def running(model: nn.Module, precision: str) -> Iterator[torch.device]:
    """Move a network to the default device, in evaluation mode, without gradients, in a precision.

    Args:
        model: The network. It stays on the device.
        precision: A key of `DTYPES`.

    Yields:
        The device for images.

    Raises:
        UnknownNameError: Unknown precision.
    """
    if precision not in DTYPES:
        raise UnknownNameError("precision", precision, DTYPES)
    device, dtype = default_device(), DTYPES[precision]
    model.to(device).to(memory_format=torch.channels_last).eval()
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        yield device
