"""Give a network attention where its structure has a place for it; undo that; choose what trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import nn

from senet.errors import SenetError, UnknownNameError
from senet.graph.block import CARRIES, Block
from senet.graph.blocks import find_blocks
from senet.graph.compiled import plain_modules
from senet.graph.inputs import ExampleInputs
from senet.graph.trace import trace
from senet.graph.values import Graph, Value
from senet.nn import PLACEMENTS, SE, Attention, AttentionSpec
from senet.profiling.layer import layer_cost
from senet.surgery.apply import apply_insertion_points
from senet.surgery.insertion import CHILD, side_of, without_insertions
from senet.surgery.insertion_points import HookPoint, HookPoints, belongs
from senet.surgery.module_patterns import Where, chosen
from senet.surgery.network import operable
from senet.surgery.report import InsertionPoint, Report, Skipped
from senet.surgery.trial import faults

__all__ = ["plan", "retrofit", "trainable"]


def retrofit(
    model: nn.Module,
    attention: AttentionSpec | None = None,
    *,
    where: Where = "auto",
    placement: str = "standard",
    stages: Sequence[int] | None = None,
    example_inputs: ExampleInputs | None = None,
) -> Report:
    """Insert attention into any convolutional network, in place, and keep the function that it computes.

    The layers start as the identity, whatever `attention.init` says: until the first training step the output is the
    original's bit for bit. (That takes the centred form of the gate, 2 * sigmoid in (0, 2), see `SqueezeExcite`.) No
    key of the state dict changes, so the original's checkpoints still load. A second call changes nothing.

    Copies of the network try the insertion first. A layer that doesn't run exactly once at each run of its module, or
    that changes the output, is left out, and the report says why. Such are modules whose forward loops over their
    children, and modules that are run by `.forward()`, past all hooks. Outputs of a network that differ from run to
    run aren't compared. Neither are those of a network that can't run for real on the example, or has no weights
    (on the meta device): then the runs alone are counted.

    A network that `torch.compile` has wrapped, or that compiled code calls, is compiled again at its next call, as is
    everything else that was compiled in this process.

    Args:
        model: Any module: a classifier, or the backbone inside something larger.
        attention: What to insert; None is `senet.SE()`.
        where: "auto" finds the blocks by the flow of the maps: the end of a residual branch before the sum, the
            concatenation of an inception module, a dense layer's new channels, the end of a separable block, or, in a
            plain stack, each activated convolution. Or the modules themselves: a path pattern (`"layer4.*"`, `*` for
            one part of a path and `**` for any number), a module class, a list of these, or a function of path and
            module: of each, the block in it, or else its output.
        placement: As in `senet.nn.PLACEMENTS`; what a block has no place for is skipped.
        stages: Only these; blocks at the largest resolution are stage 2, as in the paper's Table 13.
        example_inputs: What the copies run on: one tensor, all positional arguments in a tuple or list, or all
            arguments by name in a dict. None guesses an image.

    Returns:
        Each site and each skipped block.

    Raises:
        SenetError: No block takes the attention, `where` means nothing or is ambiguous, or the options are wrong. Or
            the network doesn't run on the example, has lazy layers, is scripted, quantized, or wrapped for several
            devices. The model is then unchanged.

    Source: Hu et al. 2018, section 3.3, Figs. 2-3; sections 6.4 and 6.5 for stages and placements.
    """
    report = plan(
        model, attention, where=where, placement=placement, stages=stages, example_inputs=example_inputs
    )  # fmt: skip
    apply_insertion_points(model, report.inserted)
    return report


@torch.inference_mode(False)  # whose tensors can't be watched
def plan(
    model: nn.Module,
    attention: AttentionSpec | None = None,
    *,
    where: Where = "auto",
    placement: str = "standard",
    stages: Sequence[int] | None = None,
    example_inputs: ExampleInputs | None = None,
) -> Report:
    """Say what `retrofit` would do with the same arguments, and touch nothing: copies of the network run."""
    spec = _identity_start(attention if attention is not None else SE())
    if placement not in PLACEMENTS:
        raise UnknownNameError("placement", placement, PLACEMENTS)
    model = operable(model)
    selected = None if isinstance(where, str) and where == "auto" else chosen(model, where)
    # Without what an earlier call inserted: so this call finds the same blocks, and knows which of them are served.
    graph = trace(model, example_inputs, edit=without_insertions)
    blocks = find_blocks(graph)
    if selected is not None:
        blocks = _selected_blocks(graph, blocks, selected)
    _mark_served(graph, blocks)
    if all(block.reason and block.reason != CARRIES for block in blocks):
        raise SenetError(_no_block(model, graph))
    numbers = _stage_numbers(blocks)
    _check_stages(stages, numbers)
    report = _report(graph, blocks, spec, placement, numbers, stages)
    report = report.without(faults(model, graph.inputs, report.inserted))
    if not report.inserted and not any(item.reason == CARRIES for item in report.skipped):
        raise SenetError(_no_insertion_point(report, spec, blocks))
    return report


def _mark_served(graph: Graph, blocks: Sequence[Block]) -> None:
    """Give the blocks in which something is inserted their reason."""
    served = [(call, side) for call in graph.calls if (side := side_of(call.module)) is not None]
    for block in blocks:
        if not block.reason and any(belongs(call, side, block) for call, side in served):
            block.reason = CARRIES


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
    blocks: Sequence[Block],
    spec: AttentionSpec,
    placement: str,
    numbers: dict[tuple[int, ...], int],
    stages: Sequence[int] | None,
) -> Report:
    places = HookPoints(graph)
    skipped: list[Skipped] = []
    found: dict[tuple[str, str], list[tuple[Block, HookPoint]]] = {}
    for block in blocks:
        number = numbers.get(block.end.space, 0)
        reason = block.reason
        if not reason and stages is not None and number not in stages:
            reason = f"is in none of the stages {', '.join(map(str, stages))}"
        place = reason or places.of(block, placement)
        if isinstance(place, str):
            skipped.append(Skipped(block.call.path, block.kind, place))
        else:
            found.setdefault((place.call.path, place.side), []).append((block, place))
    points = []
    for (path, side), meetings in found.items():
        block, place = meetings[0]
        reason = _unfit(places, [p for _, p in meetings], spec)
        if reason:
            skipped.append(Skipped(block.call.path, block.kind, reason))
            continue
        with torch.device("meta"):
            layer = spec.build(place.value.channels, ndim=len(place.value.space))
        params, macs = layer_cost(layer, place.value.shape)
        number = numbers.get(block.end.space, 0)
        space = place.value.space
        points.append(
            InsertionPoint(path, side, block.call.path, block.kind, number, place.value.channels, space, placement,
                 spec.to_dict(), params, macs)
        )  # fmt: skip
    return Report(type(graph.root.module).__name__, tuple(points), tuple(skipped))


def _unfit(places: HookPoints, meetings: Sequence[HookPoint], spec: AttentionSpec) -> str:
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


def _stage_numbers(blocks: Sequence[Block]) -> dict[tuple[int, ...], int]:
    """Map size to stage number: the sizes in falling order, from 2."""
    sizes = {block.end.space for block in blocks if block.reason in ("", CARRIES)}
    return {size: number for number, size in enumerate(sorted(sizes, reverse=True), 2)}


def _check_stages(stages: Sequence[int] | None, numbers: dict[tuple[int, ...], int]) -> None:
    for stage in stages or ():
        if stage not in numbers.values():
            known = ", ".join(f"{n} ({'x'.join(map(str, size))})" for size, n in numbers.items())
            raise SenetError(f"stages: no stage {stage} here; there are {known}")


def _selected_blocks(graph: Graph, blocks: Sequence[Block], selected: set[str]) -> list[Block]:
    """The blocks that the user's modules are or hold or end; for a module with none, its own output."""
    places = HookPoints(graph)
    found: list[Block] = []
    for path in sorted(selected):
        below = f"{path}."
        lock_folder = [u for u in blocks if u.call.path == path or u.call.path.startswith(below)]
        if not lock_folder:
            for block in blocks:
                place = places.of(block, "standard")
                if isinstance(place, HookPoint) and (place.call.path == path or place.call.path.startswith(below)):
                    lock_folder.append(block)
        found += lock_folder or _outputs(graph, path)
    return sorted(dict.fromkeys(found), key=lambda block: block.end.number)


