"""Recognize the weights in a file before a network is built for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

from senet.preprocessing import Preprocessing
from senet.weights.contents import Contents
from senet.weights.matching import Choice, match
from senet.weights.wrappers import plain_names, unwrapped

__all__ = ["Recognised", "recognise"]


@dataclass(frozen=True)
class Recognised:
    """The recognized weights of a file.

    Attributes:
        layout: Layout of their names.
        classes: Number of classes of their classifier, None where the network doesn't depend on it.
        headless: Keys of the network's classifier, if the file has none of them.
        images: As in `LoadReport`.
        notes: As in `LoadReport`.
    """

    layout: str
    classes: int | None
    headless: tuple[str, ...]
    images: Preprocessing | None
    notes: tuple[str, ...]


def recognise(
    build: Callable[[int], nn.Module], contents: Contents, choice: Choice, *, layout: str = "auto"
) -> Recognised:
    """Find a network's weights and their number of classes.

    Args:
        build: Builds the network for a number of classes.
        contents: Contents of the file.
        choice: The user's selection in the file.
        layout: A name in `LAYOUTS`, or `auto`.

    Raises:
        CheckpointError: No part of the file fits, or several do.
    """
    two, three = (_shapes(build(classes)) for classes in (2, 3))
    own = {key: torch.empty(shape, device="meta") for key, shape in two.items()}
    fit = match(contents, own, layout, choice)
    given = fit.found.tensors
    head = tuple(key for key in two if two[key] != three.get(key))
    numbers = {_solved(two[key], three[key], given[key].shape) for key in head if key in given}
    only = numbers.pop() if len(numbers) == 1 else None
    headless = () if any(key in given for key in head) else head
    return Recognised(fit.table.layout, only, headless, fit.table.images, fit.notes())


def _solved(two: torch.Size, three: torch.Size, there: torch.Size) -> int | None:
    """Compute the number of classes of a shape from the shapes for two and three classes."""
    if len(there) != len(two):
        return None
    axis = next(n for n, (a, b) in enumerate(zip(two, three, strict=True)) if a != b)
    number = 2 + Fraction(there[axis] - two[axis], three[axis] - two[axis])
    return int(number) if number.denominator == 1 and number > 0 else None


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    model = unwrapped(model)
    state = model.state_dict()
    return {plain: state[key].shape for plain, key in plain_names(model).items()}
