"""How NVIDIA GPUs compute convolutions and matrix products: cuDNN's choice of algorithms, and TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["cuda_backends", "describe_tf32", "tf32_uses"]


@contextmanager
def cuda_backends(device: torch.device, *, autotune: bool, tf32: bool | None = None) -> Iterator[None]:
    """Set PyTorch's backends for CUDA within this context, and restore them after it. Other devices ignore it.

    Args:
        device: The device that computes.
        autotune: cuDNN tries its algorithms for each new input size and keeps the fastest. This takes about a second
            per size, and the choice may differ between runs.
        tf32: Multiply float32 numbers with 10 bits of their fraction instead of 23, in convolutions and matrix
            products. None keeps the settings: PyTorch's own are TF32 for convolutions only.

    Example:
        >>> import torch
        >>> from senet.inference.backends import cuda_backends
        >>> with cuda_backends(torch.device("cuda"), autotune=True, tf32=False):  # no GPU is needed to set it
        ...     torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
        (True, False)
        >>> torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
        (False, True)
    """
    if device.type != "cuda":
        yield
        return
    # Lightning reads the older names of these settings, and PyTorch refuses a mixture with the newer ones.
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.benchmark = autotune
        if tf32 is not None:
            cudnn.allow_tf32 = matmul.allow_tf32 = tf32
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def describe_tf32() -> str:
    """Say whether this machine multiplies float32 numbers in TF32, for people.

    Example:
        >>> from senet.inference.backends import describe_tf32
        >>> describe_tf32()  # doctest: +SKIP
        'in training, unless --no-tf32; otherwise in convolutions'
    """
    if not torch.cuda.is_available():
        return "no effect, since there is no GPU with CUDA"
    if not torch.cuda.is_tf32_supported():
        return f"no effect, since {torch.cuda.get_device_name()} lacks it"
    return f"in training, unless --no-tf32; otherwise in {tf32_uses()}"


def tf32_uses() -> str:
    """Return the operations that PyTorch's current settings let compute in TF32, for people.

    Example:
        >>> from senet.inference.backends import tf32_uses
        >>> tf32_uses()
        'convolutions'
    """
    used = {"convolutions": torch.backends.cudnn.allow_tf32, "matrix products": torch.backends.cuda.matmul.allow_tf32}
    return " and ".join(name for name, allowed in used.items() if allowed) or "nothing"
