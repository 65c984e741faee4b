"""Inception-v3 and Inception-ResNet-v2 compute what their peers do, given the same weights; SE goes in by hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peers import (
    FLOAT32_TOLERANCE,
    FLOAT64_TOLERANCE,
    assert_gates_vary,
    deviation,
    pictures,
    randomise,
)
from torch import Tensor, nn

import senet
from senet.models.inception_resnet_v2 import ScaledResidualBlock
from senet.nn import Attention


@dataclass(frozen=True)
class Paths:
    """The peer's modules to ours, where `conv` and `bn` are 0 and 1."""

    paths: dict[str, str]

    def translate(self, key: str) -> str:
        """Our name for one key of the peer."""
        path, leaf = key.rsplit(".", 1)
        if path in self.paths:
            return f"{self.paths[path]}.{leaf}"
        path, piece = path.rsplit(".", 1)
        return f"{self.paths[path]}.{('conv', 'bn').index(piece)}.{leaf}"

    def adopt(self, ours: nn.Module, peer: nn.Module) -> nn.Module:
        """Give our network, made on the meta device, the peer's weights: each of both once, and of the same shape."""
        weights = {self.translate(key): tensor for key, tensor in peer.state_dict().items()}
        assert len(weights) == len(peer.state_dict())
        for key in [key for key in weights if ".se.fc" in key and weights[key].ndim == 4]:
            weights[key] = weights[key].flatten(1)  # a matrix that the peer keeps as a 1x1 convolution
        ours.load_state_dict(weights, strict=True, assign=True)
        return ours.eval()


def _numbered(theirs: str, ours: str, count: int) -> dict[str, str]:
    return {theirs.format(n + 1): f"{ours}.{n}" for n in range(count)}


_SINGLE = {"branch1x1": "1x1.0"}
_DOUBLE = _numbered("branch3x3dbl_{}", "double3x3", 3)
_POOL = {"branch_pool": "pool.1"}
V3_INSIDE = {
    "A": _SINGLE | _numbered("branch5x5_{}", "5x5", 2) | _DOUBLE | _POOL,
    "B": {"branch3x3": "3x3.0"} | _DOUBLE,
    "C": _SINGLE | _numbered("branch7x7_{}", "7x7", 3) | _numbered("branch7x7dbl_{}", "double7x7", 5) | _POOL,
    "D": _numbered("branch3x3_{}", "3x3", 2) | _numbered("branch7x7x3_{}", "7x7x3", 4),
    "E": _SINGLE | {"branch3x3_1": "3x3.0", "branch3x3_2a": "3x3.1.0", "branch3x3_2b": "3x3.1.1"} | _POOL
    | _numbered("branch3x3dbl_{}", "double3x3", 2)
    | {"branch3x3dbl_3a": "double3x3.2.0", "branch3x3dbl_3b": "double3x3.2.1"},
}  # fmt: skip
V3_UNITS = {
    f"Mixed_{stage + 2}{letter}": (f"stages.{stage}.{number}", kind)
    for stage, kinds in ((3, "AAA"), (4, "BCCCC"), (5, "DEE"))
    for number, (letter, kind) in enumerate(zip("bcd" if stage == 3 else "abcde", kinds, strict=False))
}
_EXCITATION = {f"se.fc{n}": f"se.fc{n}" for n in (1, 2)}


def _v3_paths() -> Paths:
    names = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
    found = {f"Conv2d_{name}": f"stem.{n}" for name, n in zip(names, (0, 1, 2, 4, 5), strict=True)} | {"fc": "head.fc"}
    for theirs, (ours, kind) in V3_UNITS.items():
        found |= {f"{theirs}.{k}": f"{ours}.branches.{v}" for k, v in V3_INSIDE[kind].items()}
        found |= {f"{theirs}.{k}": f"{ours}.{v}" for k, v in _EXCITATION.items()}
    return Paths(found)


def _steps(theirs: str, ours: str, count: int) -> dict[str, str]:
    return {f"{theirs}.{n}": f"{ours}.{n}" for n in range(count)}


