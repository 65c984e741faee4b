"""The layers of any network in their order, and its classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from senet.errors import SenetError
from senet.models import Backbone

__all__ = ["BACKBONE", "Layers", "find_layers"]

BACKBONE = "backbone"
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Layers:
    """The parameters of a network by layer.

    Attributes:
        number: Parameter to the number of its layer, from 0 at the input.
        head: Names of the parameters of the classifier, or of all that follows a detector's backbone.
    """

    number: dict[str, int]
    head: frozenset[str]

    def up_to(self, part: str) -> frozenset[str]:
        """Return the names of the parameters up to the end of a stage, or of the whole backbone.

        Args:
            part: `"backbone"`, or the name of a module.

        Raises:
            SenetError: There is no such part, or nothing would train.
        """
        body = [name for name in self.number if name not in self.head]
        if part == BACKBONE:
            return frozenset(body)
        own = [self.number[name] for name in body if _is_below(name, part)]
        if not own:
            raise SenetError(f"freeze={part!r} is no part of this network; use {BACKBONE}, {', '.join(self._parts())}")
        return frozenset(name for name in body if self.number[name] <= max(own))

    def _parts(self) -> list[str]:
        """Return names of parts for a message: the first module of each path, with its number."""
        parts: dict[str, None] = {}
        for name in sorted(set(self.number) - self.head, key=lambda name: self.number[name]):
            first, *rest = name.split(".")[:-1] or [name]
            parts[f"{first}.{rest[0]}" if rest and rest[0].isdigit() and not first[-1].isdigit() else first] = None
        return list(parts)[:20]

    def scales(self, *, backbone: float, decay: float) -> dict[str, float]:
        """Return the factor of each parameter's learning rate.

        Args:
            backbone: Factor of all but the classifier.
            decay: Factor from each layer to the layer before it.
        """
        last = max(self.number.values())
        return {
            name: 1.0 if name in self.head else backbone * decay ** (last - number)
            for name, number in self.number.items()
        }


def find_layers(model: nn.Module, example: Sequence[Any]) -> Layers:
    """Find the layers of a network.

    Networks of timm number their layers themselves (`group_matcher`). In others, a layer is a child of the network, or
    of a container such as `nn.Sequential`, in the order of computation. The classifier is timm's `get_classifier()`, or
    the module that computes last. Modules that take no part in evaluation (auxiliary classifiers) belong to it.
    The head of a detector or segmenter is all that isn't its backbone.

    Args:
        model: The network.
        example: Its positional arguments, with one blank image.

    Example:
        >>> import torch
        >>> from senet.training.layers import find_layers
        >>> from senet.zoo import create_model
        >>> layers = find_layers(create_model("cifar_resnet20", depth=1), [torch.zeros(1, 3, 32, 32)])
        >>> sorted(layers.head), layers.number["stages.3.0.branch.conv1.weight"]
        (['head.fc.bias', 'head.fc.weight'], 2)
    """
    names = [name for name, _ in model.named_parameters()]
    within = next((path for path, module in model.named_modules() if path and isinstance(module, Backbone)), None)
    if within is not None:
        head = {name for name in names if not _is_below(name, within)}
        keys = [_layer_path(model, name) for name in names]
        order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        last = max((order[key] for key, name in zip(keys, names, strict=True) if name not in head), default=0) + 1
        return Layers({n: last if n in head else order[k] for n, k in zip(names, keys, strict=True)}, frozenset(head))
    called = _call_order(model, example)
    head = _classifier(model, names, called)
    if hasattr(model, "group_matcher"):
        return Layers(_numbers_of_timm(model), frozenset(head))
    first: dict[str, float] = {}
    for name in names:
        key, owner = _layer_path(model, name), name.rpartition(".")[0]
        # A parameter of the network itself, such as a position embedding, comes first.
        position = -1.0 if not owner else called.get(owner, float("inf"))
        first[key] = min(first.get(key, float("inf")), position)
    head |= {name for name in names if first[_layer_path(model, name)] == float("inf")}
    ordered = sorted(dict.fromkeys(_layer_path(model, name) for name in names), key=lambda key: first[key])
    ordered = [key for key in ordered if any(_layer_path(model, n) == key and n not in head for n in names)]
    numbers = {key: number for number, key in enumerate(ordered)}
    return Layers(
        {name: len(ordered) if name in head else numbers[_layer_path(model, name)] for name in names}, frozenset(head)
    )


def _is_below(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _layer_path(model: nn.Module, name: str) -> str:
    """Return the path of a parameter's layer: the first module on the way that is no container of layers."""
    module, path = model, []
    for part in name.split(".")[:-1]:
        module = module.get_submodule(part)
        path.append(part)
        if type(module) not in CONTAINERS or _is_layer(module):
            break
    return ".".join(path)


def _is_layer(container: nn.Module) -> bool:
    """Whether a container is one convolution with its norm and activation."""
    children = list(container.children())
    kernels = [c for c in children if any(p.ndim > 1 for p in c.parameters())]
    return len(kernels) <= 1 and not any(True for child in children for _ in child.children())


def _call_order(model: nn.Module, example: Sequence[Any]) -> dict[str, int]:
    """Run the network in evaluation mode and return the modules with parameters of their own by their first call."""
    called: dict[str, int] = {}

    def note(path: str) -> None:
        called.setdefault(path, len(called))

    handles = [
        module.register_forward_pre_hook(lambda *_, path=path: note(path))
        for path, module in model.named_modules()
        if module._parameters
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            like = next(model.parameters())
            model(*(x.to(like) if isinstance(x, torch.Tensor) else x for x in example))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return called


def _classifier(model: nn.Module, names: Sequence[str], called: dict[str, int]) -> set[str]:
    getter = getattr(model, "get_classifier", None)
    if getter is not None:
        found = getter()
        own = {id(p) for one in (found if isinstance(found, tuple) else (found,)) for p in one.parameters()}
        inside = {name for name, p in model.named_parameters() if id(p) in own}
        if inside:
            return inside
    last = max(called, key=lambda path: called[path])
    return {name for name in names if name.rpartition(".")[0] == last}


def _numbers_of_timm(model: Any) -> dict[str, int]:
    from timm.models import group_parameters

    return {name: int(number) for name, number in group_parameters(model, model.group_matcher(), reverse=True).items()}
