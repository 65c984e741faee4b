"""The weights of an optimized network are its weights: whatever is done to them, its numbers follow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

import senet
from senet.fusion import optimize
from senet.models.resnet import BasicBranch
from senet.models.spec import BlockShape
from senet.models.stages import ResidualBlock
from senet.ops import choose
from senet.ops.cpu.convolution import convolve

LAST = torch.channels_last


def network(name: str = "se_resnet50_v1_5", seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    model = senet.create_model(name, **{"depths": (1, 1), "num_classes": 5, **options})
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.2, 1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_().mul_(0.3)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model.eval()


def images() -> Tensor:
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(5)).contiguous(memory_format=LAST)


@torch.no_grad()
def assert_exact(model: nn.Module, x: Tensor) -> None:
    """It computes what a copy of it in float64 does."""
    exact = copy.deepcopy(model).double()(x.double())
    assert (model(x).double() - exact).abs().max() <= 1e-5 * exact.abs().max()


def _data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.3)


def _offload(model: nn.Module) -> None:
    """As offloading does: free, then fill again from elsewhere, perhaps at the same address."""
    for scale in (1.2, 1.3, 1.4):
        kept = [parameter.data.clone() * scale for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.data = torch.empty(0)
        for parameter, value in zip(model.parameters(), kept, strict=True):
            parameter.data = value


def _assigned(model: nn.Module) -> None:
    model.load_state_dict({k: v * 1.1 for k, v in model.state_dict().items()}, assign=True)


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    ".data": _data,
    "in place": lambda m: [p.mul_(1.2) for p in m.parameters()],
    "half and back": lambda m: m.half().float(),
    "double and back": lambda m: m.double().float(),
    "meta and back": lambda m: copy.copy(m.state_dict()) and m.load_state_dict(
        {k: v.to("meta").new_ones(v.shape, device="cpu") / v.numel() for k, v in m.state_dict().items()}
    ),
    "offloaded": _offload,
    "loaded": lambda m: m.load_state_dict({k: v * 0.9 for k, v in m.state_dict().items()}),
    "assigned": _assigned,
    "shared memory": lambda m: m.share_memory(),
}  # fmt: skip


@pytest.mark.parametrize("inference", [False, True], ids=["", "inference mode"])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_change(change: str, inference: bool) -> None:
    x = images()
    with torch.inference_mode(inference), torch.no_grad():
        made, _ = optimize(network())
        before = made(x)
        CHANGES[change](made)
        if change not in ("half and back", "double and back", "shared memory"):
            assert not torch.allclose(made(x), before)
        assert_exact(made, x)


def test_several_sets_of_weights_in_one_network() -> None:
    x = images()
    made, _ = optimize(network())
    others = [dict(optimize(network(seed=seed))[0].named_parameters()) for seed in (1, 2)]
    with torch.no_grad():
        for weights in (*others, *others, {k: 1.1 * v for k, v in others[0].items()}):
            found = functional_call(made, weights, (x,))
            exact = functional_call(
                copy.deepcopy(made).double(), {k: v.double() for k, v in weights.items()}, (x.double(),)
            )
            assert (found.double() - exact).abs().max() <= 1e-5 * exact.abs().max()
            del found, exact
        assert_exact(made, x)


def test_saved_and_loaded(tmp_path: Path) -> None:
    x = images()
    made, other = optimize(network())[0], optimize(network(seed=1))[0]
    save_file(made.state_dict(), tmp_path / "w.safetensors")
    with torch.no_grad():
        assert not torch.equal(made(x), other(x))
        other.load_state_dict(load_file(tmp_path / "w.safetensors"))
        assert torch.equal(made(x), other(x))
    torch.save(made, tmp_path / "whole.pt")
    again = torch.load(tmp_path / "whole.pt", weights_only=False)
    with torch.no_grad():
        assert torch.equal(made(x), again(x))


@pytest.mark.parametrize("length", [1, 60, 65, 100])
def test_a_bias_of_another_length_is_an_error(length: int) -> None:
    made, _ = optimize(network())
    name = next(key for key, value in made.named_parameters() if key.endswith("body.1.bias"))
    with torch.no_grad(), pytest.raises((ValueError, RuntimeError), match="bias"):
        functional_call(made, {name: torch.zeros(length)}, (images(),))


@pytest.mark.skipif(choose().library is None, reason=choose().reason)
def test_the_first_image_decides_nothing() -> None:
    """The layout of the weights is the same after any size of image."""
    made, _ = optimize(network())
    before = {k: (v.data_ptr(), v.stride()) for k, v in made.state_dict().items()}
    with torch.no_grad():
        for x in (images()[:1], torch.randn(1, 3, 33, 65), images()):
            made(x)
    assert {k: (v.data_ptr(), v.stride()) for k, v in made.state_dict().items()} == before


@pytest.mark.skipif(choose().library is None, reason=choose().reason)
@pytest.mark.parametrize("no_grad", [False, True])
def test_fast_whenever_no_gradient_is_needed(no_grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import senet.fusion.convolutions as home

    calls: list[int] = []

    def counted(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        convolve(*arguments, **options)

    monkeypatch.setattr(home, "convolve", counted)
    made, _ = optimize(network())
    with torch.set_grad_enabled(not no_grad):
        assert not made(images()).requires_grad
    fast = len(calls)
    assert fast >= 6
    made(images().requires_grad_()).sum().backward()
    assert len(calls) == fast, "a gradient was wanted"


# --- blocks with several names ------------------------------------------------------------------------------------


def block(*, se: bool) -> ResidualBlock:
    attention = senet.SqueezeExcite(16, 4) if se else nn.Identity()
    return ResidualBlock(BasicBranch(BlockShape(16, 16, 16)), nn.Identity(), attention, "standard")


class Repeated(nn.Module):
    """One block three times."""

    def __init__(self, *, se: bool) -> None:
        super().__init__()
        unit = block(se=se)
        self.body = nn.Sequential(unit, unit, unit)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class TwoNames(nn.Module):
    """One block under two names."""

    def __init__(self, *, se: bool) -> None:
        super().__init__()
        self.a = block(se=se)
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class SharedBranch(nn.Module):
    """Two blocks with one branch, one of them with attention."""

    def __init__(self, *, se: bool) -> None:
        super().__init__()
        self.a, self.b = block(se=se), block(se=not se)
        self.b.branch = self.a.branch

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) + self.a.branch(x)


class Tapped(nn.Module):
    """Somebody's own network that takes the parts of a sequence one by one."""

    def __init__(self, *, se: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.block = block(se=se)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.features:
            x = layer(x)
            kept.append(x.mean())
        return self.block(x) + torch.stack(kept).sum()


class Replaced(nn.Module):
    """A part whose forward was replaced, and uses its children in its own way."""

    def __init__(self, *, se: bool) -> None:
        super().__init__()
        self.block = block(se=se)
        unit = self.block
        self.block.forward = lambda x: unit.branch.bn1(unit.branch.conv1(x))  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


@pytest.mark.parametrize("se", [True, False], ids=["se", "plain"])
@pytest.mark.parametrize("kind", [Repeated, TwoNames, SharedBranch, Tapped, Replaced])
def test_parts_with_several_names_or_users(kind: type[nn.Module], se: bool) -> None:
    torch.manual_seed(0)
    model = kind(se=se).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, -1, 1)
    x = torch.randn(2, 16, 9, 9)
    with torch.no_grad():
        expected = model(x)
        made, _ = optimize(model)
        torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-5)


