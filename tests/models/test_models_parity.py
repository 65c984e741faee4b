"""Our networks compute what their peers compute, given the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from peers import (
    FLOAT32_TOLERANCE,
    FLOAT64_TOLERANCE,
    PYTORCHCV,
    PYTORCHCV_PREACT,
    PYTORCHCV_SE_PREACT,
    PYTORCHCV_SHAKE,
    TIMM_LEGACY,
    TORCHVISION,
    adopt,
    assert_gates_vary,
    deviation,
    pictures,
    randomise,
)
from torch import nn

import senet
from senet.models import BlockShape
from senet.models.resnet_cifar import TwoFlowShortcut
from senet.weights.rules import Table

SMALL, ODD, WHOLE, CIFAR = (64, 64), (97, 65), (224, 224), (32, 32)


@dataclass(frozen=True)
class Case:
    """One peer's network and ours.

    Attributes:
        ours: Name in `list_models()`.
        peer: The peer's name.
        naming: How it names its weights.
        make: Builds it.
        size: Of the images for float32; float64 takes the smallest that fits.
        options: Of ours.
    """

    ours: str
    peer: str
    naming: Table
    make: Callable[[str], nn.Module]
    size: tuple[int, int] = SMALL
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.peer}-{self.size[0]}x{self.size[1]}"


def _timm(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name)


def _short_senet(_: str) -> nn.Module:
    """timm's SENet-154 with one block a stage."""
    return pytest.importorskip("timm").create_model("legacy_senet154", layers=(1, 1, 1, 1))


def _torchvision(name: str) -> nn.Module:
    return pytest.importorskip("torchvision").models.get_model(name, weights=None)


def _pytorchcv(name: str) -> nn.Module:
    return pytest.importorskip("pytorchcv.model_provider").get_model(name, pretrained=False)


DEEP = {"18": WHOLE, "34": ODD, "50": ODD}
LEGACY = [
    *(Case(f"se_resnet{d}", f"legacy_seresnet{d}", TIMM_LEGACY, _timm, DEEP[d], {"branch_relu": True})
      for d in ("18", "34")),
    *(Case(f"se_resnet{d}", f"legacy_seresnet{d}", TIMM_LEGACY, _timm, DEEP.get(d, SMALL))
      for d in ("50", "101", "152")),
    Case("se_resnext50_32x4d", "legacy_seresnext50_32x4d", TIMM_LEGACY, _timm, ODD),
    Case("se_resnext101_32x4d", "legacy_seresnext101_32x4d", TIMM_LEGACY, _timm),
    Case("senet154", "legacy_senet154", TIMM_LEGACY, _timm, (65, 47)),
    Case("senet154", "short SENet-154", TIMM_LEGACY, _short_senet, (65, 47), {"depths": (1, 1, 1, 1)}),
]  # fmt: skip

# timm widens 64/16 = 4 hidden units to 8 without a word; here that is said.
WIDENED = {"attention": senet.SE(rounding="timm")}
V1_5 = [
    *(Case(f"se_resnet{d}_v1_5", f"seresnet{d}", TORCHVISION, _timm, DEEP.get(d, SMALL), WIDENED)
      for d in ("18", "34", "50", "101", "152")),
    Case("se_resnext50_32x4d_v1_5", "seresnext50_32x4d", TORCHVISION, _timm, ODD, WIDENED),
    Case("se_resnext101_32x4d_v1_5", "seresnext101_32x4d", TORCHVISION, _timm, SMALL, WIDENED),
]  # fmt: skip

PLAIN = [
    *(Case(f"resnet{d}_v1_5", f"resnet{d}", TORCHVISION, _torchvision, DEEP.get(d, SMALL))
      for d in ("18", "34", "50", "101", "152")),
    Case("resnext50_32x4d_v1_5", "resnext50_32x4d", TORCHVISION, _torchvision, ODD),
    Case("resnext101_32x4d_v1_5", "resnext101_32x4d", TORCHVISION, _timm),
]  # fmt: skip

PROJECTED = {"projection": True}
SMALL_IMAGES = [
    *(Case(f"cifar_resnet{d}", f"resnet{d}_cifar10", PYTORCHCV, _pytorchcv, CIFAR, PROJECTED)
      for d in (20, 56, 110)),
    *(Case(f"se_cifar_resnet{d}", f"seresnet{d}_cifar10", PYTORCHCV, _pytorchcv, CIFAR, PROJECTED)
      for d in (20, 56, 110)),
    *(Case(f"{se}cifar_resnet110", f"{se.rstrip('_')}resnet164bn_cifar10", PYTORCHCV, _pytorchcv, CIFAR,
           {"projection": True, "bottleneck": True}) for se in ("", "se_")),
    *(Case(f"cifar_preresnet{d}", f"preresnet{d}{'bn' * (d == 164)}_cifar10", PYTORCHCV_PREACT, _pytorchcv, CIFAR)
      for d in (20, 56, 110, 164)),
    *(Case(f"se_cifar_preresnet{d}", f"sepreresnet{d}{'bn' * (d == 164)}_cifar10", PYTORCHCV_SE_PREACT, _pytorchcv,
           CIFAR, {"stem_norm": True}) for d in (20, 56, 110, 164)),
    Case("wrn28_10", "wrn28_10_cifar10", PYTORCHCV_PREACT, _pytorchcv, CIFAR),
]  # fmt: skip

CASES = [*LEGACY, *V1_5, *PLAIN, *SMALL_IMAGES]
ONE_OF_EACH = {
    "legacy_seresnet18", "legacy_seresnet50", "legacy_seresnext50_32x4d", "short SENet-154", "seresnet50", "resnet50",
    "seresnet164bn_cifar10", "sepreresnet164bn_cifar10",
}  # fmt: skip
"""Peers of the default tests. Of the others, deeper ones repeat these blocks, and shallow ones are compared, through
`load_weights`, in `test_weights_converters.py`."""


