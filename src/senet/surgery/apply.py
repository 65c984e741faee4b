"""Insert the attention that a report lists, all or nothing; take it out again."""

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


@torch.inference_mode(False)  # whose tensors can't learn
def apply_insertion_points(model: nn.Module, points: Sequence[InsertionPoint]) -> None:
    """Insert what a report lists, without running the network.

    Raises:
        SenetError: The model has no such module, or one that gives other channels or has something there already; two
            sites are at one module; or no such attention can be built. The model is then unchanged.
    """
    modules = plain_modules(model)
    with torch.random.fork_rng(devices=[]):
        layers = {plain_path(point.path): _checked(model, modules, point) for point in points}
    if len(layers) < len(points):
        paths = [plain_path(point.path) for point in points]
        twice = next(path for path in paths if paths.count(path) > 1)
        raise SenetError(f"{twice} is listed twice: a module has one place for attention")
    done: list[nn.Module] = []
    try:
        for point, (path, layer) in zip(points, layers.items(), strict=True):
            done.append(modules[path])
            insert(modules[path], layer, point.side)
    except Exception:
        for module in done:
            if CHILD in module._modules:
                extract(module)
        raise


def _checked(model: nn.Module, modules: Mapping[str, nn.Module], point: InsertionPoint) -> Attention:
    """The site's layer, after all that could be wrong with the site was looked at."""
    module = modules.get(plain_path(point.path))
    if module is None:
        raise SenetError(f"{type(model).__name__} has no module {point.path!r} for attention; another network?")
    if point.side not in ("input", "output"):
        raise SenetError(f"{point.path}: side={point.side!r} must be 'input' or 'output'")
    if hasattr(module, CHILD):
        raise SenetError(f"{point.path} has something called {CHILD!r} already")
    if isinstance(module, (*CONTAINERS, torch.jit.ScriptModule)):
        raise SenetError(f"{point.path} is {type(module).__name__}, which takes no further module; another network?")
    channels = _channels(module, point.side)
    if channels not in (None, point.channels):
        raise SenetError(f"{point.path} has {channels} channels, not {point.channels}; another network?")
    return layer_for(point, module, model)


def _channels(module: nn.Module, side: str) -> int | None:
    """Channels on that side of a module, where its class says so."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels if side == "output" else module.in_channels
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.num_features
    return module.num_channels if isinstance(module, nn.GroupNorm) else None


def layer_for(point: InsertionPoint, module: nn.Module, model: nn.Module) -> Attention:
    """Build a site's layer, of the device and type of its module, or else of the network."""
    layer = attention_from_dict(point.attention).build(point.channels, ndim=len(point.space))
    tensors = [t for m in (module, model) for t in m.parameters() if t.is_floating_point()]
    like: Tensor = next(iter(tensors), torch.zeros(()))
    return layer.to(like.device, like.dtype)


def remove(model: nn.Module) -> Report:
    """Take out all that `retrofit` put in; modules, keys and hooks are then the original's.

    Where gates have learned, the function changes: to keep it, see `freeze`.

    Returns:
        What was taken out, in `inserted`.
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