RESNET_MODULES = {
    "mixed_5b": ("stages.3.0", {"branch0": "1x1.0", "branch3.1": "pool.1"} | _steps("branch1", "5x5", 2)
                 | _steps("branch2", "double3x3", 3)),
    "mixed_6a": ("stages.4.0", {"branch0": "3x3.0"} | _steps("branch1", "double3x3", 3)),
    "mixed_7a": ("stages.5.0", _steps("branch0", "3x3", 2) | _steps("branch1", "3x3b", 2)
                 | _steps("branch2", "double3x3", 3)),
}  # fmt: skip
RESNET_BLOCKS = {
    **{f"repeat.{n}": (f"stages.3.{n + 1}", {"branch0": "1x1.0"} | _steps("branch1", "3x3", 2)
                       | _steps("branch2", "double3x3", 3)) for n in range(10)},
    **{f"repeat_1.{n}": (f"stages.4.{n + 1}", {"branch0": "1x1.0"} | _steps("branch1", "7x7", 3)) for n in range(20)},
    **{f"repeat_2.{n}" if n < 9 else "block8": (f"stages.5.{n + 1}", {"branch0": "1x1.0"} | _steps("branch1", "3x3", 3))
       for n in range(10)},
}  # fmt: skip


def _resnet_paths() -> Paths:
    names = ("1a", "2a", "2b", "3b", "4a")
    found = {f"conv2d_{name}": f"stem.{n}" for name, n in zip(names, (0, 1, 2, 4, 5), strict=True)}
    found |= {"conv2d_7b": "stages.5.11", "classif": "head.fc"}
    for theirs, (ours, inside) in (RESNET_MODULES | RESNET_BLOCKS).items():
        found |= {f"{theirs}.{k}": f"{ours}.branches.{v}" for k, v in inside.items()}
        found |= {f"{theirs}.{k}": f"{ours}.{v}" for k, v in ({"conv2d": "project"} | _EXCITATION).items()}
    return Paths(found)


