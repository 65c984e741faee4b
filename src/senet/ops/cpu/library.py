"""The compiled kernel: load it from this folder, give it PyTorch's threads, and call it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from senet.ops.setting import VARIABLE, requested

__all__ = ["Choice", "call", "choose"]

_FILE: Final = Path(__file__).with_name("_kernel.so")
_ABI: Final = 9  # SENET_ABI of kernel.h
# Argument types of the kernel's functions: s is a structure, p an address, i a size.
_FUNCTIONS: Final = {
    "senet_step_forward": "sppppp",
    "senet_step_backward": "spppppps",
    "senet_step_rescale": "spppp",
    "senet_gated_step_forward": "sipppp",
    "senet_gated_step_excite": "sippp",
    "senet_gated_step_excite_back": "sippppps",
    "senet_gated_step_apply": "sipppp",
    "senet_gated_step_sums": "sipppp",
    "senet_gated_step_backward": "sippppppps",
    "senet_convolve": "siiiiiipppppp",
    "senet_convolve_bf16": "siiiiiippppp",
    "senet_depthwise_convolve": "siiiiiipppp",
    "senet_excite": "siiipppp",
}
_KINDS: Final = {"s": ctypes.c_char_p, "p": ctypes.c_void_p, "i": ctypes.c_int64}


@dataclass(frozen=True)
class Choice:
    """The back end of the fused operators on the CPU.

    Attributes:
        library: The compiled kernel. None is the reference in plain PyTorch.
        reason: The kernel's instruction set and threads, or the reason why there is no kernel.

    Example:
        >>> from senet.ops import choose, using
        >>> with using("reference"):
        ...     choose()
        Choice(library=None, reason='SENET_KERNELS=reference')
    """

    library: ctypes.CDLL | None
    reason: str


@cache
def choose() -> Choice:
    """Return the compiled kernel if it was built and `SENET_KERNELS` isn't "reference". Cached per process.

    Raises:
        UnknownNameError: `SENET_KERNELS` has an unknown value.

    Example:
        >>> from senet.ops import choose, using
        >>> with using("reference"):
        ...     choose().library is None
        True
    """
    return Choice(None, f"{VARIABLE}=reference") if requested() == "reference" else _loaded(_FILE)


@cache
def _loaded(file: Path) -> Choice:
    """Load the kernel from a file."""
    if not file.exists():
        return Choice(None, "not compiled when senet was installed; install gcc or clang, then reinstall senet")
    try:
        library = ctypes.CDLL(str(file))
        abi = library.senet_abi()
    except (OSError, AttributeError) as error:
        return Choice(None, f"{file.name} can't be loaded: {error}")
    if abi != _ABI:
        return Choice(None, f"{file.name} belongs to another version of senet; reinstall senet")
    library.senet_name.restype = ctypes.c_char_p
    for name, kinds in _FUNCTIONS.items():
        getattr(library, name).argtypes = [_KINDS[kind] for kind in kinds]
    _share(library.senet_set_number, "omp_get_thread_num")
    threads = "PyTorch's threads" if _share(library.senet_set_region, "GOMP_parallel") else "one thread"
    return Choice(library, f"{library.senet_name().decode()}, {threads}")


def call(name: str, *arguments: bytes | int) -> None:
    """Call a function of the kernel.

    Args:
        name: A key of `_FUNCTIONS`.
        arguments: Structures as bytes, sizes, and addresses. 0 for a missing tensor.

    Raises:
        MemoryError: The kernel can't allocate its workspace.
    """
    library = choose().library
    assert library is not None
    if getattr(library, name)(*arguments):
        raise MemoryError("out of memory in the fused operator's workspace")


def _share(setter: Any, name: str) -> bool:
    """Pass the kernel a function of PyTorch's OpenMP runtime, and return whether it was found.

    The threads of a second runtime would compete for the cores.
    """
    setter.argtypes = [ctypes.c_void_p]
    for file in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).with_name("lib") / file
        if path.exists():
            # Looked up in this library and its dependencies.
            found = getattr(ctypes.CDLL(str(path)), name, None)
            if found is not None:
                setter(ctypes.cast(found, ctypes.c_void_p))
                return True
    return False
