"""Inspect a network: one pass over labelled images, and what its gates did there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.gates.recording import gated_layers, watching
from senet.gates.statistics import GateStatistics
from senet.inspection.blocks import Block, Finding, corrected, findings, names_of, role_of
from senet.inspection.curves import Curves, curves_of
from senet.inspection.examples import Example, explain_images
from senet.inspection.freezing import Freezing, try_freezing
from senet.inspection.latency import latency
from senet.inspection.sampling import ImageSampler, evenly, indices_of
from senet.nn.modes import evaluation_mode
from senet.nn.optimized import refuse_optimized
from senet.preprocessing import Preprocessing
from senet.profiling.layer import layer_cost

__all__ = ["Inspection", "inspect"]

SECOND_LOOK = 32
"""Images that freezing is tried on, at most."""
SHOWN_FIRST = 4
"""Classes that a page shows first: as many as the paper's figure."""


@dataclass(frozen=True)
class Inspection:
    """What the gates of a network did over a data set.

    Attributes:
        network: What to call it.
        data: What to call the images.
        images: How many.
        classes: Class names.
        class_images: Images of each.
        chosen: Numbers of the classes to show first.
        params: Of the whole network.
        latency_ms: Of one image among a few, the layers' timers included.
        blocks: In the order of the network's modules.
        findings: What to know first.
        freezing: What constants in place of the gates would save and cost.
        curves: Path of a block to its gates, channel by channel and class by class.
        channels: Path of a block to all its channels' mean, and variance within and between classes, each (C,).
        examples: Single images.
    """

    network: str
    data: str
    images: int
    classes: tuple[str, ...]
    class_images: tuple[int, ...]
    chosen: tuple[int, ...]
    params: int
    latency_ms: float
    blocks: tuple[Block, ...]
    findings: tuple[Finding, ...]
    freezing: Freezing
    curves: dict[str, Curves]
    channels: dict[str, tuple[Tensor, Tensor, Tensor]]
    examples: tuple[Example, ...]

    def summary(self) -> dict[str, Any]:
        """JSON-ready: all but what belongs to single channels and images."""
        return {
            "network": self.network,
            "data": self.data,
            "images": self.images,
            "classes": [{"name": n, "images": i} for n, i in zip(self.classes, self.class_images, strict=True)],
            "chosen": list(self.chosen),
            "params": self.params,
            "latency_ms": _short(self.latency_ms),
            "blocks": [{k: _short(v) for k, v in asdict(block).items()} for block in self.blocks],
            "findings": [asdict(finding) for finding in self.findings],
            "freezing": {
                "images": self.freezing.images,
                "steps": [{k: _short(v) for k, v in asdict(step).items()} for step in self.freezing.steps],
            },
        }


