"""Where the attention sits: every placement in every kind of block."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import nn

import senet
from senet.nn import PLACEMENTS, Attention
from senet.ops import using

UNITS: dict[str, tuple[str, dict[str, Any]]] = {
    "basic": ("se_resnet18", {"depths": (2, 1)}),
    "bottleneck": ("se_resnet50", {"depths": (2, 1)}),
    "split": ("senet154", {"depths": (2, 1), "groups": 4, "group_width": 16}),
    "small": ("se_cifar_resnet20", {"depth": 2, "widths": (16, 32)}),
    "preact": ("se_cifar_preresnet20", {"depth": 2, "widths": (16, 32)}),
    "preact-bottleneck": ("se_cifar_preresnet164", {"depth": 2, "widths": (16, 32)}),
    "shake": ("se_shake_shake26_2x96d", {"depth": 2, "widths": (16, 32)}),
    "shake-bottleneck": ("se_shake_even29_2x4x64d", {"depth": 2, "widths": (16, 32), "groups": 2}),
}


def _model(kind: str, **options: Any) -> nn.Module:
    name, own = UNITS[kind]
    torch.manual_seed(0)
    model = senet.create_model(name, num_classes=6, **own, **options)
    # The same network but for the placement, and nothing degenerate in it.
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, tensor in sorted(model.state_dict().items()):
            if key.endswith("num_batches_tracked"):
                continue
            if "var" in key or (tensor.ndim == 1 and key.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=random)
            else:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.3, generator=random)
    return model.eval()


IMAGES = torch.randn(2, 3, 33, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("placement", sorted(PLACEMENTS))
def test_every_placement_keeps_the_shapes(kind: str, placement: str) -> None:
    attended, plain = _model(kind, placement=placement), _model(kind, attention=None)
    assert attended.forward_features(IMAGES).shape == plain.forward_features(IMAGES).shape
    units = [unit for stage in attended.spec.blocks() for unit in stage]
    site = {"pre": "in_channels", "conv3x3": "inner_channels"}.get(placement, "out_channels")
    blocks = [m for m in attended.modules() if isinstance(m, Attention)]
    assert [block.channels for block in blocks] == [getattr(unit, site) for unit in units]
    attended.train()(IMAGES).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attended.parameters())


@pytest.mark.parametrize("kind", UNITS)
def test_placements_are_different_functions(kind: str) -> None:
    results = {placement: _model(kind, placement=placement)(IMAGES) for placement in PLACEMENTS}
    for first, second in combinations(results, 2):
        assert not torch.allclose(results[first], results[second], rtol=1e-3, atol=1e-3), (first, second)


@pytest.mark.parametrize("kind", UNITS)
def test_a_gate_of_one_is_the_plain_network(kind: str) -> None:
    """Wherever it sits, a block whose gate is 1 must leave no trace."""
    plain = _model(kind, attention=None)
    for placement in PLACEMENTS:
        attended = senet.create_model(
            UNITS[kind][0], num_classes=6, **UNITS[kind][1], placement=placement, attention=senet.SE(init="identity")
        ).eval()
        missing = attended.load_state_dict(plain.state_dict(), strict=False)
        assert not missing.unexpected_keys
        assert all(".se." in key for key in missing.missing_keys)
        # By the fused operator norm, attention, sum and ReLU are one, and round elsewhere.
        torch.testing.assert_close(attended(IMAGES), plain(IMAGES), rtol=1e-5, atol=1e-4)
        with using("reference"):
            torch.testing.assert_close(attended(IMAGES), plain(IMAGES), rtol=0, atol=0)


def _units(model: nn.Module) -> list[nn.Module]:
    return [unit for stage in model.stages.values() for unit in stage]


def test_standard_in_a_residual_unit_by_hand() -> None:
    unit = _units(_model("bottleneck"))[1]
    x = torch.randn(2, 256, 5, 5)
    branch = unit.branch
    y = branch.bn1(branch.conv1(x)).relu()
    y = branch.bn3(branch.conv3(branch.bn2(branch.conv2(y)).relu()))
    s = y.mean((2, 3))
    gate = torch.sigmoid(unit.se.fc2(torch.relu(unit.se.fc1(s))))[:, :, None, None]
    torch.testing.assert_close(unit(x), torch.relu(x + gate * y))


def test_standard_in_a_preactivation_unit_by_hand() -> None:
    """An identity shortcut is the raw input, a projection sees the activated one, and nothing follows the sum."""
    same, changes = _units(_model("preact"))[1], _units(_model("preact"))[2]
    for unit in (same, changes):
        x = torch.randn(2, 16, 6, 6)
        active = unit.preact[0](x).relu()
        branch = unit.branch
        y = branch.conv2(branch.bn2(branch.conv1(active)).relu())
        shortcut = x if unit.shortcut is None else unit.shortcut(active)
        torch.testing.assert_close(unit(x), shortcut + y * unit.se.gate(y))
    assert same.shortcut is None
    assert changes.shortcut is not None


def test_conv3x3_follows_the_norm_and_relu_of_the_3x3() -> None:
    unit = _units(_model("bottleneck", placement="conv3x3"))[1]
    x = torch.randn(2, 256, 5, 5)
    branch = unit.branch
    y = branch.bn2(branch.conv2(branch.bn1(branch.conv1(x)).relu())).relu()
    torch.testing.assert_close(unit(x), torch.relu(x + branch.bn3(branch.conv3(y * unit.se.gate(y)))))


@pytest.mark.parametrize("name", ["se_mobilenet_v1", "se_shufflenet_v1_g3"])
def test_conv3x3_follows_the_depthwise_convolution(name: str) -> None:
    model = senet.create_model(name, placement="conv3x3", depths=(1, 2), num_classes=3).eval()
    for unit in _units(model):
        mobile = name == "se_mobilenet_v1"
        depthwise, before = (unit.depthwise[0], unit.depthwise) if mobile else (unit.conv2, unit.bn2)
        assert depthwise.groups == depthwise.in_channels == unit.se.channels
        met: list[torch.Tensor] = []
        before.register_forward_hook(lambda _m, _a, y, met=met: met.append(y))
        unit.se.register_forward_pre_hook(lambda _m, a, met=met: met.append(a[0]))
        unit(torch.rand(1, (depthwise if mobile else unit.conv1).in_channels, 8, 8))
        assert met[0] is met[1]


@pytest.mark.parametrize("name", ["mobilenet_v1_025", "shufflenet_v1_g3"])
def test_surgery_finds_the_depthwise_convolution(name: str) -> None:
    options = {"depths": (1, 2), "num_classes": 3}
    model = senet.create_model(name, **options).eval()
    images = torch.rand(2, 3, 64, 64)
    before = model(images)
    report = senet.retrofit(model, senet.SE(reduction=4), placement="conv3x3", example_inputs=images)
    meant = senet.create_model(f"se_{name}", placement="conv3x3", attention=senet.SE(reduction=4), **options)
    assert [point.channels for point in report.inserted] == [unit.se.channels for unit in _units(meant)]
    assert torch.equal(model(images), before)