# --- who watches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["se_resnet50_v1_5", "se_resnet18"])
def test_gates_of_an_optimized_network(name: str) -> None:
    model, x = network(name), images()
    made, _ = optimize(model)
    with torch.no_grad(), senet.record_gates(model) as expected:
        model(x)
    with torch.no_grad(), senet.record_gates(made) as found:
        made(x)
    assert list(found) == list(expected)
    for path in found:
        torch.testing.assert_close(found[path], expected[path], rtol=1e-4, atol=1e-5)
    whole = senet.cost(model, (3, 48, 48))
    now = senet.cost(made, (3, 48, 48))
    # Behind a 1x1 convolution the first layer reads a quarter of the channels.
    first = 0.25 if name == "se_resnet50_v1_5" else 1
    assert now.attention_macs == whole.attention_macs * (1 + first) / 2


PATHS = ("", "stages.2", "stages.2.0", "stages.2.0.branch", "stages.2.0.branch.last", "stages.2.0.se",
         "stages.2.0.se.fc2", "stages.2.0.branch.body.0", "head")  # fmt: skip


@pytest.mark.parametrize("name", ["se_resnet50_v1_5", "se_resnet18", "resnet18"])
@pytest.mark.parametrize("path", PATHS)
def test_a_hook_sees_what_the_layer_gives(name: str, path: str) -> None:
    if path.startswith("stages.2.0.se") and not name.startswith("se"):
        return
    x = images()
    made, _ = optimize(network(name))
    seen: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        expected = made(x)
        made.get_submodule(path).register_forward_hook(lambda _m, _a, y: seen.append((y, y.clone())))
        found = made(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(seen) == 1
    assert torch.equal(*seen[0]), "what a hook keeps isn't overwritten"


def test_a_hook_before_it_stops_its_own_layer_only() -> None:
    model = network()
    for path in ("", "stages.2"):
        model.get_submodule(path).register_forward_pre_hook(lambda *_: None)
    _, report = optimize(model)
    assert report.blocks_fused == 2
    assert not report.norms_left
    model.stages["2"][0].register_forward_hook(lambda *_: None)
    assert optimize(model)[1].blocks_fused == 1


def test_of_a_compiled_network() -> None:
    model, x = network(), images()
    made, report = optimize(torch.compile(model, backend="eager"))
    assert report.blocks_fused == 2
    with torch.no_grad():
        torch.testing.assert_close(made(x), model(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.compile(made, backend="eager")(x), model(x), rtol=1e-4, atol=1e-4)


def test_without_torchs_private_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    from senet.ops import dense_convolution as home

    monkeypatch.setattr(home, "_operator", lambda: None)
    model, x = network("se_resnext50_32x4d"), images()
    with torch.no_grad():
        torch.testing.assert_close(optimize(model)[0](x), model(x), rtol=1e-4, atol=1e-4)
