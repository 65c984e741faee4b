"""Initial weights from a file of another library."""

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
    """The selection of weights in a file of another library.

    Attributes:
        classes: Number of classes of their classifier, None where unknown, or without a classifier.
        headless: Keys of the network's classifier, if the file has none.
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
        for name in ("headless", "ignore"):  # JSON has lists only
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def load(self, model: nn.Module, path: str, build: Callable[[int], nn.Module], outputs: int) -> str:
        """Load the weights into a complete network. A classifier for another number of classes is not loaded, and a
        first convolution for other channels is adapted.

        Args:
            model: The network for `outputs` classes.
            path: The file.
            build: The result of `builder`, for the channels of the file.
            outputs: Number of classes of the data.

        Returns:
            The reason why the network's classifier is newly initialized, empty if it isn't.

        Raises:
            CheckpointError: The weights don't fit.
        """
        from senet.weights.transfer import adapt_stem

        whole = build(self.classes or outputs)
        self._load(whole, path)
        own, given = model.state_dict(), whole.state_dict()
        adapt_stem(model, given, own, {key: key for key in own})
        model.load_state_dict(own | {key: tensor for key, tensor in given.items() if own[key].shape == tensor.shape})
        if self.classes in (None, outputs):
            return "the file has no classifier" if self.headless else ""
        return f"the weights are for {self.classes:,} classes, the data has {outputs:,}"

    def load_backbone(self, backbone: nn.Module, path: str, build: Callable[[int], nn.Module]) -> None:
        """Load a classifier's weights into a backbone.

        Raises:
            CheckpointError: The weights don't fit.
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
    """Recognize a network's weights in a file.

    Raises:
        SenetError: The network is unknown.
        CheckpointError: The file can't be read, or has no weights of the network.
    """
    from senet.weights.matching import Choice
    from senet.weights.reading import read_contents
    from senet.weights.recognise import recognise

    contents = read_contents(Path(path))
    return recognise(builder(model, options, task), contents, Choice(**choice))


def builder(
    model: str, options: dict[str, Any], task: str, preprocessing: Preprocessing | None = None
) -> Callable[[int], nn.Module]:
    """Return a function that builds the file's network for a number of classes."""
    import torch

    whole = task_named(CLASSIFICATION if holds_backbone(model, task) else task)

    def build(classes: int) -> nn.Module:
        images = preprocessing or whole.defaults(model)[1]
        with torch.random.fork_rng(devices=[]):
            return whole.build(model, num_classes=classes, preprocessing=images, options=options, head={})

    return build


def holds_backbone(model: str, task: str) -> bool:
    """Whether the weights belong to a classifier that becomes the backbone of a network with another head."""
    return task_named(task).has_heads and ":" not in model
