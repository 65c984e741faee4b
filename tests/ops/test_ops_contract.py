"""The contract of every fused operator: for any arguments, what the modules compute, or their kind of error.

`SENET_EXAMPLES` sets how many arguments are drawn, over the profile (`make sanitize EXAMPLES=10000`).
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops.odd import FORMS, in_form, outcome, surroundings
from torch import Tensor, nn

from senet.fusion import optimize
from senet.models.resnet import BasicBranch, BottleneckBranch
from senet.models.spec import BlockShape
from senet.models.stages import ResidualBlock, conv_norm
from senet.nn import GATES, SqueezeExcite
from senet.nn.epilogue import norm_relu, residual_epilogue

EXAMPLES = int(os.environ.get("SENET_EXAMPLES", settings.default.max_examples))
drawn = settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
PLACES = ("", "no grad", "inference", "dispatch mode", "function mode", "autocast", "profiler")
TYPES = (torch.float32, torch.bfloat16, torch.float64, torch.float16)


@dataclass
class Drawn:
    """A case of `residual_epilogue`."""

    x: Tensor
    norm: nn.Module
    se: nn.Module
    shortcut: Tensor
    place: str
    hooked: str
    gradients: bool


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """The usual value three times in four."""
    return st.integers(0, 3).flatmap(lambda k: st.just(usual) if k else st.sampled_from(others))


@st.composite
def maps(draw: st.DrawFn, channels: int, dtype: torch.dtype, generator: torch.Generator, like: Any = None) -> Tensor:
    n = draw(mostly(2, 0, 1, 3)) if like is None else like[0]
    height, width = (draw(st.integers(1, 9)), draw(st.integers(1, 9))) if like is None else like[2:]
    x = torch.randn(n, channels, height, width, generator=generator).to(dtype)
    layout = draw(st.sampled_from((torch.contiguous_format, torch.channels_last)))
    return in_form(x.contiguous(memory_format=layout), draw(mostly("plain", *(f for f in FORMS if f != "expanded"))))


def disturb(draw: st.DrawFn, module: nn.Module, generator: torch.Generator) -> None:
    """Random values everywhere, and sometimes odd strides or another type."""
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, tensor in list(store.items()):
                if tensor is None or not tensor.is_floating_point():
                    continue
                value = torch.randn(tensor.shape, generator=generator)
                if name == "running_var":
                    value = value.abs() + 0.3
                value = in_form(value, draw(mostly("plain", *FORMS)))
                trains = draw(mostly(True, False))
                made = nn.Parameter(value, requires_grad=trains) if isinstance(tensor, nn.Parameter) else value
                store[name] = made
    if draw(st.integers(0, 15)) == 0:
        part = draw(st.sampled_from([m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
                                    or [module]))  # fmt: skip
        part.to(draw(st.sampled_from(TYPES)))


@st.composite
def epilogues(draw: st.DrawFn) -> Drawn:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    channels = draw(st.integers(1, 70))
    dtype = draw(mostly(torch.float32, *TYPES))
    x = draw(maps(channels, dtype, generator))
    shape = list(x.shape)
    if draw(st.integers(0, 9)) == 0:
        shape[draw(st.integers(0, 3))] = draw(st.sampled_from((1, 2, 5)))
    shortcut = draw(maps(shape[1], draw(mostly(dtype, *TYPES)), generator, like=shape))
    norm = nn.BatchNorm2d(
        draw(mostly(channels, channels + 1)), eps=draw(st.sampled_from((1e-5, 1e-3))),
        momentum=draw(st.sampled_from((0.1, 0.7, None))), affine=draw(mostly(True, False)),
        track_running_stats=draw(mostly(True, False)),
    )  # fmt: skip
    if draw(st.integers(0, 9)) == 0:
        norm.track_running_stats = not norm.track_running_stats
    width = draw(mostly(channels, channels + 3))
    se: nn.Module = nn.Identity()
    if draw(st.booleans()):
        se = SqueezeExcite(
            width, hidden_channels=draw(st.integers(1, 9)), gate=draw(st.sampled_from(list(GATES))),
            init=draw(st.sampled_from(("default", "identity"))), bias=draw(mostly(True, False)),
            squeeze=draw(mostly("mean", "max")),
        )  # fmt: skip
        if draw(st.integers(0, 15)) == 0:
            se.fc2 = nn.Linear(se.fc1.out_features + 5, width)
    for module in (norm, se):
        disturb(draw, module, generator)
        module.train(draw(st.booleans()))
    return Drawn(
        x, norm, se, shortcut, draw(st.sampled_from(PLACES)), draw(mostly("", "norm", "se")), draw(st.booleans())
    )


def by_modules(x: Tensor, norm: nn.Module, se: nn.Module, shortcut: Tensor) -> Tensor:
    return torch.relu(shortcut + se(norm(x)))


Results = dict[str, Tensor]


def step(compute: Any, case: Drawn, weight: Tensor | None = None) -> tuple[Results, nn.ModuleList]:
    """Result, gradients and buffers of a computation on copies of a case's parts."""
    parts = nn.ModuleList([copy.deepcopy(case.norm), copy.deepcopy(case.se)])
    x, shortcut = (t.detach().requires_grad_(case.gradients and t.is_floating_point()) for t in (case.x, case.shortcut))
    calls: list[int] = []
    if case.hooked:
        parts[case.hooked == "se"].register_forward_hook(lambda *_: calls.append(1))
    with surroundings(case.place):
        y = compute(x, *parts, shortcut)
    assert len(calls) == bool(case.hooked), "a hook is called once"
    found: Results = {"y": y}
    if weight is not None and y.requires_grad:
        wanted = {"x": x, "shortcut": shortcut, **dict(parts.named_parameters())}
        wanted = {name: t for name, t in wanted.items() if t.requires_grad}
        gradients = torch.autograd.grad(y, list(wanted.values()), weight.to(y.dtype), allow_unused=True)
        found |= {f"d{name}": g for name, g in zip(wanted, gradients, strict=True) if g is not None}
    return found | dict(parts.named_buffers()), parts


