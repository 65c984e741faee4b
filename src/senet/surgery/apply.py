"""Insert the attention of a report, all or nothing, and remove it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.graph.compiled import plain_modules, plain_path
from senet.nn import Attention, attention_from_dict
from senet.surgery.insertion import CHILD, extract, insert, inserted, side_of
from senet.surgery.insertion_points import CONTAINERS
from senet.surgery.report import InsertionPoint, Report

__all__ = ["apply_insertion_points", "layer_for", "remove"]


@torch.inference_mode(False)  # tensors made in inference mode can't be trained
def apply_insertion_points(model: nn.Module, points: Sequence[InsertionPoint]) -> None:
    """Insert attention at known insertion points, without running the network.

    Args:
        model: A network of the same architecture as the one that the report was made for.
        points: The insertion points of a report.

    Raises:
        SenetError: The model has no such module, or it has other channels or already has attention. Or two insertion
            points are at one module, or the attention can't be built. The model is then unchanged.

    Example:
        >>> import senet
        >>> from senet.surgery import apply_insertion_points
        >>> report = senet.plan(senet.create_model("cifar_resnet20", depth=1))
        >>> model = senet.create_model("cifar_resnet20", depth=1)
        >>> apply_insertion_points(model, report.inserted[:2])
        >>> model.stages["2"][0].branch.bn2.attention.fc1
        Linear(in_features=16, out_features=1, bias=True)
    """
    modules = plain_modules(model)
    with torch.random.fork_rng(devices=[]):
        layers = {plain_path(point.path): _checked(model, modules, point) for point in points}
    if len(layers) < len(points):
        paths = [plain_path(point.path) for point in points]
        twice = next(path for path in paths if paths.count(path) > 1)
        raise SenetError(f"{twice} is listed twice; a module has one insertion point")
    changed: list[nn.Module] = []
    try:
        for point, (path, layer) in zip(points, layers.items(), strict=True):
            changed.append(modules[path])
            insert(modules[path], layer, point.side)
    except Exception:
        for module in changed:
            if CHILD in module._modules:
                extract(module)
        raise


def _checked(model: nn.Module, modules: Mapping[str, nn.Module], point: InsertionPoint) -> Attention:
    """Check an insertion point and return its layer."""
    module = modules.get(plain_path(point.path))
    if module is None:
        raise SenetError(f"{type(model).__name__} has no module {point.path!r}; is this another network?")
    if point.side not in ("input", "output"):
        raise SenetError(f"{point.path}: side={point.side!r} must be 'input' or 'output'")
    if hasattr(module, CHILD):
        raise SenetError(f"{point.path} already has a submodule or attribute {CHILD!r}")
    if isinstance(module, (*CONTAINERS, torch.jit.ScriptModule)):
        raise SenetError(f"{point.path} is {type(module).__name__}, which takes no child; is this another network?")
    channels = _channels(module, point.side)
    if channels not in (None, point.channels):
        raise SenetError(f"{point.path} has {channels} channels, not {point.channels}; is this another network?")
    return layer_for(point, module, model)


def _channels(module: nn.Module, side: str) -> int | None:
    """Return the channels on a side of a module, if its class defines them."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels if side == "output" else module.in_channels
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.num_features
    return module.num_channels if isinstance(module, nn.GroupNorm) else None


def layer_for(point: InsertionPoint, module: nn.Module, model: nn.Module) -> Attention:
    """Build the layer of an insertion point, with the device and dtype of its module or of the network."""
    layer = attention_from_dict(point.attention).build(point.channels, ndim=len(point.space))
    tensors = [t for m in (module, model) for t in m.parameters() if t.is_floating_point()]
    like: Tensor = next(iter(tensors), torch.zeros(()))
    return layer.to(like.device, like.dtype)


def remove(model: nn.Module) -> Report:
    """Remove all attention inserted by `retrofit`. Modules, keys and hooks are then the original ones.

    The function changes if the gates were trained. `freeze` keeps it.

    Args:
        model: The network, changed in place.

    Returns:
        The removed layers, in `inserted`.

    Example:
        >>> import senet
        >>> model = senet.create_model("cifar_resnet20", depth=1)
        >>> _ = senet.retrofit(model)
        >>> len(senet.remove(model).inserted), any("attention" in key for key in model.state_dict())
        (3, False)
    """
    points = []
    for path, module in list(inserted(model)):
        side = side_of(module)
        layer = extract(module)
        params = sum(p.numel() for p in layer.parameters())
        points.append(
            InsertionPoint(path, side or "", path.rpartition(".")[0], "module", 0, layer.channels, (), "",
                 {"kind": type(layer).__name__}, params, 0)
        )  # fmt: skip
    return Report(type(plain_modules(model)[""]).__name__, tuple(points), ())
