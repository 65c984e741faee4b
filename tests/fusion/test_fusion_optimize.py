"""An optimized network computes what the given one does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.fusion import optimize
from senet.inspection import inspect
from senet.nn import GATES

NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "bottleneck": ("se_resnet50_v1_5", {"depths": (2, 1)}, 48),
    "plain": ("resnet50_v1_5", {"depths": (2, 1)}, 48),
    "stride first": ("se_resnet50", {"depths": (1, 1)}, 48),
    "grouped": ("se_resnext50_32x4d", {"depths": (1, 1)}, 48),
    "basic": ("se_resnet18", {"depths": (2, 1)}, 48),
    "relu before se": ("se_resnet18", {"depths": (1, 1), "branch_relu": True}, 48),
    "cifar": ("se_cifar_resnet20", {"depth": 1}, 32),
    "conv3x3": ("se_resnet50", {"depths": (1, 1), "placement": "conv3x3"}, 48),
    "post": ("se_resnet18", {"depths": (1, 1), "placement": "post"}, 48),
    "eca": ("se_resnet50", {"depths": (1, 1), "attention": senet.ECA()}, 48),
    "max": ("se_resnet50", {"depths": (1, 1), "attention": senet.SE(squeeze="max")}, 48),
    "mobile": ("se_mobilenet_v1_025", {}, 64),
    "shuffle": ("se_shufflenet_v1_g3", {}, 64),
    "preact": ("se_cifar_preresnet20", {"depth": 1}, 32),
    "dense": ("se_densenet121", {"depths": (1, 1)}, 64),
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05}


def randomised(name: str, **options: Any) -> nn.Module:
    """All weights, gammas, statistics and gates are random: zero hides everything."""
    generator = torch.Generator().manual_seed(4)
    torch.manual_seed(4)
    model = senet.create_model(name, num_classes=5, **options)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(-0.5, 1, generator=generator)
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(generator=generator).mul_(0.3)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 2, generator=generator)
    return model.eval()


def images(size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5)).to(dtype)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_same_function(kind: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    name, options, size = NETWORKS[kind]
    model = randomised(name, **options).double()
    x = images(size, torch.float64)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(x)
        made, report = optimize(model.to(dtype).to(memory_format=layout))
        found = made(x.to(dtype).contiguous(memory_format=layout))
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
    assert expected.abs().max() > 0.01
    assert report.norms_folded + len(report.norms_left) > 0
    for key, value in model.state_dict().items():
        assert torch.equal(value, kept[key].to(value.dtype)), key


def test_the_report() -> None:
    made, report = senet.optimize(randomised("se_resnet50_v1_5"))
    assert (report.norms_folded, report.norms_left) == (53, [])
    assert (report.blocks_fused, report.gates_precomputed) == (16, 16)
    assert str(report) == "53 norms folded, 16 residual blocks fused, 16 gates precomputed"
    assert not made.training
    assert not any(p.requires_grad for p in made.parameters())
    _, basic = optimize(randomised("se_resnet18"))
    assert (basic.blocks_fused, basic.gates_precomputed) == (8, 0)
    _, dense = optimize(randomised("se_cifar_preresnet20", depth=1))
    assert dense.norms_left
    assert str(dense).endswith(f"{len(dense.norms_left)} norms left")


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("init", ["default", "identity"])
def test_every_gate(gate: str, init: str) -> None:
    attention = senet.SE(gate=gate, init=init, bias=init == "default")
    model = randomised("se_resnet50", depths=(1, 1), attention=attention).double()
    x = images(48, torch.float64)
    torch.testing.assert_close(optimize(model)[0](x), model(x), rtol=1e-9, atol=1e-9)


def test_a_backbone() -> None:
    backbone = senet.create_model("se_resnet50_v1_5", depths=(1, 1, 1), features_only=True, output_stride=8).eval()
    made, _ = optimize(backbone)
    with torch.no_grad():
        for ours, theirs in zip(made(images(64)), backbone(images(64)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_is_watched_stays() -> None:
    model = randomised("se_resnet50", depths=(1, 1))
    seen: list[Any] = []
    model.stages["2"][0].branch.bn3.register_forward_hook(lambda *args: seen.append(args))
    made, report = optimize(model)
    with torch.no_grad():
        torch.testing.assert_close(made(images(48)), model(images(48)), rtol=1e-4, atol=1e-4)
    assert seen
    assert report.norms_left == ["stages.2.0.branch.bn3"]


def test_it_can_be_copied_saved_and_exported() -> None:
    made, _ = optimize(randomised("se_resnet50", depths=(1, 1)))
    x = images(48)
    with torch.no_grad():
        expected = made(x)
        assert torch.equal(copy.deepcopy(made)(x), expected)
        exported = torch.export.export(made, (x,))
        targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
        assert all(target.startswith("aten.") for target in targets)
        torch.testing.assert_close(exported.module()(x), expected, rtol=1e-4, atol=1e-5)
    made(x.requires_grad_()).sum().backward()
    assert x.grad is not None


def test_no_network() -> None:
    with pytest.raises(senet.SenetError, match="optimize expects"):
        optimize("se_resnet50")  # type: ignore[arg-type]


def test_made_and_run_in_inference_mode() -> None:
    model = randomised("se_resnet50", depths=(1, 1))
    x = images(48).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = model(x)
        made, _ = optimize(model)
        for _ in range(2):  # the second time with prepared weights
            torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["se_resnet50", "se_resnet18", "resnet18"])
def test_surgery_comes_before(name: str) -> None:
    made, _ = optimize(randomised(name, depths=(1, 1)))
    x = images(48)
    kept = {key: value.clone() for key, value in made.state_dict().items()}
    with pytest.raises(senet.SenetError, match="was optimized for inference: retrofit the network, then optimize it"):
        senet.retrofit(made)
    with pytest.raises(senet.SenetError, match="freeze the network, then optimize it"):
        senet.freeze(made, [x])
    with pytest.raises(senet.SenetError, match="inspect the network, then optimize it"):
        inspect(made, [(x, torch.zeros(2, dtype=torch.int64))], ("a",))
    assert all(torch.equal(value, kept[key]) for key, value in made.state_dict().items())


def test_a_network_whose_weights_are_computed() -> None:
    """Weight norm leaves a weight that is no leaf behind, which can't be copied as it is."""
    model = nn.Sequential(torch.nn.utils.weight_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8))
    x = images(16)
    model(x).sum().backward()
    model.eval()
    torch.testing.assert_close(optimize(model)[0](x), model(x))