def exact(case: Drawn) -> Drawn:
    norm, se = copy.deepcopy(case.norm).double(), copy.deepcopy(case.se).double()
    return Drawn(case.x.double(), norm, se, case.shortcut.double(), "", "", case.gradients)


def assert_agree(ours: Results, theirs: Results, truth: Results, *, loose: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        plain = theirs[name]
        assert value.shape == plain.shape, name
        assert value.dtype == plain.dtype, name
        if not value.numel() or name not in truth:
            continue
        exactly = truth[name].detach().double()
        scale = exactly.abs().max().clamp_min(1e-2)
        off, plainly = (float((v.detach().double() - exactly).abs().max() / scale) for v in (value, plain))
        # Where the problem is ill-conditioned, no float32 gets nearer than PyTorch's own.
        assert off <= max(loose, 8 * plainly) or off != off == plainly, (name, off, plainly)


def tolerance(case: Drawn) -> float:
    kinds = {t.dtype for t in (case.x, case.shortcut, *case.norm.parameters(), *case.se.parameters())}
    half = case.place == "autocast" or not kinds <= {torch.float32, torch.float64}
    return 0.06 if half else 1e-4


def check(case: Drawn, fused: Any, modules: Any) -> None:
    torch.manual_seed(0)
    theirs = outcome(lambda: step(modules, case)[0])
    ours = outcome(lambda: step(fused, case)[0])
    if isinstance(theirs, type) or isinstance(ours, type):
        assert ours == theirs
        return
    known = exact(case)
    truth = step(modules, known)[0]
    # A value within rounding of zero may be on either side of the ReLU: it gets no gradient here.
    same = ((ours["y"] > 0) == (theirs["y"] > 0)) & ((ours["y"] > 0) == (truth["y"] > 0))
    weight = torch.randn(same.shape, generator=torch.Generator().manual_seed(1)) * same
    results = (step(fused, case, weight)[0], step(modules, case, weight)[0], step(modules, known, weight)[0])
    assert_agree(*results, loose=tolerance(case))


@drawn
@given(case=epilogues())
def test_the_end_of_a_block(case: Drawn) -> None:
    check(case, residual_epilogue, by_modules)


@drawn
@given(case=epilogues())
def test_norm_and_relu(case: Drawn) -> None:
    case.hooked = case.hooked and "norm"
    relu = nn.ReLU()
    check(
        case,
        lambda x, norm, _se, _shortcut: norm_relu(x, norm, relu),
        lambda x, norm, _se, _shortcut: relu(norm(x)),
    )


# --- optimized blocks ---------------------------------------------------------------------------------------------


@st.composite
def blocks(draw: st.DrawFn) -> tuple[nn.Module, torch.Generator]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    torch.manual_seed(draw(st.integers(0, 9)))
    channels, stride = draw(st.sampled_from((4, 16, 24, 36, 40))), draw(st.sampled_from((1, 2)))
    inner, groups = draw(st.sampled_from((4, 8, 20, 36))), draw(mostly(1, 2, 4))
    out = draw(st.sampled_from((channels, 48)))
    shape = BlockShape(channels, inner, out, stride)
    bottleneck = draw(st.booleans())
    branch = (
        BottleneckBranch(shape, groups=groups, stride_first=draw(st.booleans())) if bottleneck else BasicBranch(shape)
    )
    same = out == channels and stride == 1
    shortcut = nn.Identity() if same else conv_norm(channels, out, 1, stride=stride)
    attention: nn.Module = nn.Identity()
    if draw(st.booleans()):
        attention = SqueezeExcite(
            out, 4, gate=draw(st.sampled_from(list(GATES))), bias=draw(mostly(True, False)),
            squeeze=draw(mostly("mean", "max")),
        )  # fmt: skip
    placement = draw(mostly("standard", "post", "identity"))
    block = ResidualBlock(branch, shortcut, attention, placement)
    for name, tensor in [*block.named_parameters(), *block.named_buffers()]:
        if tensor.is_floating_point():
            value = torch.randn(tensor.shape, generator=generator)
            scale = 0.3 if tensor.ndim > 1 else 1
            tensor.data.copy_(value.abs() + 0.3 if name.endswith("running_var") else value * scale)
    return block.eval(), generator


@drawn
@given(data=st.data())
def test_an_optimized_block(data: st.DataObject) -> None:
    block, generator = data.draw(blocks())
    channels = next(block.parameters()).shape[1]
    x = data.draw(maps(channels, torch.float32, generator))
    truth = outcome(lambda: copy.deepcopy(block).double()(x.double()))
    made, _ = optimize(block)
    change = data.draw(
        st.sampled_from(("", "strides", "gradients", "hook", "type", "scaled", "copied", "loaded", "image"))
    )
    place = data.draw(st.sampled_from(PLACES))
    calls: list[int] = []
    expected_calls = 0
    if change == "strides":
        for part in made.modules():
            for name, tensor in part._parameters.items():
                if tensor is not None:
                    form = data.draw(st.sampled_from([f for f in FORMS if f != "expanded"]))
                    part._parameters[name] = nn.Parameter(in_form(tensor.detach(), form), requires_grad=False)
    elif change == "gradients":
        made.requires_grad_(True)
    elif change == "hook":
        part = data.draw(st.sampled_from([m for _, m in made.named_modules() if next(m.children(), None) is None]))
        part.register_forward_hook(lambda *_: calls.append(1))
        expected_calls = sum(m is part for m in made.modules())
    elif change == "type":
        kind = data.draw(st.sampled_from((torch.float64, torch.bfloat16)))
        made, x = made.to(kind), x.to(kind)
    elif change == "scaled":  # moved to other memory, as offloading does
        for tensor in made.parameters():
            tensor.data = tensor.data.clone()
    elif change == "copied":
        made = copy.deepcopy(made)
    elif change == "loaded":
        made.load_state_dict({k: v.clone() for k, v in made.state_dict().items()}, assign=True)
    elif change == "image":
        x.requires_grad_(True)

    def run() -> Tensor:
        with surroundings(place):
            return made(x)

    ours = outcome(run)
    if isinstance(truth, type):
        assert ours == truth
        return
    assert not isinstance(ours, type), ours
    assert len(calls) >= expected_calls
    assert ours.requires_grad == (change in ("gradients", "image") and place not in ("no grad", "inference"))
    if truth.numel():
        half = change == "type" and x.dtype is torch.bfloat16
        loose = 0.15 if half or place == "autocast" else 2e-4
        # PyTorch's own bfloat16 convolution of a map one pixel wide is wrong on CPUs with AMX (torch 2.14.1): where the
        # modules are off, there is nothing to compare with.
        plain = block.to(torch.bfloat16) if half else block
        with torch.no_grad(), surroundings(place if place == "autocast" else ""):
            modules = plain(x.detach().to(torch.bfloat16) if half else x.detach().float())
        if off(modules, truth) <= loose:
            assert off(ours, truth) <= loose


def off(found: Tensor, truth: Tensor) -> float:
    """Largest difference, of the largest value."""
    return float((found.detach().double() - truth.detach()).abs().max() / truth.detach().abs().max().clamp_min(1e-2))
