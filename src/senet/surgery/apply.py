"""Insert the attention that a report lists, all or nothing; take it out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.graph.compiled import plain_modules, plain_path
from senet.nn import Attention, attention_from_dict
from senet.surgery.insertion import CHILD, extract, insert, inserted, side_of
from senet.surgery.report import Report, Site
from senet.surgery.sites import CONTAINERS

__all__ = ["apply_sites", "layer_for", "remove"]


@torch.inference_mode(False)  # whose tensors can't learn
def apply_sites(model: nn.Module, sites: Sequence[Site]) -> None:
    """Insert what a report lists, without running the network.

    Raises:
        SenetError: The model has no such module, or one that gives other channels or has something there already; two
            sites are at one module; or no such attention can be built. The model is then unchanged.
    """
    modules = plain_modules(model)
    with torch.random.fork_rng(devices=[]):
        layers = {plain_path(site.path): _checked(model, modules, site) for site in sites}
    if len(layers) < len(sites):
        paths = [plain_path(site.path) for site in sites]
        twice = next(path for path in paths if paths.count(path) > 1)
        raise SenetError(f"{twice} is listed twice: a module has one place for attention")
    done: list[nn.Module] = []
    try:
        for site, (path, layer) in zip(sites, layers.items(), strict=True):
            done.append(modules[path])
            insert(modules[path], layer, site.side)
    except Exception:
        for module in done:
            if CHILD in module._modules:
                extract(module)
        raise


def _checked(model: nn.Module, modules: Mapping[str, nn.Module], site: Site) -> Attention:
    """The site's layer, after all that could be wrong with the site was looked at."""
    module = modules.get(plain_path(site.path))
    if module is None:
        raise SenetError(f"{type(model).__name__} has no module {site.path!r} for attention; another network?")
    if site.side not in ("input", "output"):
        raise SenetError(f"{site.path}: side={site.side!r} must be 'input' or 'output'")
    if hasattr(module, CHILD):
        raise SenetError(f"{site.path} has something called {CHILD!r} already")
    if isinstance(module, (*CONTAINERS, torch.jit.ScriptModule)):
        raise SenetError(f"{site.path} is {type(module).__name__}, which takes no further module; another network?")
    channels = _channels(module, site.side)
    if channels not in (None, site.channels):
        raise SenetError(f"{site.path} has {channels} channels, not {site.channels}; another network?")
    return layer_for(site, module, model)


def _channels(module: nn.Module, side: str) -> int | None:
    """Channels on that side of a module, where its class says so."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels if side == "output" else module.in_channels
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.num_features
    return module.num_channels if isinstance(module, nn.GroupNorm) else None


def layer_for(site: Site, module: nn.Module, model: nn.Module) -> Attention:
    """Build a site's layer, of the device and type of its module, or else of the network."""
    layer = attention_from_dict(site.attention).build(site.channels, ndim=len(site.space))
    tensors = [t for m in (module, model) for t in m.parameters() if t.is_floating_point()]
    like: Tensor = next(iter(tensors), torch.zeros(()))
    return layer.to(like.device, like.dtype)


def remove(model: nn.Module) -> Report:
    """Take out all that `retrofit` put in; modules, keys and hooks are then the original's.

    Where gates have learned, the function changes: to keep it, see `freeze`.

    Returns:
        What was taken out, in `inserted`.
    """
    sites = []
    for path, module in list(inserted(model)):
        side = side_of(module)
        layer = extract(module)
        params = sum(p.numel() for p in layer.parameters())
        sites.append(
            Site(path, side or "", path.rpartition(".")[0], "module", 0, layer.channels, (), "",
                 {"kind": type(layer).__name__}, params, 0)
        )  # fmt: skip
    return Report(type(plain_modules(model)[""]).__name__, tuple(sites), ())
