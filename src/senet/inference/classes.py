"""Matching the classes of a data set with the outputs of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from senet.data.split import portable
from senet.errors import DataError
from senet.zoo import LoadedModel

__all__ = ["output_names", "outputs_of"]


def outputs_of(loaded: LoadedModel, classes: Sequence[str]) -> Tensor:
    """Return the network's output for each class of the data.

    Classes are matched by name. Converted weights have numbered classes instead. They are matched in order if the data
    has the same number of classes.

    Args:
        loaded: The network.
        classes: Class names of the data. Some of the network's may be missing.

    Returns:
        (len(classes),) int64.

    Raises:
        DataError: The data has a class unknown to the network.
    """
    known = {portable(name): number for number, name in enumerate(loaded.classes)}
    strangers = [name for name in classes if portable(name) not in known]
    if not strangers:
        return torch.tensor([known[portable(name)] for name in classes])
    if not _numbered(loaded):
        raise DataError(
            f"the data has {len(strangers)} class{'es' * (len(strangers) > 1)} unknown to the network, the "
            f"first: {strangers[0]!r}; it has {', '.join(loaded.classes[:5])}{', ...' if len(known) > 5 else ''}"
        )
    if len(known) != len(classes):
        raise DataError(
            f"the network has {len(known):,} classes without names, and the data has {len(classes):,} classes; "
            "equal counts are matched in order, and classes named by numbers are matched by name"
        )
    return torch.arange(len(classes))


def output_names(loaded: LoadedModel, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the network's outputs: the data's names for numbered outputs."""
    return loaded.classes if {*map(portable, classes)} <= {*map(portable, loaded.classes)} else tuple(classes)


def _numbered(loaded: LoadedModel) -> bool:
    """Whether classes are numbers without names. A network trained here may have numbers as names."""
    return loaded.metadata.data is None and loaded.classes == tuple(map(str, range(len(loaded.classes))))