def _outputs(graph: Graph, path: str) -> list[Block]:
    calls = [call for call in graph.calls if call.path == path]
    if not calls:
        raise SenetError(f"where: {path} doesn't run on the example inputs")
    for call in calls:
        if not call.single or len(call.outputs[0].shape) not in (3, 4, 5):
            shape = call.outputs[0].shape if call.single else "several tensors"
            raise SenetError(f"where: {path} gives {shape}; attention needs one map (N, C, space)")
    return [Block("module", call.parent or call, call.outputs[0], frozenset()) for call in calls]


def _no_block(model: nn.Module, graph: Graph) -> str:
    name = type(model).__name__
    convs = [path for path, m in plain_modules(model).items() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    listed = ", ".join(convs[:4]) + (f" and {len(convs) - 4} more" if len(convs) > 4 else "")
    if any("attention" in v.op or v.op in ("bmm", "softmax", "_softmax") for v in graph.values):
        return (
            f"{name} is a transformer: its blocks work on tokens; its only convolutions are {listed}; "
            "name one by where="
        )
    return f"{name} has no block that attention could sit in; its convolutions are {listed}; name a module by where="


def _no_insertion_point(report: Report, spec: AttentionSpec, blocks: Sequence[Block]) -> str:
    """What keeps attention from every block, and what would work."""
    reasons = list(dict.fromkeys(item.reason for item in report.skipped))
    more = f"; and {len(reasons) - 2} more reasons" if len(reasons) > 2 else ""
    hint = _fitting(spec, blocks) or "choose another placement= or where="
    return f"{report.model} has no block that takes this attention: {'; '.join(reasons[:2])}{more}; {hint}"


def _fitting(spec: AttentionSpec, blocks: Sequence[Block]) -> str:
    """A reduction that suits the blocks' channels, if the given one suits none; as a hint."""
    ends = [block.end for block in blocks if not block.reason]
    if "reduction" not in {f.name for f in fields(spec)} or not ends or any(_fits(spec, end) for end in ends):
        return ""
    reduction = max(1, min(end.channels for end in ends) // 2)
    smaller = replace(spec, reduction=reduction)  # type: ignore[call-arg]
    return f"reduction={reduction} fits" if all(_fits(smaller, end) for end in ends) else ""


def _fits(spec: AttentionSpec, end: Value) -> bool:
    try:
        spec.check(end.channels, ndim=len(end.space))
    except SenetError:
        return False
    return True


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
