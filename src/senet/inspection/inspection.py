"""Inspecting a network: one pass over labelled images, and the statistics of its gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

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
"""Largest number of images for freezing."""
SHOWN_FIRST = 4
"""Classes that a page shows at first, as in the paper's figure."""


@dataclass(frozen=True)
class Inspection:
    """Statistics of a network's gates over a data set.

    Attributes:
        network: Name of the network.
        data: Name of the images.
        images: Number of images.
        classes: Class names. A multi-label image counts once for each of its labels, and not without one.
        class_images: Number of images of each class.
        chosen: Numbers of the classes to show first.
        params: Parameters of the whole network.
        latency_ms: Milliseconds for one image in a small batch, including the layers' timers.
        blocks: Blocks in the order of the network's modules.
        findings: Alarms and notes.
        freezing: Savings and cost of constants in place of the gates.
        curves: Path of a block to its gates, by channel and class.
        channels: Path of a block to its channels' mean, and variance within and between classes, each (C,).
        examples: Single images.

    Example:
        >>> import senet, torch
        >>> from senet.inspection import Inspection, inspect
        >>> model = senet.create_model("se_cifar_resnet20", num_classes=2)
        >>> batches = [(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]))]
        >>> result: Inspection = inspect(model, batches, ["cat", "dog"], examples=1)
        >>> result.images, result.examples[0].label, sorted(result.summary())[:3]
        (2, 'cat', ['blocks', 'chosen', 'classes'])
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
        """Return a JSON-ready form without single channels and images."""
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
    """Round to six digits, more than a page shows, to keep files small."""
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
    """Run images once and measure the gates of each attention layer.

    A multi-label image counts once for each of its labels. An image without a label is left out. Memory doesn't grow
    with the number of images.

    Args:
        model: Any network with layers that `senet.record_gates` supports, left unchanged.
        batches: Images (N, C, H, W) on the network's device, and their class numbers (N,), or targets (N, classes) of 0
            and 1 for multi-label images.
        classes: Class names of the numbers.
        network: Name of the network, by default its class.
        data: Name of the images.
        outputs: Class names of the network's outputs, empty if unknown.
        preprocessing: Preprocessing of the images, to display the originals.
        chosen: Classes to show first, by default a few evenly spaced ones.
        examples: Number of single images.

    Raises:
        SenetError: There is no supported attention layer or no image, or one of the layers never runs.
        UnknownNameError: An unknown chosen class.

    Example:
        >>> import senet, torch
        >>> from senet.inspection import inspect
        >>> model = senet.create_model("se_cifar_resnet20", num_classes=2)
        >>> batches = [(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]))]
        >>> block = inspect(model, batches, ["cat", "dog"], examples=0).blocks[0]
        >>> block.channels, 0 < block.mean < 1
        (16, True)

    Source: Hu et al. 2018, section 7.2, Figures 6 and 7.
    """
    refuse_optimized(model, "inspect")
    layers = gated_layers(model)
    if not layers:
        raise SenetError(f"{type(model).__name__} has no attention layer with a supported gate")
    first = indices_of(chosen, classes) or evenly(len(classes), SHOWN_FIRST)
    sampler = ImageSampler(len(classes), first, max(SECOND_LOOK, examples))
    statistics, shapes, counts, seen, multi_label = _pass(model, layers, batches, len(classes), sampler)
    like = next(model.parameters(), torch.zeros(()))
    kept, labels = sampler.images(max(SECOND_LOOK, examples))
    kept = kept.to(like.device)
    costs = {path: layer_cost(layer, shapes[path]) for path, layer in layers.items()}
    whole_ms, shares = latency(model, layers, kept[:8])
    freezing, alone = try_freezing(model, layers, statistics, costs, kept[:SECOND_LOOK])
    explained = explain_images(
        model, layers, statistics, kept[:examples], [classes[k] for k in labels[:examples]],
        outputs=outputs, preprocessing=preprocessing, multi_label=multi_label,
    ) if examples else []  # fmt: skip
    blocks = _blocks(layers, statistics, shapes, costs, shares, alone)
    return Inspection(
        network=network or type(model).__name__,
        data=data,
        images=seen,
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
        examples=tuple(explained),
    )


class _Pass(NamedTuple):
    """The result of a pass over the images.

    Attributes:
        statistics: Path of a layer to its statistics.
        shapes: Path of a layer to the shape of its feature map.
        counts: (classes,) number of images of each class.
        images: Number of images.
        multi_label: Whether an image may have several classes.
    """

    statistics: dict[str, GateStatistics]
    shapes: dict[str, torch.Size]
    counts: Tensor
    images: int
    multi_label: bool


def _pass(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    classes: int,
    sampler: ImageSampler,
) -> _Pass:
    """Run the images once."""
    statistics: dict[str, GateStatistics] = {}
    shapes: dict[str, torch.Size] = {}
    counts = torch.zeros(classes, dtype=torch.int64)
    labels, rows, seen = counts, None, 0

    def see(path: str, gate: Tensor, images: int) -> None:
        if path not in statistics:
            statistics[path] = GateStatistics(gate.shape[1], classes)
        if rows is not None:
            gate = gate.expand(images, *gate.shape[1:])[rows.to(gate.device)]
        statistics[path].add(gate, len(labels), labels)

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
            if labels.ndim == 2:  # one row for each pair of an image and one of its labels
                rows, labels = labels.nonzero(as_tuple=True)
                if not len(rows):
                    continue
            model(images)
            seen += len(images) if rows is None else len(rows.unique())
            counts += torch.bincount(labels, minlength=classes)
            sampler.offer(images if rows is None else images[rows.to(images.device)], labels)
    if not counts.sum():
        raise SenetError("no images with a class; inspecting gates needs at least one")
    silent = [path for path in layers if path not in statistics]
    if silent:
        raise SenetError(f"{silent[0]} doesn't run on these images, so its gate can't be inspected")
    return _Pass({path: statistics[path] for path in layers}, shapes, counts, seen, rows is not None)


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
