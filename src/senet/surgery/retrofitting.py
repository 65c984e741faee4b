"""Insert attention into a network (`plan`, `retrofit`), and select the parameters to train (`trainable`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import nn

from senet.errors import SenetError, UnknownNameError
from senet.graph.block import HAS_ATTENTION, Block
from senet.graph.blocks import find_blocks
from senet.graph.compiled import plain_modules
from senet.graph.inputs import ExampleInputs
from senet.graph.trace import trace
from senet.graph.values import Graph, Value
from senet.nn import PLACEMENTS, SE, Attention, AttentionSpec
from senet.profiling.layer import layer_cost
from senet.surgery.apply import apply_insertion_points
from senet.surgery.insertion import CHILD, side_of, without_insertions
from senet.surgery.insertion_points import HookPoint, HookPointFinder, belongs
from senet.surgery.module_patterns import Where, select_modules
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
    """Insert attention into any convolutional network, in place, without changing its output.

    The layers start as the identity, whatever `attention.init` is. Until the first training step, the output equals the
    original one bit for bit. This uses the centred form of the gate, 2 * sigmoid in (0, 2), see `SqueezeExcite`. No key
    of the state dict changes, so the original checkpoints still load. A second call changes nothing.

    Copies of the network try the insertion first. A layer is skipped, with a reason in the report, if it changes the
    output or doesn't run exactly once per run of its module. Examples are modules whose forward method loops over their
    children, and modules called by `.forward()`, which skips hooks. Outputs are not compared if they differ between
    runs, or if the network can't compute on the example. Nor are they for a network without weights (on the meta
    device). Then only the runs are counted.

    A network that `torch.compile` has wrapped, or that compiled code calls, is recompiled at its next call. So is all
    other compiled code of this process.

    Args:
        model: Any module: a classifier, or the backbone inside a larger network.
        attention: The spec of the attention. None is `senet.SE()`.
        where: "auto" finds the blocks by the flow of the feature maps. Attention then rescales a residual branch before
            the sum, the concatenation of an inception module, or a dense layer's new channels. It also rescales the
            output of a separable block, and in a plain network each activated convolution. To select modules yourself,
            give a path pattern, a module class, a list of these, or a function of path and module. In the pattern
            `"layer4.*"`, `*` matches one part of a path, and `**` any number. Attention then goes to the block in each
            module, or else to its output.
        placement: A key of `senet.nn.PLACEMENTS`. Blocks that don't support it are skipped.
        stages: Only these stages. Blocks at the largest resolution are stage 2, as in the paper's Table 13.
        example_inputs: Inputs for the copies: one tensor, a tuple or list of all positional arguments, or a dict of
            all arguments by name. None guesses an image.

    Returns:
        The insertion points and the skipped blocks.

    Raises:
        SenetError: No block takes the attention, `where` matches nothing or is ambiguous, or an option is wrong. Or
            the network doesn't run on the example, has lazy layers, is scripted, quantized, or wrapped for several
            devices. The model is then unchanged.

    Source: Hu et al. 2018, section 3.3, Figs. 2-3; sections 6.4 and 6.5 for stages and placements.

    Example:
        >>> import torch, torchvision, senet
        >>> model, images = torchvision.models.resnet18().eval(), torch.rand(1, 3, 64, 64)
        >>> before = model(images)
        >>> report = senet.retrofit(model, senet.SE(reduction=8), example_inputs=images)
        >>> len(report.inserted), torch.equal(model(images), before)
        (8, True)
    """
    report = plan(
        model, attention, where=where, placement=placement, stages=stages, example_inputs=example_inputs
    )  # fmt: skip
    apply_insertion_points(model, report.inserted)
    return report


@torch.inference_mode(False)  # tensors made in inference mode can't be traced
def plan(
    model: nn.Module,
    attention: AttentionSpec | None = None,
    *,
    where: Where = "auto",
    placement: str = "standard",
    stages: Sequence[int] | None = None,
    example_inputs: ExampleInputs | None = None,
) -> Report:
    """Return the report of `retrofit` with the same arguments, without changing the network.

    Example:
        >>> import senet
        >>> report = senet.plan(senet.create_model("cifar_resnet20", depth=1), senet.ECA(), stages=[3, 4])
        >>> [point.path for point in report.inserted], report.params
        (['stages.3.0.branch.bn2', 'stages.4.0.branch.bn2'], 6)
    """
    spec = _identity_spec(attention if attention is not None else SE())
    if placement not in PLACEMENTS:
        raise UnknownNameError("placement", placement, PLACEMENTS)
    model = operable(model)
    selected = None if isinstance(where, str) and where == "auto" else select_modules(model, where)
    # Without earlier insertions, this call finds the same blocks, and knows which of them have attention.
    graph = trace(model, example_inputs, edit=without_insertions)
    blocks = find_blocks(graph)
    if selected is not None:
        blocks = _selected_blocks(graph, blocks, selected)
    _mark_attended(graph, blocks)
    if all(block.reason and block.reason != HAS_ATTENTION for block in blocks):
        raise SenetError(_no_block(model, graph))
    numbers = _stage_numbers(blocks)
    _check_stages(stages, numbers)
    report = _report(graph, blocks, spec, placement, numbers, stages)
    report = report.without(faults(model, graph.inputs, report.inserted))
    if not report.inserted and not any(item.reason == HAS_ATTENTION for item in report.skipped):
        raise SenetError(_no_insertion_point(report, spec, blocks))
    return report


def _mark_attended(graph: Graph, blocks: Sequence[Block]) -> None:
    """Set the reason of blocks that already have inserted attention."""
    attended = [(call, side) for call in graph.calls if (side := side_of(call.module)) is not None]
    for block in blocks:
        if not block.reason and any(belongs(call, side, block) for call, side in attended):
            block.reason = HAS_ATTENTION


def _identity_spec(spec: AttentionSpec) -> AttentionSpec:
    if not isinstance(spec, AttentionSpec):
        raise SenetError(f"attention={spec!r} is not an attention spec; use e.g. senet.SE()")
    if "init" not in {f.name for f in fields(spec)}:
        raise SenetError(
            f"{spec.kind!r} has no identity initialization, so inserting it would change the network's output"
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
    finder = HookPointFinder(graph)
    skipped: list[Skipped] = []
    found: dict[tuple[str, str], list[tuple[Block, HookPoint]]] = {}
    for block in blocks:
        number = numbers.get(block.end.space, 0)
        reason = block.reason
        if not reason and stages is not None and number not in stages:
            reason = f"is in none of the stages {', '.join(map(str, stages))}"
        hook_point = reason or finder.find(block, placement)
        if isinstance(hook_point, str):
            skipped.append(Skipped(block.call.path, block.kind, hook_point))
        else:
            found.setdefault((hook_point.call.path, hook_point.side), []).append((block, hook_point))
    points = []
    for (path, side), occurrences in found.items():
        block, hook_point = occurrences[0]
        reason = _unfit(finder, [p for _, p in occurrences], spec)
        if reason:
            skipped.append(Skipped(block.call.path, block.kind, reason))
            continue
        with torch.device("meta"):
            layer = spec.build(hook_point.value.channels, ndim=len(hook_point.value.space))
        params, macs = layer_cost(layer, hook_point.value.shape)
        number = numbers.get(block.end.space, 0)
        space = hook_point.value.space
        points.append(
            InsertionPoint(path, side, block.call.path, block.kind, number, hook_point.value.channels, space, placement,
                 spec.to_dict(), params, macs)
        )  # fmt: skip
    return Report(type(graph.root.module).__name__, tuple(points), tuple(skipped))


def _unfit(finder: HookPointFinder, occurrences: Sequence[HookPoint], spec: AttentionSpec) -> str:
    """Return why this hook point can't have the layer. Empty if it can."""
    value = occurrences[0].value
    if side_of(occurrences[0].call.module) is not None:
        return HAS_ATTENTION
    if hasattr(occurrences[0].call.module, CHILD):
        return f"already has a submodule or attribute {CHILD!r}"
    if finder.is_shared(occurrences):
        return f"shares {occurrences[0].call.path} with other blocks"
    if any(hook_point.value.channels != value.channels for hook_point in occurrences):
        return f"runs {occurrences[0].call.path} on feature maps of different channels"
    try:
        spec.check(value.channels, ndim=len(value.space))
    except SenetError as error:
        return str(error)
    return ""


