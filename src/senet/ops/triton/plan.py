"""How a pass over a feature map is divided among programs."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

__all__ = ["Plan", "launch", "plan", "power"]

PROGRAMS: Final = 2048
"""Programs wanted for a pass: about as many as a large GPU runs at once. Not tuned on a device."""
TILE: Final = 2048
"""Numbers that a program holds of each feature map: 16 a thread, two accesses of 16 bytes in half precision."""
WIDTH: Final = 64
"""Largest number of channels of a program: 128 bytes in half precision."""
PART: Final = 1 << 30
"""Largest part of a sample. Offsets within a part have 32 bits, those of the parts 64."""


class Plan(NamedTuple):
    """The programs of a pass. Each takes `rows` pixels of one sample and `BLOCK_C` channels.

    Attributes:
        samples: N.
        channels: C.
        pixels: H * W.
        rows: Pixels of a program, in steps of `BLOCK_R`.
        chunks: Programs for the pixels of a sample.
        panels: Programs for the channels.
        BLOCK_R: Pixels of a step.
        BLOCK_C: Channels of a program.
    """

    samples: int
    channels: int
    pixels: int
    rows: int
    chunks: int
    panels: int
    BLOCK_R: int
    BLOCK_C: int

    @property
    def programs(self) -> int:
        """The size of the grid."""
        return self.samples * self.chunks * self.panels

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """What each kernel of a pass takes: pixels, rows, chunks, panels."""
        return self.pixels, self.rows, self.chunks, self.panels

    @property
    def blocks(self) -> dict[str, int]:
        """The constants of each kernel of a pass."""
        return {"BLOCK_R": self.BLOCK_R, "BLOCK_C": self.BLOCK_C}


def plan(x: Tensor) -> Plan:
    """Divide a pass over x, (N, C, H, W). It depends on the sizes only, so that results do too."""
    n, c, height, width = x.shape
    pixels = height * width
    block_c = min(WIDTH, power(c))
    block_r = min(max(1, TILE // block_c), power(pixels))
    panels = -(-c // block_c)
    steps = -(-pixels // block_r)
    wanted = max(1, PROGRAMS // (n * panels), -(-pixels * c // PART))
    rows = block_r * -(-steps // wanted)
    return Plan(n, c, pixels, rows, -(-pixels // rows), panels, block_r, block_c)


def power(number: int) -> int:
    """Return the smallest power of two from `number` on."""
    return 1 << (number - 1).bit_length()


def launch(kernel: Any, programs: int, on: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the device of a tensor.

    Args:
        kernel: The kernel.
        programs: Size of the grid.
        on: A tensor of the device.
        arguments: Tensors, None, and numbers.
        constants: The kernel's constants.
    """
    if on.is_cuda and on.device.index != torch.cuda.current_device():
        with torch.cuda.device(on.device):
            kernel[(programs,)](*arguments, **constants)
    else:
        kernel[(programs,)](*arguments, **constants)
