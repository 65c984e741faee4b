"""Give a network attention where its structure has a place for it; undo that; choose what trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import SenetError, UnknownNameError
from senet.graph.block import CARRIES, Unit
from senet.graph.blocks import find_units
from senet.graph.trace import Graph, trace
from senet.nn import PLACEMENTS, SE, Attention, AttentionSpec, attention_from_dict
from senet.profiling.layer import layer_cost
from senet.surgery.insertion import CHILD, extract, insert, inserted, side_of
from senet.surgery.report import Report, Site, Skipped
from senet.surgery.sites import Place, Places
from senet.surgery.where import Where, chosen

__all__ = ["apply_sites", "plan", "remove", "retrofit", "trainable"]


def retrofit(
    model: nn.Module,
    attention: AttentionSpec | None = None,
    *,
    where: Where = "auto",
    placement: str = "standard",
    stages: Sequence[int] | None = None,
    example_inputs: Tensor | Sequence[Any] | None = None,
) -> Report:
    """Insert attention into any convolutional network, in place, and keep the function that it computes.

    The layers start as the identity, whatever `attention.init` says: until the first training step the output is the
    original's bit for bit. (That takes the centred form of the gate, 2 * sigmoid in (0, 2), see `SqueezeExcite`.) No
    key of the state dict changes, so the original's checkpoints still load. A second call changes nothing.

    Args:
        model: Any module: a classifier, or the backbone inside something larger.
        attention: What to insert; None is `senet.SE()`.
        where: "auto" finds the units by the flow of the maps: the end of a residual branch before the sum, the
            concatenation of an inception module, a dense layer's new channels, the end of a separable block, or, in a
            plain stack, each activated convolution. Or the modules themselves: a path pattern (`"layer4.*"`, `*` for
            one part of a path and `**` for any number), a module class, a list of these, or a function of path and
            module: of each, the unit in it, or else its output.
        placement: As in `senet.nn.PLACEMENTS`; what a unit has no place for is skipped.
        stages: Only these; units at the largest resolution are stage 2, as in the paper's Table 13.
        example_inputs: A batch, or all positional arguments, for one run in which the maps are watched; None guesses
            an image.

    Returns:
        Each site and each skipped unit.

    Raises:
        SenetError: The network has no place for attention, `where` means nothing or is ambiguous, it doesn't run on
            the example, or the options are wrong. The model is then unchanged.

    Source: Hu et al. 2018, section 3.3, Figs. 2-3; sections 6.4 and 6.5 for stages and placements.
    """
    report = plan(
        model, attention, where=where, placement=placement, stages=stages, example_inputs=example_inputs
    )  # fmt: skip
    apply_sites(model, report.inserted)
    return report


def plan(
    model: nn.Module,
    attention: AttentionSpec | None = None,
    *,
    where: Where = "auto",
    placement: str = "standard",
    stages: Sequence[int] | None = None,
    example_inputs: Tensor | Sequence[Any] | None = None,
) -> Report:
    """Say what `retrofit` would do with the same arguments, and touch nothing."""
    spec = _identity_start(attention if attention is not None else SE())
    if placement not in PLACEMENTS:
        raise UnknownNameError("placement", placement, PLACEMENTS)
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise SenetError(
            f"{type(model).__name__} has counted its parameters already: retrofit the module, then wrap it"
        )
    meant = None if isinstance(where, str) and where == "auto" else chosen(model, where)
    graph = trace(model, (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs)
    units = find_units(graph)
    if meant is not None:
        units = _meant_units(graph, units, meant)
    if all(unit.reason and unit.reason != CARRIES for unit in units):
        raise SenetError(_no_site(model, graph))
    numbers = _stage_numbers(units)
    _check_stages(stages, numbers)
    return _report(graph, units, spec, placement, numbers, stages)


def apply_sites(model: nn.Module, sites: Sequence[Site]) -> None:
    """Insert what a report lists.

    Raises:
        SenetError: The model has no such module, or one with something there already; it is then unchanged.
    """
    modules = dict(model.named_modules())
    for site in sites:
        if site.path not in modules:
            raise SenetError(f"{type(model).__name__} has no module {site.path!r} for attention; another network?")
        if hasattr(modules[site.path], CHILD):
            raise SenetError(f"{site.path} has something called {CHILD!r} already")
    with torch.random.fork_rng(devices=[]):
        for site in sites:
            module = modules[site.path]
            layer = attention_from_dict(site.attention).build(site.channels, ndim=len(site.space))
            like = _like(model, module)
            insert(module, layer.to(like.device, like.dtype), site.side)


def _like(model: nn.Module, module: nn.Module) -> torch.Tensor:
    """A tensor whose device and type the new layer takes: the module's own, else the network's."""
    own = next((t for t in module.parameters() if t.is_floating_point()), None)
    return own if own is not None else next((t for t in model.parameters() if t.is_floating_point()), torch.zeros(()))


def _identity_start(spec: AttentionSpec) -> AttentionSpec:
    if not isinstance(spec, AttentionSpec):
        raise SenetError(f"attention={spec!r} is no attention spec; use e.g. senet.SE()")
    if "init" not in {f.name for f in fields(spec)}:
        raise SenetError(
            f"{spec.kind!r} has no start as the identity, so it can't be inserted without losing the network"
        )
    return replace(spec, init="identity")  # type: ignore[call-arg]


def _report(
    graph: Graph,
    units: Sequence[Unit],
    spec: AttentionSpec,
    placement: str,
    numbers: dict[tuple[int, ...], int],
    stages: Sequence[int] | None,
) -> Report:
    places = Places(graph)
    skipped: list[Skipped] = []
    found: dict[tuple[str, str], list[tuple[Unit, Place]]] = {}
    for unit in units:
        number = numbers.get(unit.end.space, 0)
        reason = unit.reason
        if not reason and stages is not None and number not in stages:
            reason = f"is in none of the stages {', '.join(map(str, stages))}"
        place = reason or places.of(unit, placement)
        if isinstance(place, str):
            skipped.append(Skipped(unit.call.path, unit.kind, place))
        else:
            found.setdefault((place.call.path, place.side), []).append((unit, place))
    sites = []
    for (path, side), meetings in found.items():
        unit, place = meetings[0]
        reason = _unfit(places, [p for _, p in meetings], spec)
        if reason:
            skipped.append(Skipped(unit.call.path, unit.kind, reason))
            continue
        with torch.device("meta"):
            layer = spec.build(place.value.channels, ndim=len(place.value.space))
        params, macs = layer_cost(layer, place.value.shape)
        number = numbers.get(unit.end.space, 0)
        space = place.value.space
        sites.append(
            Site(path, side, unit.call.path, unit.kind, number, place.value.channels, space, placement,
                 spec.to_dict(), params, macs)
        )  # fmt: skip
    return Report(type(graph.root.module).__name__, tuple(sites), tuple(skipped))


def _unfit(places: Places, meetings: Sequence[Place], spec: AttentionSpec) -> str:
    """Why this place can't have the layer; empty if it can."""
    value = meetings[0].value
    if side_of(meetings[0].call.module) is not None:
        return CARRIES
    if hasattr(meetings[0].call.module, CHILD):
        return f"has something called {CHILD!r} already"
    if places.shared(meetings):
        return f"shares {meetings[0].call.path} with other places"
    if any(place.value.channels != value.channels for place in meetings):
        return f"runs {meetings[0].call.path} on maps of different channels"
    try:
        spec.check(value.channels, ndim=len(value.space))
    except SenetError as error:
        return str(error)
    return ""