def _stage_numbers(blocks: Sequence[Block]) -> dict[tuple[int, ...], int]:
    """Map feature map sizes in descending order to stage numbers from 2."""
    sizes = {block.end.space for block in blocks if block.reason in ("", HAS_ATTENTION)}
    return {size: number for number, size in enumerate(sorted(sizes, reverse=True), 2)}


def _check_stages(stages: Sequence[int] | None, numbers: dict[tuple[int, ...], int]) -> None:
    for stage in stages or ():
        if stage not in numbers.values():
            known = ", ".join(f"{n} ({'x'.join(map(str, size))})" for size, n in numbers.items())
            raise SenetError(f"stages: there is no stage {stage}; use {known}")


def _selected_blocks(graph: Graph, blocks: Sequence[Block], selected: set[str]) -> list[Block]:
    """Return the blocks that are, or are in, or end in the selected modules. Without one, use the module's output."""
    finder = HookPointFinder(graph)
    found: list[Block] = []
    for path in sorted(selected):
        below = f"{path}."
        matched = [b for b in blocks if b.call.path == path or b.call.path.startswith(below)]
        if not matched:
            for block in blocks:
                hook_point = finder.find(block, "standard")
                if isinstance(hook_point, HookPoint) and (
                    hook_point.call.path == path or hook_point.call.path.startswith(below)
                ):
                    matched.append(block)
        found += matched or _outputs(graph, path)
    return sorted(dict.fromkeys(found), key=lambda block: block.end.number)


