"""The compiled kernel: looked for beside this file, loaded, given PyTorch's threads, called."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from senet.errors import UnknownNameError

__all__ = ["Choice", "call", "choose", "describe", "using"]

VARIABLE: Final = "SENET_KERNELS"
CHOICES: Final = ("compiled", "reference")
_FILE: Final = Path(__file__).with_name("_kernel.so")
_ABI: Final = 6  # SENET_ABI of kernel.h
# Arguments of the kernel's functions: s is a structure, p an address, i a size.
_FUNCTIONS: Final = {
    "senet_step_forward": "sppppp",
    "senet_step_backward": "spppppps",
    "senet_step_rescale": "spppp",
    "senet_gated_step_forward": "sipppp",
    "senet_gated_step_apply": "sipppp",
    "senet_gated_step_sums": "sipppp",
    "senet_gated_step_backward": "sippppppps",
    "senet_convolve": "siiiiiippp",
}
_KINDS: Final = {"s": ctypes.c_char_p, "p": ctypes.c_void_p, "i": ctypes.c_int64}


@dataclass(frozen=True)
class Choice:
    """What the ends of residual blocks run on.

    Attributes:
        library: The compiled kernel; None is the reference in plain PyTorch.
        reason: Which instructions it uses and whose threads, or why there is none.
    """

    library: ctypes.CDLL | None
    reason: str


@cache
def choose() -> Choice:
    """The compiled kernel if it was built and `SENET_KERNELS` isn't "reference"; decided once a process.

    Raises:
        UnknownNameError: `SENET_KERNELS` is neither "compiled" nor "reference".
    """
    wish = os.environ.get(VARIABLE) or "compiled"
    if wish not in CHOICES:
        raise UnknownNameError(f"value of {VARIABLE}", wish, CHOICES)
    return Choice(None, f"{VARIABLE}=reference") if wish == "reference" else _loaded(_FILE)


@cache
def _loaded(file: Path) -> Choice:
    """The kernel in this file."""
    if not file.exists():
        return Choice(None, "not compiled when senet was installed; with gcc or clang there, install it again")
    try:
        library = ctypes.CDLL(str(file))
        abi = library.senet_abi()
    except (OSError, AttributeError) as error:
        return Choice(None, f"{file.name} can't be loaded: {error}")
    if abi != _ABI:
        return Choice(None, f"{file.name} is of another version of senet; install it again")
    library.senet_name.restype = ctypes.c_char_p
    for name, kinds in _FUNCTIONS.items():
        getattr(library, name).argtypes = [_KINDS[kind] for kind in kinds]
    _share(library.senet_set_number, "omp_get_thread_num")
    threads = "PyTorch's threads" if _share(library.senet_set_region, "GOMP_parallel") else "one thread"
    return Choice(library, f"{library.senet_name().decode()}, {threads}")


@contextmanager
def using(wish: str) -> Iterator[None]:
    """Within the block the operators run on "compiled" or "reference"; what the environment says comes back."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = wish
    choose.cache_clear()
    try:
        choose()
        yield
    finally:
        choose.cache_clear()
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def describe() -> str:
    """One line for people."""
    chosen = choose()
    return f"{'reference' if chosen.library is None else 'compiled'} ({chosen.reason})"


def call(name: str, *arguments: bytes | int) -> None:
    """Call a function of the kernel.

    Args:
        name: A key of `_FUNCTIONS`.
        arguments: Structures as bytes; sizes; addresses, 0 for what isn't there.

    Raises:
        MemoryError: It has no memory for its workspace.
    """
    library = choose().library
    assert library is not None
    if getattr(library, name)(*arguments):
        raise MemoryError("out of memory in the fused operator's workspace")


def _share(setter: Any, name: str) -> bool:
    """Hand the kernel a function of the OpenMP runtime that PyTorch runs on; whether it was found.

    With a second runtime, threads would fight over the cores.
    """
    setter.argtypes = [ctypes.c_void_p]
    for file in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).with_name("lib") / file
        if path.exists():
            # Looked up in this library and in those that it needs.
            found = getattr(ctypes.CDLL(str(path)), name, None)
            if found is not None:
                setter(ctypes.cast(found, ctypes.c_void_p))
                return True
    return False
