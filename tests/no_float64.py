"""An accelerator without float64, as Apple's GPUs are. It computes on the CPU, but its tensors name another device.

Within `without_float64()` tensors move to `DEVICE` and back as on any accelerator. A float64 tensor on the device is a
`TypeError`, as on Apple's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

# A type of device that PyTorch knows in every build without a library behind it.
DEVICE = torch.device("lazy", 0)


class OnDevice(Tensor):
    """A tensor on the device, around the one on the CPU that has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        if inner.dtype is torch.float64:
            raise TypeError("this device has no float64")
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE, requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f"OnDevice({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Makes tensors that are created on the device, or moved to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given: list[OnDevice] = []
    tree_map_only(OnDevice, given.append, (args, kwargs))
    target = kwargs.get("device")
    on_device = bool(given) if target is None else torch.device(target).type == DEVICE.type
    if given and not on_device and kwargs.get("dtype") is torch.float64:
        raise TypeError("this device has no float64, so it converts after the move")
    plain_args, plain_kwargs = tree_map_only(OnDevice, lambda t: t.inner, (args, kwargs))
    if on_device and target is not None:
        plain_kwargs["device"] = torch.device("cpu")
    result = func(*plain_args, **plain_kwargs)
    if not on_device:
        return result
    known = {id(t.inner): t for t in given}
    return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else OnDevice(t), result)


@contextmanager
def without_float64() -> Iterator[torch.device]:
    """Make the device the accelerator of this machine."""
    device = mock.patch.multiple(
        torch.accelerator,
        is_available=lambda: True,
        current_accelerator=lambda: torch.device(DEVICE.type),
        device_count=lambda: 1,
        synchronize=lambda *_: None,
    )
    generator = SimpleNamespace(get_rng_state=lambda _: torch.get_rng_state(), set_rng_state=lambda *_: None)
    plain = torch.autocast

    def autocast(kind: str, **options: Any) -> Any:
        return nullcontext() if kind == DEVICE.type else plain(kind, **options)

    with (
        device,
        mock.patch.object(torch, "autocast", autocast),
        mock.patch.object(torch, DEVICE.type, generator, create=True),
        _Mode(),
    ):
        yield DEVICE
