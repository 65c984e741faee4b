"""Tensors of given values in odd forms, and what a computation does with them: numbers, or a kind of error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

FORMS = ("plain", "strided", "transposed", "offset", "expanded", "reversed storage")
forms = st.sampled_from(FORMS)


def in_form(tensor: Tensor, form: str) -> Tensor:
    """The same values with other strides; `expanded` makes them all equal along the first dimension."""
    if form == "strided" and tensor.ndim:
        return torch.stack([tensor, torch.full_like(tensor, 7)], -1)[..., 0]
    if form == "transposed" and tensor.ndim > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if form == "offset":
        return torch.cat([torch.full((3,), 9.0).to(tensor), tensor.flatten()])[3:].view(tensor.shape)
    if form == "expanded" and tensor.ndim and len(tensor):
        return tensor[:1].expand(tensor.shape)
    if form == "reversed storage" and tensor.ndim > 1:
        return tensor.flip(0).contiguous().flip(0)
    return tensor


@contextmanager
def surroundings(name: str) -> Iterator[None]:
    """Where a computation may happen."""

    class Watching(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with ExitStack() as stack:
        if name == "no grad":
            stack.enter_context(torch.no_grad())
        elif name == "inference":
            stack.enter_context(torch.inference_mode())
        elif name == "dispatch mode":
            stack.enter_context(FlopCounterMode(display=False))
        elif name == "function mode":
            stack.enter_context(Watching())
        elif name == "autocast":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        elif name == "profiler":
            stack.enter_context(torch.autograd.profiler.profile(use_kineto=False))
        yield


def outcome(compute: Callable[[], Any]) -> Any:
    """What comes out, or the kind of error that is raised."""
    try:
        return compute()
    except Exception as error:
        return next(kind for kind in (ValueError, TypeError, RuntimeError, Exception) if isinstance(error, kind))
