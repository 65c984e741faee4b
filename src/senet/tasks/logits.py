"""Finding the logits in a network's output: a tensor, or one of several outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor, nn

from senet.errors import SenetError

__all__ = ["LogitsOf", "logits_of"]

KEYS = ("logits", "out")
"""Keys of the logits in dictionaries and objects of Hugging Face's and torchvision's networks."""


def logits_of(output: object, classes: int | None, *, name: str, dims: int = 2) -> Tensor:
    """Return the logits of a network's output.

    A tensor is returned unchanged. A dictionary, a named tuple or another object has them under `logits` or `out`. Any
    other tuple or list has them as its first tensor of shape (N, classes, ...). Auxiliary outputs are ignored.

    Args:
        output: The network's output.
        classes: Number of logits of an image or a pixel, or None if unknown.
        name: Name of the network, for the message.
        dims: 2 for (N, classes), 4 for (N, classes, H, W).

    Raises:
        SenetError: The output has no logits.
    """
    found = _found(output, classes, dims)
    if found is not None:
        return found
    shape = "(N, classes)" if dims == 2 else "(N, classes, H, W)"
    wanted = shape if classes is None else f"{shape} for {classes} classes"
    raise SenetError(
        f"{name} returns {_described(output)}, without logits {wanted};\n"
        f"return them from forward as a tensor, first in a tuple, or under 'logits' or 'out'"
    )


def _found(output: object, classes: int | None, dims: int) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    for key in KEYS:
        inner = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if inner is not None:
            return _found(inner, classes, dims)
    if isinstance(output, tuple | list):
        tensors = (one for one in output if isinstance(one, Tensor))
        return next((one for one in tensors if one.ndim == dims and classes in (None, one.shape[1])), None)
    return None


def _described(output: object) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with {', '.join(map(repr, output)) or 'nothing'}"
    if isinstance(output, tuple | list):
        parts = (str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in output)
        return f"a {type(output).__name__} of {', '.join(parts) or 'nothing'}"
    return f"a {type(output).__name__}"


@final
class LogitsOf(nn.Module):
    """A network that returns its logits alone.

    Args:
        network: A network with several outputs.
        classes: Number of classes.
        dims: 2 for logits (N, classes), 4 for (N, classes, H, W).
    """

    def __init__(self, network: nn.Module, classes: int, *, dims: int = 2) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes) or (N, classes, H, W)."""
        return logits_of(self.network(x), self.classes, name=type(self.network).__name__, dims=self.dims)
