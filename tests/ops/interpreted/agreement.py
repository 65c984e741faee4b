"""How near a result in the type of its feature maps is to the exact one."""

from __future__ import annotations

import torch
from torch import Tensor

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def assert_map(found: Tensor, exact: Tensor, plain: Tensor) -> None:
    """A feature map to 1e-5 of its scale in float32, else to one unit in the last place of each number.

    Where the problem is ill-conditioned, no float32 gets nearer than PyTorch's `plain`.
    """
    assert found.dtype is plain.dtype
    scale = exact.abs().max().clamp_min(1e-3)
    allowed = torch.full_like(exact, 1e-5) * scale
    if found.dtype is not torch.float32:
        allowed += torch.finfo(found.dtype).eps * exact.abs()
    else:
        allowed = allowed.clamp_min(4 * float((plain.double() - exact).abs().max()))
    assert ((found.double() - exact).abs() <= allowed).all(), float(((found.double() - exact).abs() / scale).max())


def assert_small(name: str, found: Tensor, exact: Tensor, plain: Tensor, terms: float) -> None:
    """A vector or matrix to 1e-5. A gradient may be a sum that cancels: then its terms set the scale."""
    assert found.dtype is torch.float32
    scale = exact.abs().max().clamp_min(max(1e-3, 1e-2 * terms))
    off, plainly = (float((t.double() - exact).abs().max() / scale) for t in (found, plain))
    assert off <= max(1e-5, 4 * plainly), (name, off, plainly)
