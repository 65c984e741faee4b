"""Which of a network's outputs stands for which class of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from senet.data.split import portable
from senet.errors import DataError
from senet.zoo import LoadedModel

__all__ = ["output_names", "outputs_of"]


def outputs_of(loaded: LoadedModel, classes: Sequence[str]) -> Tensor:
    """The network's output for each class of the data.

    Classes are matched by name. Outputs of converted weights are numbered, since nobody named them: as in training,
    they fit any as many classes in their order.

    Args:
        loaded: The network.
        classes: Names of the data's classes; some of the network's may be missing.

    Returns:
        (len(classes),) int64.

    Raises:
        DataError: The data has a class that the network doesn't know.
    """
    known = {portable(name): number for number, name in enumerate(loaded.classes)}
    strangers = [name for name in classes if portable(name) not in known]
    if not strangers:
        return torch.tensor([known[portable(name)] for name in classes])
    if not _numbered(loaded):
        raise DataError(
            f"the data has {len(strangers)} class{'es' * (len(strangers) > 1)} that the network wasn't trained on, the "
            f"first: {strangers[0]!r}; it knows {', '.join(loaded.classes[:5])}{', ...' if len(known) > 5 else ''}"
        )
    if len(known) != len(classes):
        raise DataError(
            f"the network's {len(known):,} classes have numbers, no names, and the data has {len(classes):,} classes: "
            "only as many can be matched, or classes that are called by the numbers"
        )
    return torch.arange(len(classes))


def output_names(loaded: LoadedModel, classes: Sequence[str]) -> tuple[str, ...]:
    """Names of the network's outputs: the data's, where numbered outputs were matched with them."""
    return loaded.classes if {*map(portable, classes)} <= {*map(portable, loaded.classes)} else tuple(classes)


def _numbered(loaded: LoadedModel) -> bool:
    """Whether classes are numbers for want of names; of a network trained here, they are called so in the data."""
    return loaded.description.data is None and loaded.classes == tuple(map(str, range(len(loaded.classes))))
