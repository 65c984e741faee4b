"""Example inputs of a network: given by the user, or guessed from its first convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from senet.errors import SenetError

__all__ = ["ExampleInputs", "Inputs", "guesses", "tensors_in"]

ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any]
"""One tensor, a tuple or list of all positional arguments, or a dict of all arguments by name."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call.

    Attributes:
        positional: Positional arguments.
        named: Keyword arguments.
        guessed: Whether they were guessed instead of given by the user.
    """

    positional: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)
    guessed: bool = False

    @classmethod
    def of(cls, example: ExampleInputs) -> Inputs:
        """Convert example inputs.

        Raises:
            SenetError: They have another type.
        """
        if isinstance(example, Tensor):
            return cls((example,))
        if isinstance(example, Mapping) and all(isinstance(name, str) for name in example):
            return cls(named=dict(example))
        if isinstance(example, Sequence) and not isinstance(example, str | bytes):
            return cls(tuple(example))
        raise SenetError(
            f"example_inputs is {type(example).__name__}; it must be a tensor, a tuple of all positional arguments, "
            "or a dict of all arguments by name"
        )

    def on(self, device: torch.device | str) -> Inputs:
        """Move all tensors to a device."""
        return self._with(lambda tensor: tensor.to(device))

    def copied(self) -> Inputs:
        """Copy all tensors."""
        return self._with(lambda tensor: tensor.clone())

    def smallest(self) -> Inputs:
        """Reduce a guessed batch to one image."""
        batch = self.guessed and isinstance(self.positional[0], Tensor)
        return self._with(lambda tensor: tensor[:1]) if batch else self

    def _with(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        def changed(leaf: Any) -> Any:
            return change(leaf.detach()) if isinstance(leaf, Tensor) else leaf

        return replace(self, positional=tree_map(changed, self.positional), named=tree_map(changed, self.named))

    def call(self, model: nn.Module) -> Any:
        """Call a network with them."""
        return model(*self.positional, **self.named)

    def __str__(self) -> str:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in((self.positional, self.named)))
        return f"an input of shape {shapes}" if shapes else "no tensor"


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Yield tensors in nested containers and in attributes of objects (a detector's list of images)."""
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, nn.Module):
            yield from (v for v in vars(leaf).values() if isinstance(v, Tensor))


def guesses(model: nn.Module) -> Iterator[Inputs]:
    """Yield guesses from the first convolution: a batch, then a detector's list of images.

    Raises:
        SenetError: The network has no convolution.
    """
    convs = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    if not convs:
        raise SenetError(f"{type(model).__name__} has no convolution, so attention can't be inserted")
    first = convs[0]
    for size in _sizes(model, first):
        for channels in dict.fromkeys((first.in_channels, 3)):
            image = _random(first.weight, 2, channels, *size)
            yield Inputs((image,), guessed=True)
            if len(size) == 2:
                yield Inputs(([image[0]],), guessed=True)


def _random(like: Tensor, *shape: int) -> Tensor:
    """Return deterministic random values from 0 to 1. A blank image would hide changes."""
    if like.is_meta:
        return torch.empty(shape, dtype=like.dtype, device="meta")
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator, device="cpu").to(like.device, like.dtype)


def _sizes(model: nn.Module, first: nn.Module) -> list[tuple[int, ...]]:
    known = getattr(model, "default_cfg", None) or getattr(model, "pretrained_cfg", None)
    if isinstance(known, Mapping) and len(known.get("input_size") or ()) == 3:
        return [tuple(known["input_size"][1:])]
    own = getattr(getattr(getattr(model, "spec", None), "preprocessing", None), "size", None)
    if own is not None:
        return [tuple(own)]
    sizes: dict[type[nn.Module], list[tuple[int, ...]]] = {
        nn.Conv1d: [(4096,), (16384,), (256,)],
        nn.Conv2d: [(224, 224), (299, 299), (32, 32)],
        nn.Conv3d: [(16, 112, 112), (32, 64, 64), (32, 224, 224), (16, 224, 224)],
    }
    return next(found for kind, found in sizes.items() if isinstance(first, kind))
