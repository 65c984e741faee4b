"""Where a program stands in a feature map, and the norm's vectors of its channels."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["centred", "norm_at", "place", "place_of_sample"]


@triton.jit
def place(pixels, rows, chunks, panels, BLOCK_C: tl.constexpr):
    """Return sample, row of the partial sums, first pixel, number of pixels, and channels of a program.

    Neighbours take the panels of the same pixels, which are neighbours in memory.
    """
    program = tl.program_id(0)
    part = program // panels
    first = part % chunks * rows
    c = program % panels * BLOCK_C + tl.arange(0, BLOCK_C)
    return part // chunks, part, first, tl.minimum(pixels - first, rows), c


@triton.jit
def place_of_sample(panels, BLOCK_C: tl.constexpr):
    """Return sample and channels of a program that joins the partial sums of a sample."""
    program = tl.program_id(0)
    return program // panels, program % panels * BLOCK_C + tl.arange(0, BLOCK_C)


@triton.jit
def norm_at(saved, gamma, beta, c, inside, channels):
    """Return mean, the mean's rounding error, scale and offset: `v = ((x - mean) - error) * scale + offset`."""
    mean = tl.zeros(c.shape, tl.float32)
    error, offset = mean, mean
    scale = mean + 1
    if saved is not None:
        mean = tl.load(saved + c, mask=inside, other=0.0)
        error = tl.load(saved + channels + c, mask=inside, other=0.0)
        scale = tl.load(saved + 2 * channels + c, mask=inside, other=0.0)
    if gamma is not None:
        scale = scale * tl.load(gamma + c, mask=inside, other=0.0)
    if beta is not None:
        offset = tl.load(beta + c, mask=inside, other=0.0)
    return mean, error, scale, offset


@triton.jit
def centred(x, mean, error):
    """Return x, (pixels, channels), less the mean."""
    return (x.to(tl.float32) - mean[None, :]) - error[None, :]