def _stage_numbers(units: Sequence[Unit]) -> dict[tuple[int, ...], int]:
    """Map size to stage number: the sizes in falling order, from 2."""
    sizes = {unit.end.space for unit in units if unit.reason in ("", CARRIES)}
    return {size: number for number, size in enumerate(sorted(sizes, reverse=True), 2)}


def _check_stages(stages: Sequence[int] | None, numbers: dict[tuple[int, ...], int]) -> None:
    for stage in stages or ():
        if stage not in numbers.values():
            known = ", ".join(f"{n} ({'x'.join(map(str, size))})" for size, n in numbers.items())
            raise SenetError(f"stages: no stage {stage} here; there are {known}")


def _meant_units(graph: Graph, units: Sequence[Unit], meant: set[str]) -> list[Unit]:
    """The units that the user's modules are or hold or end; for a module with none, its own output."""
    places = Places(graph)
    found: list[Unit] = []
    for path in sorted(meant):
        below = f"{path}."
        held = [u for u in units if u.call.path == path or u.call.path.startswith(below)]
        if not held:
            for unit in units:
                place = places.of(unit, "standard")
                if isinstance(place, Place) and (place.call.path == path or place.call.path.startswith(below)):
                    held.append(unit)
        found += held or _outputs(graph, path)
    return sorted(dict.fromkeys(found), key=lambda unit: unit.end.number)


def _outputs(graph: Graph, path: str) -> list[Unit]:
    calls = [call for call in graph.calls if call.path == path]
    if not calls:
        raise SenetError(f"where: {path} doesn't run on the example inputs")
    for call in calls:
        if not call.single or len(call.outputs[0].shape) not in (3, 4, 5):
            shape = call.outputs[0].shape if call.single else "several tensors"
            raise SenetError(f"where: {path} gives {shape}; attention needs one map (N, C, space)")
    return [Unit("module", call.parent or call, call.outputs[0], frozenset()) for call in calls]


def _no_site(model: nn.Module, graph: Graph) -> str:
    name = type(model).__name__
    convs = [path for path, m in model.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    listed = ", ".join(convs[:4]) + (f" and {len(convs) - 4} more" if len(convs) > 4 else "")
    if any("attention" in v.op or v.op in ("bmm", "softmax", "_softmax") for v in graph.values):
        return (
            f"{name} is a transformer: its units work on tokens; its only convolutions are {listed}; name one by where="
        )
    return f"{name} has no unit that attention could sit in; its convolutions are {listed}; name a module by where="


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
    return Report(type(model).__name__, tuple(sites), ())


TRAINABLE = ("attention", "all")


def trainable(model: nn.Module, what: str = "attention") -> list[nn.Parameter]:
    """Choose what trains: set `requires_grad` of all parameters accordingly.

    Running statistics of norms are no parameters: they still follow the data in training mode.

    Args:
        model: Any network with attention layers of this package.
        what: "attention" (the gates alone) or "all".

    Returns:
        The parameters that train.

    Raises:
        SenetError: The model has no attention.
        UnknownNameError: There is no such choice.
    """
    if what not in TRAINABLE:
        raise UnknownNameError("choice of what trains", what, TRAINABLE)
    gates = {id(p) for m in model.modules() if isinstance(m, Attention) for p in m.parameters()}
    if what == "attention" and not gates:
        raise SenetError(f"{type(model).__name__} has no attention to train; senet.retrofit(model) inserts it")
    for parameter in model.parameters():
        parameter.requires_grad_(what == "all" or id(parameter) in gates)
    return [p for p in model.parameters() if p.requires_grad]