def _outputs(graph: Graph, path: str) -> list[Block]:
    calls = [call for call in graph.calls if call.path == path]
    if not calls:
        raise SenetError(f"where: {path} doesn't run on the example inputs")
    for call in calls:
        if not call.single or len(call.outputs[0].shape) not in (3, 4, 5):
            shape = call.outputs[0].shape if call.single else "several tensors"
            raise SenetError(f"where: {path} returns {shape}; attention needs one feature map (N, C, *spatial)")
    return [Block("module", call.parent or call, call.outputs[0], frozenset()) for call in calls]


def _no_block(model: nn.Module, graph: Graph) -> str:
    name = type(model).__name__
    convs = [path for path, m in plain_modules(model).items() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    listed = ", ".join(convs[:4]) + (f" and {len(convs) - 4} more" if len(convs) > 4 else "")
    if any("attention" in v.op or v.op in ("bmm", "softmax", "_softmax") for v in graph.values):
        return (
            f"{name} is a transformer: its blocks work on tokens. Its only convolutions are {listed}; "
            "select one with where="
        )
    return f"{name} has no block for attention. Its convolutions are {listed}; select a module with where="


def _no_insertion_point(report: Report, spec: AttentionSpec, blocks: Sequence[Block]) -> str:
    """Return the message for a network without insertion points: the reasons, and a hint."""
    reasons = list(dict.fromkeys(item.reason for item in report.skipped))
    more = f"; and {len(reasons) - 2} more reasons" if len(reasons) > 2 else ""
    hint = _fitting(spec, blocks) or "choose another placement= or where="
    return f"{report.model} has no block that takes this attention: {'; '.join(reasons[:2])}{more}; {hint}"


def _fitting(spec: AttentionSpec, blocks: Sequence[Block]) -> str:
    """Return a hint with a reduction that suits the blocks' channels, if the given one suits none."""
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


def trainable(model: nn.Module, group: str = "attention") -> list[nn.Parameter]:
    """Select the parameters to train, by setting `requires_grad` of all parameters.

    Running statistics of norms aren't parameters. They still follow the data in training mode.

    Args:
        model: Any network with attention layers of this package.
        group: "attention" (the gates alone) or "all".

    Returns:
        The parameters to train.

    Raises:
        SenetError: The model has no attention.
        UnknownNameError: There is no such group.

    Example:
        >>> import torch, senet
        >>> model = senet.create_model("cifar_resnet20", depth=1)
        >>> _ = senet.retrofit(model)
        >>> optimizer = torch.optim.SGD(senet.trainable(model, "attention"), lr=0.1)
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
        791
    """
    if group not in TRAINABLE:
        raise UnknownNameError("parameter group", group, TRAINABLE)
    gates = {id(p) for m in model.modules() if isinstance(m, Attention) for p in m.parameters()}
    if group == "attention" and not gates:
        raise SenetError(f"{type(model).__name__} has no attention to train; senet.retrofit(model) inserts it")
    for parameter in model.parameters():
        parameter.requires_grad_(group == "all" or id(parameter) in gates)
    return [p for p in model.parameters() if p.requires_grad]
