"""Device and precision of inference."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from senet.errors import UnknownNameError

__all__ = ["DTYPES", "default_device", "device_named", "running"]

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


def device_named(name: str) -> torch.device:
    """Return a device of this machine.

    Args:
        name: `"cpu"`, or an accelerator such as `"cuda"`, `"cuda:1"` or `"mps"`.

    Raises:
        UnknownNameError: This machine has no such device.

    Example:
        >>> from senet.inference.device import device_named
        >>> device_named("cpu")
        device(type='cpu')
    """
    known = ["cpu"]
    if torch.accelerator.is_available():
        kind = default_device().type
        known += [kind, *(f"{kind}:{number}" for number in range(torch.accelerator.device_count()))]
    if name not in known:
        raise UnknownNameError("device", name, known)
    return torch.device(name)


@contextmanager
def running(model: nn.Module, precision: str, device: torch.device | None = None) -> Iterator[torch.device]:
    """Move a network to a device, in evaluation mode, without gradients, in a precision.

    Args:
        model: The network. It stays on the device.
        precision: A key of `DTYPES`.
        device: The device. None is `default_device()`.

    Yields:
        The device for images.

    Raises:
        UnknownNameError: Unknown precision.
    """
    if precision not in DTYPES:
        raise UnknownNameError("precision", precision, DTYPES)
    device, dtype = device or default_device(), DTYPES[precision]
    convert_conv2d_weight_memory_format(model.to(device).eval(), torch.channels_last)
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        yield device
