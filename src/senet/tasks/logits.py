"""The logits in whatever a network answers: a tensor, or one among several things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor, nn

from senet.errors import SenetError

__all__ = ["LogitsOf", "logits_of"]

KEYS = ("logits", "out")
"""Where dictionaries and objects have them: Hugging Face's and torchvision's classifiers, torchvision's segmenters."""


def logits_of(answer: object, classes: int | None, *, name: str, dims: int = 2) -> Tensor:
    """The logits in a network's answer.

    A tensor is taken as it is. In a dictionary, a named tuple or another object they stand under `logits` or `out`. Of
    any other tuple or list they are the first tensor of shape (N, classes, ...). Auxiliary outputs are left out.

    Args:
        answer: What the network gave.
        classes: How many logits an image, or a pixel, has; None if that isn't known.
        name: The network, for the message.
        dims: 2 for (N, classes), 4 for (N, classes, H, W).

    Raises:
        SenetError: There are none.
    """
    found = _found(answer, classes, dims)
    if found is not None:
        return found
    shape = "(N, classes)" if dims == 2 else "(N, classes, H, W)"
    wanted = shape if classes is None else f"{shape} for {classes} classes"
    raise SenetError(
        f"{name} gives {_described(answer)}, in which no logits {wanted} are found;\n"
        f"let its forward return them as a tensor, first in a tuple, or under 'logits' or 'out'"
    )


def _found(answer: object, classes: int | None, dims: int) -> Tensor | None:
    if isinstance(answer, Tensor):
        return answer
    for key in KEYS:
        inner = answer.get(key) if isinstance(answer, Mapping) else getattr(answer, key, None)
        if inner is not None:
            return _found(inner, classes, dims)
    if isinstance(answer, tuple | list):
        tensors = (one for one in answer if isinstance(one, Tensor))
        return next((one for one in tensors if one.ndim == dims and classes in (None, one.shape[1])), None)
    return None


def _described(answer: object) -> str:
    if isinstance(answer, Mapping):
        return f"a {type(answer).__name__} with {', '.join(map(repr, answer)) or 'nothing'}"
    if isinstance(answer, tuple | list):
        parts = (str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in answer)
        return f"a {type(answer).__name__} of {', '.join(parts) or 'nothing'}"
    return f"a {type(answer).__name__}"


@final
class LogitsOf(nn.Module):
    """A network that gives its logits alone.

    Args:
        network: Gives them among other things.
        classes: How many an image has.
    """

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network = network
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        return logits_of(self.network(x), self.classes, name=type(self.network).__name__)