class Excitation(nn.Module):
    """SE by itself, as two 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()


def _attach(module: nn.Module, channels: int, *, behind: nn.Module) -> None:
    """Give `module` an excitation of its own, and let it follow `behind`."""
    module.se = Excitation(channels)
    behind.register_forward_hook(lambda _, args, out: module.se(out))


def _v3(peer: nn.Module) -> nn.Module:
    widths = (256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048)
    for name, width in zip(V3_UNITS, widths, strict=True):
        _attach(peer.get_submodule(name), width, behind=peer.get_submodule(name))
    return peer


def _resnet(peer: nn.Module) -> nn.Module:
    for name, width in zip(RESNET_MODULES, (320, 1088, 2080), strict=True):
        _attach(peer.get_submodule(name), width, behind=peer.get_submodule(name))
    for name in RESNET_BLOCKS:
        block = peer.get_submodule(name)
        _attach(block, block.conv2d.out_channels, behind=block.conv2d)
    return peer


def _timm(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name)


def _torchvision(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision").models
    return models.get_model(name, weights=None, aux_logits=False, transform_input=False, init_weights=False)


WHOLE, ODD = (299, 299), (139, 107)


@dataclass(frozen=True)
class Case:
    """One peer's network and ours.

    Attributes:
        ours: Name in `list_models()`.
        make: Builds the peer.
        size: Of the images for float32.
    """

    ours: str
    make: Callable[[str], nn.Module]
    size: tuple[int, int] = ODD

    def __str__(self) -> str:
        return f"{self.make.__name__[1:]}-{self.ours}-{self.size[0]}x{self.size[1]}"

    def pair(self, images: Tensor) -> tuple[nn.Module, nn.Module]:
        """Ours and the peer with equal random weights."""
        plain = self.ours.removeprefix("se_")
        insert, paths = {"inception_v3": (_v3, _v3_paths), "inception_resnet_v2": (_resnet, _resnet_paths)}[plain]
        with torch.device("meta"):
            peer = self.make(plain)
            if plain != self.ours:
                insert(peer)
        randomise(peer, images)
        for excitation in peer.modules():
            if isinstance(excitation, Excitation):  # of maps that are all positive: else most gates are shut
                excitation.fc2.weight.data.mul_(0.4)
        return paths().adopt(senet.create_model(self.ours, device="meta"), peer), peer


BLOCKS = {"se_inception_v3": 11, "se_inception_resnet_v2": 43}
CASES = [
    Case("inception_v3", _timm),
    Case("se_inception_v3", _torchvision),
    Case("se_inception_resnet_v2", _timm),
]
AGAIN = [
    Case("inception_v3", _torchvision, WHOLE),
    Case("inception_v3", _torchvision),
    Case("inception_resnet_v2", _timm),
    Case("inception_resnet_v2", _timm, WHOLE),
    Case("se_inception_v3", _timm),
]
"""The same networks with another size or the other peer, or without attention."""


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(c, marks=pytest.mark.slow) for c in AGAIN)], ids=str)
def test_the_same_weights_give_the_same_logits(case: Case, record_property: Callable[..., None]) -> None:
    images = pictures(2, case.size)
    ours, peer = case.pair(images)
    single = deviation(ours, peer, images)
    if case.ours in BLOCKS:
        assert_gates_vary(ours, images, blocks=BLOCKS[case.ours])
    # What is left of the images after all that is not padded: 1x2 steps.
    less = images[:, :, :75, :107].double()
    double = deviation(ours.double(), peer.double(), less)
    record_property("float32", single)
    record_property("float64", double)
    assert single < FLOAT32_TOLERANCE
    assert double < FLOAT64_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_the_same_logits_at_the_papers_size(name: str) -> None:
    images = pictures(2, WHOLE)
    assert deviation(*Case(name, _timm, WHOLE).pair(images), images) < FLOAT32_TOLERANCE


def _units(model: nn.Module) -> list[Any]:
    return [unit for unit in model.modules() if isinstance(unit, ScaledResidualBlock)]


def _scale_first(model: nn.Module) -> None:
    """The attention would see the scaled branch."""
    for unit in _units(model):
        unit.project.register_forward_hook(lambda _, args, out, scale=unit.scale: out * scale)
        unit.scale = 1.0


def _attend_last(model: nn.Module) -> None:
    """The attention would follow the sum."""
    for unit in _units(model):
        se, unit.se = unit.se, nn.Identity()
        unit.register_forward_hook(lambda _, args, out, se=se: se(out))


def _one_eps(model: nn.Module) -> None:
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 1e-5


def _other_padding(model: nn.Module) -> None:
    for pool in model.modules():
        if isinstance(pool, nn.AvgPool2d):
            pool.count_include_pad = not pool.count_include_pad


def _activate_all(model: nn.Module) -> None:
    for unit in _units(model):
        unit.activate = True


def _one_closed_gate(model: nn.Module) -> None:
    block = [block for block in model.modules() if isinstance(block, Attention)][3]
    block.fc1.bias = nn.Parameter(torch.zeros_like(block.fc1.bias))


WRONG = [
    ("inception_v3", _one_eps),
    ("inception_v3", _other_padding),
    ("inception_resnet_v2", _one_eps),
    ("inception_resnet_v2", _other_padding),
    ("inception_resnet_v2", _activate_all),
    ("se_inception_v3", _one_closed_gate),
    ("se_inception_resnet_v2", _scale_first),
    ("se_inception_resnet_v2", _attend_last),
    ("se_inception_resnet_v2", _one_closed_gate),
]


@pytest.mark.parametrize(
    ("name", "mistake"),
    # The network with attention is compared in the same way.
    [pytest.param(*c, marks=pytest.mark.slow) if c[0] == "inception_resnet_v2" else c for c in WRONG],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_the_comparison_sees_a_mistake(name: str, mistake: Callable[[nn.Module], None]) -> None:
    right, peer, images = _right(name)
    ours = copy.deepcopy(right)
    mistake(ours)
    assert deviation(ours, peer, images) > 10 * FLOAT32_TOLERANCE


@lru_cache(maxsize=1)
def _right(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """Ours, the peer and images, for all mistakes of a network in turn."""
    images = pictures(2, (75, 107))
    return *Case(name, _timm).pair(images), images
