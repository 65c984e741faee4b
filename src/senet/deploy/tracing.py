"""Trace a network to a graph of operations, for images of any size where possible."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from senet.deploy.quiet import errors_only
from senet.errors import SenetError

__all__ = ["reason", "traced"]


def traced(
    network: nn.Module, channels: int, size: tuple[int, int], *, any_size: bool, batch: int | None
) -> tuple[ExportedProgram, bool]:
    """Trace a network with `torch.export`.

    Args:
        network: A network in evaluation mode on the CPU.
        channels: Number of channels of the images.
        size: Height and width in pixels to trace with, or the fixed size.
        any_size: Whether to allow other sizes.
        batch: Fixed batch size; None: any.

    Returns:
        The graph, and whether it takes any size. A linear layer over a whole feature map fixes the size.

    Raises:
        SenetError: The network can't be traced, for example because its operations depend on the values of the image.
    """
    batches = {} if batch else {0: Dim.DYNAMIC}
    example = (torch.zeros(batch or 2, channels, *size),)
    # PyTorch reports unsolved inequalities of sizes in hundreds of log lines, and goes on.
    with torch.no_grad(), errors_only("torch.fx.experimental.symbolic_shapes"):
        if any_size:
            shapes = ({**batches, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
            # No feature map may have one pixel, as a gate does: ONNX would treat both as the same size.
            larger = torch.zeros(batch or 2, channels, 2 * size[0], 2 * size[1])
            with suppress(Exception):  # of many types; the second try reports the error
                program = torch.export.export(network, (larger,), dynamic_shapes=shapes)
                # A condition such as height * width = 50176 is checked at the call only.
                program.module()(torch.zeros(batch or 2, channels, size[0] + 32, size[1] + 64))
                return program, True
        try:
            return torch.export.export(network, example, dynamic_shapes=(batches or None,)), False
        except Exception as error:
            raise SenetError(f"this network can't be exported: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return the informative line of a long message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    informative = [line for line in lines if any(word in line for word in _KEYWORDS)]
    return (informative or lines or [type(error).__name__])[0][:300]


_KEYWORDS = (
    "No conversion",
    "no conversion",
    "No ONNX function",
    "not supported",
    "Unsupported",
    "unsupported",
    "data-dependent",
    "aten",
)
