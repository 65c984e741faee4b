"""Weights that another program wrote, as what a training begins with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.tasks import CLASSIFICATION, task_named

if TYPE_CHECKING:
    from torch import nn

    from senet.preprocessing import Preprocessing
    from senet.weights.recognise import Recognised

__all__ = ["ExternalWeights"]


@dataclass(frozen=True, kw_only=True)
class ExternalWeights:
    """How they get from their file into the network.

    Attributes:
        classes: For how many their classifier is; None where they don't say it, or have none.
        headless: Keys of the network's classifier, if they have none.
        prefix: As in `load_weights`.
        ignore: As in `load_weights`.
        weights: As in `load_weights`.
    """

    classes: int | None = None
    headless: tuple[str, ...] = ()
    prefix: str | None = None
    ignore: tuple[str, ...] = ()
    weights: str = "auto"

    def __post_init__(self) -> None:
        for name in ("headless", "ignore"):  # JSON, from which it is read, has lists only
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def begin(self, model: nn.Module, path: str, build: Callable[[int], nn.Module], outputs: int) -> str:
        """Load them into a whole network; what depends on another number of classes stays as it is there.

        Args:
            model: For `outputs` classes.
            path: The file.
            build: As `builder` makes it.
            outputs: Classes of the data.

        Returns:
            Why the network's classifier is new; empty if it is the file's.

        Raises:
            CheckpointError: They don't fit.
        """
        if self.classes in (None, outputs):
            self._load(model, path)
            return "the file has no classifier" if self.headless else ""
        whole = build(self.classes)
        self._load(whole, path)
        own = model.state_dict()
        same = {key: tensor for key, tensor in whole.state_dict().items() if own[key].shape == tensor.shape}
        model.load_state_dict(own | same)
        return f"the weights are for {self.classes:,} classes, the data has {outputs:,}"

    def begin_backbone(self, backbone: nn.Module, path: str, build: Callable[[int], nn.Module]) -> None:
        """Load those of a classifier into its backbone.

        Raises:
            CheckpointError: They don't fit.
        """
        whole = build(self.classes or 1)
        self._load(whole, path)
        backbone.load_state_dict(whole.state_dict())

    def _load(self, model: nn.Module, path: str) -> None:
        from senet.weights.load import load_contents
        from senet.weights.matching import Choice
        from senet.weights.reading import read_contents

        choice = Choice(self.prefix, self.ignore, self.weights)
        load_contents(model, read_contents(Path(path)), choice, head=self.headless)


def recognised(path: str, model: str, options: dict[str, Any], task: str, **choice: Any) -> Recognised:
    """What a file's weights are for a network.

    Raises:
        SenetError: There is no such network.
        CheckpointError: The file can't be read, or holds no weights of the network.
    """
    from senet.weights.matching import Choice
    from senet.weights.reading import read_contents
    from senet.weights.recognise import recognise

    contents = read_contents(Path(path))
    return recognise(builder(model, options, task), contents, Choice(**choice))


def builder(
    model: str, options: dict[str, Any], task: str, preprocessing: Preprocessing | None = None
) -> Callable[[int], nn.Module]:
    """What makes the network of the file for a number of classes: the whole one, or a backbone's classifier."""
    import torch

    whole = task_named(CLASSIFICATION if holds_backbone(model, task) else task)

    def build(classes: int) -> nn.Module:
        images = preprocessing or whole.defaults(model)[1]
        with torch.random.fork_rng(devices=[]):
            return whole.build(model, num_classes=classes, preprocessing=images, options=options, head={})

    return build


def holds_backbone(model: str, task: str) -> bool:
    """Whether the weights are a classifier's, and the network of the task has a head of its own on it."""
    return task_named(task).has_heads and ":" not in model
