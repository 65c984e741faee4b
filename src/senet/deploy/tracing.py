"""From a network to a graph of operations, for images of any size where the network takes any."""

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
        network: In evaluation mode, on the processor.
        channels: Of the image.
        size: Height and width in pixels to trace with, or the only ones.
        any_size: Whether other sizes are to be possible.
        batch: The only number of images; None: any.

    Returns:
        The graph, and whether it takes any size: a network with a linear layer over a whole map takes one only.

    Raises:
        SenetError: It can't be traced: what it computes hangs on the values in the image.
    """
    batches = {} if batch else {0: Dim.DYNAMIC}
    example = (torch.zeros(batch or 2, channels, *size),)
    # Inequalities of sizes that it can't solve it reports with hundreds of lines, and goes on.
    with torch.no_grad(), errors_only("torch.fx.experimental.symbolic_shapes"):
        if any_size:
            shapes = ({**batches, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
            # No map may have one pixel, as a gate does: in ONNX the two would pass for one size.
            larger = torch.zeros(batch or 2, channels, 2 * size[0], 2 * size[1])
            with suppress(Exception):  # of many types; the second try tells what is wrong
                program = torch.export.export(network, (larger,), dynamic_shapes=shapes)
                # A condition such as height * width = 50176 it leaves to the call.
                program.module()(torch.zeros(batch or 2, channels, size[0] + 32, size[1] + 64))
                return program, True
        try:
            return torch.export.export(network, example, dynamic_shapes=(batches or None,)), False
        except Exception as error:
            raise SenetError(f"this network can't be exported: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The telling line of a long message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in _TELLING)]
    return (telling or lines or [type(error).__name__])[0][:300]


_TELLING = (
    "No conversion",
    "no conversion",
    "No ONNX function",
    "not supported",
    "Unsupported",
    "unsupported",
    "data-dependent",
    "aten",
)
