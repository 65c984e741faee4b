"""Whether the Triton back end can run on this machine, and whether it is on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Final

import torch

from senet.ops.setting import VARIABLE, requested

__all__ = ["State", "describe", "interpreted", "state"]

CAPABILITY: Final = (8, 0)
"""The oldest GPUs for which the kernels are compiled in the tests."""


@dataclass(frozen=True)
class State:
    """The state of the Triton back end.

    Attributes:
        available: Whether it can run on this machine.
        on: Whether the operators use it.
        reason: Where it runs, or why it can't.
    """

    available: bool
    on: bool
    reason: str


@cache
def state() -> State:
    """Return the state of the back end. Cached per process.

    Example:
        >>> from senet.ops import using
        >>> from senet.ops.triton import state
        >>> with using("reference"):
        ...     state().on
        False
    """
    problem, where = _place()
    return State(not problem, not problem and requested() == "triton", problem or where)


@cache
def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors (`TRITON_INTERPRET=1`). Fixed for a process."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def describe() -> str:
    """Describe the back end in one line.

    Example:
        >>> from senet.ops.triton import describe
        >>> describe().partition(" ")[0] in ("on", "off", "unavailable")
        True
    """
    found = state()
    if not found.available:
        return f"unavailable ({found.reason})"
    if found.on:
        return f"on ({found.reason}; never measured on a GPU)"
    return f"off ({found.reason}; {VARIABLE}=triton turns it on; never measured on a GPU)"


@cache
def _place() -> tuple[str, str]:
    """The reason why the kernels can't run, or where they run."""
    if find_spec("triton") is None:
        return "triton is not installed", ""
    if interpreted():
        return "", "Triton's interpreter on the CPU"
    if torch.version.hip is not None or not torch.cuda.is_available():
        return "no NVIDIA GPU", ""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if min(torch.cuda.get_device_capability(i) for i in range(len(names))) < CAPABILITY:
        return f"a GPU has a compute capability below {CAPABILITY[0]}.{CAPABILITY[1]}", ""
    return "", ", ".join(sorted(set(names)))