WHOLE_CASES = [replace(case, size=WHOLE) for case in CASES if case.size not in (WHOLE, CIFAR)]


def _pair(case: Case, images: torch.Tensor) -> tuple[nn.Module, nn.Module]:
    with torch.device("meta"):
        peer = case.make(case.peer)
    randomise(peer, images)
    ours = senet.create_model(case.ours, device="meta", **case.options)
    adopt(ours, peer, case.naming)
    return ours, peer


@pytest.mark.parametrize(
    "case", [c if c.peer in ONE_OF_EACH else pytest.param(c, marks=pytest.mark.slow) for c in CASES], ids=str
)
def test_the_same_weights_give_the_same_logits(case: Case, record_property: Callable[..., None]) -> None:
    images = pictures(3, case.size)
    ours, peer = _pair(case, images)
    single = deviation(ours, peer, images)
    if ours.spec.attention is not None:
        assert_gates_vary(ours, images, blocks=sum(map(len, ours.spec.blocks())))
    # pytorchcv's last pool takes 8x8 maps only; the others may be judged on less.
    less = images[:2] if case.size == CIFAR else images[:2, :, :47, :33]
    double = deviation(ours.double(), peer.double(), less.double())
    record_property("float32", single)
    record_property("float64", double)
    assert single < FLOAT32_TOLERANCE
    assert double < FLOAT64_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("case", WHOLE_CASES, ids=str)
def test_the_same_logits_at_the_papers_size(case: Case) -> None:
    images = pictures(2, case.size)
    assert deviation(*_pair(case, images), images) < FLOAT32_TOLERANCE


WRONG = [
    Case("se_resnet50", "legacy_seresnet50", TIMM_LEGACY, _timm, options={"stride_first": False}),
    Case("se_resnet50", "legacy_seresnet50", TIMM_LEGACY, _timm, options={"ceil_pool": False}),
    Case("resnet50_v1_5", "resnet50", TORCHVISION, _torchvision, options={"stride_first": True}),
    Case("resnet50_v1_5", "resnet50", TORCHVISION, _torchvision, options={"ceil_pool": True}),
    Case("resnet18_v1_5", "resnet18", TORCHVISION, _torchvision, options={"ceil_pool": True}),
    Case("se_resnet18", "legacy_seresnet18", TIMM_LEGACY, _timm),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case.peer}-{'-'.join(case.options) or 'relu'}")
def test_the_comparison_sees_a_wrong_convention(case: Case) -> None:
    """The same keys and shapes, one convention turned: were these equal too, the equalities above would be blind."""
    images = pictures(2, SMALL)
    assert deviation(*_pair(case, images), images) > 10 * FLOAT32_TOLERANCE


@pytest.mark.parametrize("block", ["stages.2.0.se", "stages.5.2.se"])
def test_the_comparison_sees_one_wrong_gate(block: str) -> None:
    images = pictures(2, SMALL)
    ours, peer = _pair(Case("se_resnet50", "legacy_seresnet50", TIMM_LEGACY, _timm), images)
    fc1 = ours.get_submodule(block).fc1
    fc1.bias = nn.Parameter(torch.zeros_like(fc1.bias))
    assert deviation(ours, peer, images) > 10 * FLOAT32_TOLERANCE


@pytest.fixture
def shake_peer() -> Any:
    return pytest.importorskip("pytorchcv.models.shakeshakeresnet_cifar")


def test_shake_shake_where_both_definitions_coincide(shake_peer: Any) -> None:
    """One block a stage, each with a projection: then activating before the block or after the sum is the same.

    With identity shortcuts it is not: Gastaldi's CIFAR-10 network hands on the raw sum, pytorchcv the activated.
    """
    images = pictures(3, CIFAR)
    with torch.device("meta"):
        peer = shake_peer.get_shakeshakeresnet_cifar(
            num_classes=10, blocks=8, bottleneck=False, first_stage_channels=32
        )
    randomise(peer, images)
    ours = senet.create_model("shake_shake26_2x96d", device="meta", depth=1, widths=(32, 64, 128))
    adopt(ours, peer, PYTORCHCV_SHAKE)
    assert deviation(ours, peer, images) < FLOAT32_TOLERANCE
    assert deviation(ours.double(), peer.double(), images.double()) < FLOAT64_TOLERANCE


def test_shake_shake_where_the_definitions_part(shake_peer: Any) -> None:
    images = pictures(3, CIFAR)
    with torch.device("meta"):
        peer = shake_peer.shakeshakeresnet26_2x32d_cifar10()
    randomise(peer, images)
    ours = senet.create_model("shake_shake26_2x96d", device="meta", widths=(32, 64, 128))
    adopt(ours, peer, PYTORCHCV_SHAKE)
    assert deviation(ours, peer, images) > 10 * FLOAT32_TOLERANCE


@pytest.mark.parametrize(("stride", "size"), [(1, (8, 8)), (2, (8, 8)), (2, (9, 7))])
def test_two_flow_shortcut(shake_peer: Any, stride: int, size: tuple[int, int]) -> None:
    images = pictures(4, size, channels=16)
    peer = randomise(shake_peer.ShakeShakeShortcut(16, 32, stride), images)
    ours = TwoFlowShortcut(BlockShape(16, 32, 32, stride)).eval()
    ours.load_state_dict(peer.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(images), peer(images))
        assert not torch.allclose(ours.conv1(images), ours.conv2(images), atol=0.1)
