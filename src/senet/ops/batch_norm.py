"""Batch norm in plain PyTorch, forwards and backwards: what the definitions of the fused operators share."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

__all__ = ["affine", "contiguous", "moments", "norm_gradients", "normalize", "unbiased"]


def contiguous(tensors: Iterable[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Return the tensors in contiguous memory."""
    return tuple(None if t is None else t.contiguous() for t in tensors)


def moments(
    x: Tensor, mean: Tensor | None, var: Tensor | None, training: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance and 1 / sqrt(var + eps), (C,) each."""
    if training:
        mean = x.mean((0, 2, 3))
        var = (x - mean[:, None, None]).square().mean((0, 2, 3))
    assert mean is not None
    assert var is not None
    return mean, var, (var + eps).rsqrt()


def unbiased(x: Tensor, var: Tensor) -> Tensor:
    """Return the unbiased variance, (C,), from the biased one of x."""
    return var * (x.numel() / max(1, x.numel() - x.shape[1]))


def normalize(x: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """Return `(x - mean) * inverse` of each channel."""
    return (x - mean[:, None, None]) * inverse[:, None, None]


def affine(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    """Return `x * gamma + beta` of each channel."""
    if gamma is not None:
        x = x * gamma[:, None, None]
    return x if beta is None else x + beta[:, None, None]


def norm_gradients(
    dv: Tensor, normal: Tensor, inverse: Tensor, gamma: Tensor | None, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, gamma and beta from that of `affine(normal, gamma, beta)`."""
    space = (0, 2, 3)
    along, level = (dv * normal).sum(space), dv.sum(space)
    dx = dv
    if training:
        count = dv.shape[0] * dv.shape[2] * dv.shape[3]
        dx = dv - (level / count)[:, None, None] - normal * (along / count)[:, None, None]
    return dx * (inverse if gamma is None else inverse * gamma)[:, None, None], along, level