def _short(value: Any) -> Any:
    """Six digits are more than a page shows, and keep files small."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def inspect(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    classes: Sequence[str],
    *,
    network: str = "",
    data: str = "",
    outputs: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    chosen: Sequence[str] = (),
    examples: int = 8,
) -> Inspection:
    """Run images once and say what each attention layer did.

    Memory doesn't grow with the number of images.

    Args:
        model: Any network with layers that `senet.record_gates` knows; left as it was.
        batches: Images (N, C, H, W) where the network is, and their class numbers (N,).
        classes: What the numbers mean.
        network: What to call the network; its class by default.
        data: What to call the images.
        outputs: Classes of the network's outputs; empty if unknown.
        preprocessing: What images went through, to show them as they were.
        chosen: Classes to show first; some, evenly spaced, by default.
        examples: Single images to look at.

    Raises:
        SenetError: No attention layer that is known, no image, or one of the layers never runs.
        UnknownNameError: A chosen class that there isn't.

    Source: Hu et al. 2018, section 7.2, Figures 6 and 7.
    """
    refuse_optimized(model, "inspect")
    layers = gated_layers(model)
    if not layers:
        raise SenetError(f"{type(model).__name__} has no attention layer whose gate could be inspected")
    first = indices_of(chosen, classes) or evenly(len(classes), SHOWN_FIRST)
    keeper = ImageSampler(len(classes), first, max(SECOND_LOOK, examples))
    statistics, shapes, counts = _pass(model, layers, batches, len(classes), keeper)
    like = next(model.parameters(), torch.zeros(()))
    kept, labels = keeper.images(max(SECOND_LOOK, examples))
    kept = kept.to(like.device)
    costs = {path: layer_cost(layer, shapes[path]) for path, layer in layers.items()}
    whole_ms, shares = latency(model, layers, kept[:8])
    freezing, alone = try_freezing(model, layers, statistics, costs, kept[:SECOND_LOOK])
    looked = explain_images(
        model, layers, statistics, kept[:examples], [classes[k] for k in labels[:examples]],
        outputs=outputs, preprocessing=preprocessing,
    ) if examples else []  # fmt: skip
    blocks = _blocks(layers, statistics, shapes, costs, shares, alone)
    return Inspection(
        network=network or type(model).__name__,
        data=data,
        images=int(counts.sum()),
        classes=tuple(classes),
        class_images=tuple(counts.tolist()),
        chosen=tuple(first),
        params=sum(p.numel() for p in model.parameters()),
        latency_ms=whole_ms / len(kept[:8]),
        blocks=tuple(blocks),
        findings=tuple(findings(blocks)),
        freezing=freezing,
        curves=curves_of(statistics, first),
        channels={path: (s.mean, s.within, s.between) for path, s in statistics.items()},
        examples=tuple(looked),
    )


def _pass(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    classes: int,
    keeper: ImageSampler,
) -> tuple[dict[str, GateStatistics], dict[str, torch.Size], Tensor]:
    """The one pass: statistics, the shape of each layer's map, and images of each class."""
    statistics: dict[str, GateStatistics] = {}
    shapes: dict[str, torch.Size] = {}
    counts = torch.zeros(classes, dtype=torch.int64)
    labels = counts

    def see(path: str, gate: Tensor, images: int) -> None:
        if path not in statistics:
            statistics[path] = GateStatistics(gate.shape[1], classes)
        statistics[path].add(gate, images, labels)

    def keep_shape(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            shapes[path] = args[0].shape

        return hook

    with ExitStack() as stack:
        stack.enter_context(watching(layers, see))
        for path, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(keep_shape(path)).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation_mode(model))
        for images, given in batches:
            labels = given.cpu()
            model(images)
            counts += torch.bincount(labels, minlength=classes)
            keeper.offer(images, labels)
    if not counts.sum():
        raise SenetError("no images: gates are inspected on images, give some")
    silent = [path for path in layers if path not in statistics]
    if silent:
        raise SenetError(f"{silent[0]} doesn't run on these images, so its gate can't be inspected")
    return {path: statistics[path] for path in layers}, shapes, counts


def _blocks(
    layers: Mapping[str, nn.Module],
    statistics: Mapping[str, GateStatistics],
    shapes: Mapping[str, torch.Size],
    costs: Mapping[str, tuple[int, int]],
    shares: Mapping[str, float],
    alone: Mapping[str, float],
) -> list[Block]:
    names = names_of(list(layers))
    found: list[Block] = []
    for path, layer in layers.items():
        s, size = statistics[path], tuple(shapes[path][2:])
        variance = float(s.variance.sum())
        specificity = float(s.between.sum()) / variance if variance > 0 else 0.0
        beyond_chance = corrected(s, specificity)
        found.append(
            Block(
                path=path,
                name=names[path],
                kind=type(layer).__name__,
                stage=(found[-1].stage + (size != found[-1].size)) if found else 1,
                channels=s.channels,
                size=size,
                mean=float(s.mean.mean()),
                spread=s.spread,
                channel_spread=float(s.mean.std(correction=0)),
                dead=s.dead,
                saturated=s.saturated,
                specificity=specificity,
                specificity_corrected=beyond_chance,
                role=role_of(s, beyond_chance),
                params=costs[path][0],
                macs=costs[path][1],
                latency_share=shares[path],
                drift=alone.get(path),
            )
        )
    return found
