"""Each library's own network with random weights, and ours with the same through `load_weights`: the same logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from peers import FLOAT32_TOLERANCE, FLOAT64_TOLERANCE, deviation, pictures, randomise
from torch import Tensor, nn

import senet
from senet.errors import CheckpointError, SenetError
from senet.weights import load_weights, to_layout


def timm(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name)


def torchvision(name: str, **options: Any) -> nn.Module:
    return pytest.importorskip("torchvision").models.get_model(name, weights=None, **options)


def inception(name: str) -> nn.Module:
    """With the head that is used in training only, and without the change of statistics on the way in."""
    return torchvision(name, init_weights=False, transform_input=False)


def pytorchcv(name: str) -> nn.Module:
    """Its last pools take maps of one size only; here they take any."""
    model = pytest.importorskip("pytorchcv.model_provider").get_model(name, pretrained=False)
    model.features.final_pool = nn.AdaptiveAvgPool2d(7 if "vgg" in name else 1)
    return model


def narrow(peer: str) -> nn.Module:
    """A library's VGG with 32 in the place of 4,096 hidden units, which is quick to run."""
    library, _, name = peer.partition(":")
    model = {"timm": timm, "torchvision": torchvision, "pytorchcv": pytorchcv}[library](name)
    if library == "timm":
        model.pre_logits.fc1, model.pre_logits.fc2 = nn.Conv2d(512, 32, 7), nn.Conv2d(32, 32, 1)
        model.head.fc = nn.Linear(32, 1000)
    elif library == "torchvision":
        model.classifier[0], model.classifier[3] = nn.Linear(512 * 49, 32), nn.Linear(32, 32)
        model.classifier[6] = nn.Linear(32, 1000)
    else:
        model.output.fc1.fc, model.output.fc2.fc = nn.Linear(512 * 49, 32), nn.Linear(32, 32)
        model.output.fc3 = nn.Linear(32, 1000)
    return model


class _Attending(nn.Module):
    """senet.pytorch's block: two matrices without biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 16, bias=False),
            nn.ReLU(),
            nn.Linear(channels // 16, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


def moskomule(name: str) -> nn.Module:
    """torchvision's ResNet with its block after each branch, as senet.pytorch makes it."""
    model = torchvision(name.removeprefix("se_"))
    for unit in (unit for layer in (model.layer1, model.layer2, model.layer3, model.layer4) for unit in layer):
        last = unit.bn3 if hasattr(unit, "bn3") else unit.bn2
        unit.se = _Attending(last.num_features)
        last.register_forward_hook(lambda _, args, out, se=unit.se: se(out))
    return model


class _CifarUnit(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.se = _Attending(cout)
        if cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        return torch.relu(shortcut + self.se(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))))


def moskomule_cifar(name: str) -> nn.Module:
    """senet.pytorch's network for small pictures."""
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(3, 16, 3, 1, 1, bias=False))
    model.add_module("bn1", nn.BatchNorm2d(16))
    model.add_module("relu", nn.ReLU())
    for stage, (cin, cout) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
        units = [_CifarUnit(cin if u == 0 else cout, cout, 2 if u == 0 and stage > 1 else 1) for u in range(3)]
        model.add_module(f"layer{stage}", nn.Sequential(*units))
    model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module("fc", nn.Linear(64, 10))
    return model


@dataclass(frozen=True)
class Case:
    """A peer's network and ours.

    Attributes:
        ours: Name in `list_models()`.
        make: Builds the peer.
        peer: Its name.
        size: Of the images.
        options: Of ours.
        layout: The name of what must be recognised.
        back: The layout to write again, for the peer to load strictly.
        run: Compare logits in the default tests too, not only keys; one network a family and library is enough there.
        again: The keys are those of another case, of more blocks or of other widths: left to the slow tests.
    """

    ours: str
    make: Callable[[str], nn.Module]
    peer: str
    size: int = 64
    options: dict[str, Any] = field(default_factory=dict)
    layout: str = ""
    back: str = ""
    run: bool = True
    again: bool = False

    def __str__(self) -> str:
        return f"{self.make.__name__}-{self.peer}"


WIDENED, BARE = {"attention": senet.SE(rounding="timm")}, {"attention": senet.SE(bias=False)}
CUT = {"activation": "relu6"}
PROJECTED, PADDED, STEM_NORM = {"projection": True}, {"ceil_pool": False}, {"stem_norm": True}

CASES = [
    Case("se_resnet18", timm, "legacy_seresnet18", options={"branch_relu": True}, layout="cadene", back="timm"),
    Case("se_resnet34", timm, "legacy_seresnet34", 64, {"branch_relu": True}, "cadene", "timm", run=False, again=True),
    Case("se_resnet50", timm, "legacy_seresnet50", layout="cadene", back="timm", run=False),
    *(Case(f"se_resnet{d}", timm, f"legacy_seresnet{d}", layout="cadene", back="timm", run=False, again=True)
      for d in (101, 152)),
    Case("se_resnext50_32x4d", timm, "legacy_seresnext50_32x4d", layout="cadene", back="timm", run=False),
    Case("se_resnext101_32x4d", timm, "legacy_seresnext101_32x4d", layout="cadene", back="cadene", run=False,
         again=True),
    Case("senet154", timm, "legacy_senet154", layout="cadene", back="timm", run=False),
    Case("se_resnet18_v1_5", timm, "seresnet18", options=WIDENED, layout="timm", back="timm"),
    Case("se_resnet50_v1_5", timm, "seresnet50", options=WIDENED, layout="timm", back="timm", run=False),
    Case("se_resnext50_32x4d_v1_5", timm, "seresnext50_32x4d", options=WIDENED, layout="timm", back="timm", run=False,
         again=True),
    Case("resnet50_v1_5", timm, "resnet50", layout="torchvision", back="timm", run=False),
    Case("resnet18_v1_5", torchvision, "resnet18", layout="torchvision", back="torchvision"),
    Case("resnext50_32x4d_v1_5", torchvision, "resnext50_32x4d", layout="torchvision", back="torchvision", run=False,
         again=True),
    Case("se_resnet18_v1_5", moskomule, "se_resnet18", options=BARE, layout="moskomule", back="moskomule"),
    Case("se_resnet50_v1_5", moskomule, "se_resnet50", options=BARE, layout="moskomule", back="moskomule", run=False),
    Case("se_cifar_resnet20", moskomule_cifar, "se_resnet20", 32, PROJECTED | BARE, "moskomule", "moskomule"),
    Case("se_resnet18_v1_5", pytorchcv, "seresnet18", layout="pytorchcv", back="pytorchcv"),
    Case("se_resnet50", pytorchcv, "seresnet50", options=PADDED, layout="pytorchcv", back="pytorchcv", run=False),
    Case("se_resnext50_32x4d_v1_5", pytorchcv, "seresnext50_32x4d", layout="pytorchcv", run=False, again=True),
    Case("senet154", pytorchcv, "senet154", options=PADDED, layout="pytorchcv", back="pytorchcv", run=False,
         again=True),
    Case("se_cifar_resnet20", pytorchcv, "seresnet20_cifar10", 32, PROJECTED, "pytorchcv", "pytorchcv"),
    Case("cifar_preresnet20", pytorchcv, "preresnet20_cifar10", 32, layout="pytorchcv", back="pytorchcv"),
    Case("cifar_preresnet164", pytorchcv, "preresnet164bn_cifar10", 32, layout="pytorchcv", run=False, again=True),
    Case("se_cifar_preresnet20", pytorchcv, "sepreresnet20_cifar10", 32, STEM_NORM, "pytorchcv", "pytorchcv"),
    Case("se_cifar_preresnet164", pytorchcv, "sepreresnet164bn_cifar10", 32, STEM_NORM, "pytorchcv", run=False),
    Case("wrn28_10", pytorchcv, "wrn28_10_cifar10", 32, layout="pytorchcv", run=False, again=True),
    *(Case(f"vgg{d}", torchvision, f"vgg{d}_bn", layout="torchvision", back="torchvision", run=False, again=d != 19)
      for d in (11, 13, 16, 19)),
    *(Case(f"vgg{d}", timm, f"vgg{d}_bn", layout="timm", back="timm", run=False, again=d != 19)
      for d in (11, 13, 16, 19)),
    *(Case(f"vgg{d}", pytorchcv, f"bn_vgg{d}b", layout="pytorchcv", back="pytorchcv", run=False, again=d != 19)
      for d in (11, 13, 16, 19)),
    Case("vgg16", pytorchcv, "bn_vgg16", layout="pytorchcv", run=False),
    Case("vgg13", narrow, "timm:vgg13_bn", 64, {"hidden": 32}, "timm", "timm"),
    Case("vgg11", narrow, "torchvision:vgg11_bn", 64, {"hidden": 32}, "torchvision", "torchvision"),
    Case("vgg16", narrow, "pytorchcv:bn_vgg16b", 64, {"hidden": 32}, "pytorchcv", "pytorchcv"),
    Case("vgg16", narrow, "pytorchcv:bn_vgg16", 64, {"hidden": 32}, "pytorchcv", run=False, again=True),
    Case("densenet121", torchvision, "densenet121", layout="torchvision", back="timm"),
    *(Case(f"densenet{d}", timm, f"densenet{d}", layout="torchvision", back="timm", run=False, again=True)
      for d in (169, 201)),
    Case("densenet121", pytorchcv, "densenet121", layout="pytorchcv", back="pytorchcv", run=False),
    *(Case(f"densenet{d}", pytorchcv, f"densenet{d}", layout="pytorchcv", run=False, again=True) for d in (169, 201)),
    Case("mobilenet_v1", pytorchcv, "mobilenet_w1", layout="pytorchcv", back="pytorchcv"),
    Case("mobilenet_v1", timm, "mobilenetv1_100", options=CUT, layout="timm", back="timm"),
    *(Case(f"mobilenet_v1_0{w}", pytorchcv, f"mobilenet_{n}", layout="pytorchcv", run=False, again=True)
      for w, n in (("75", "w3d4"), ("50", "wd2"), ("25", "wd4"))),
    Case("shufflenet_v1_g3", pytorchcv, "shufflenet_g3_w1", layout="pytorchcv", back="pytorchcv"),
    *(Case(f"shufflenet_v1_g{g}", pytorchcv, f"shufflenet_g{g}_w1", layout="pytorchcv", run=False, again=g != 1)
      for g in (1, 2, 4, 8)),
    Case("bn_inception", pytorchcv, "bninception", layout="pytorchcv"),
    Case("inception_v3", inception, "inception_v3", 139, layout="torchvision"),
    Case("inception_v3", timm, "inception_v3", 139, layout="torchvision", back="timm", run=False),
    Case("inception_v3", pytorchcv, "inceptionv3", 139, layout="pytorchcv", back="pytorchcv", run=False),
    Case("inception_resnet_v2", timm, "inception_resnet_v2", 139, layout="timm", back="timm", run=False),
    Case("inception_resnet_v2", pytorchcv, "inceptionresnetv2", 139, layout="pytorchcv", back="pytorchcv", run=False),
]  # fmt: skip


# Those that run below have their keys looked at there too.
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case.run or case.again else case for case in CASES], ids=str
)
def test_every_key_has_its_place(case: Case) -> None:
    with torch.device("meta"):
        peer = case.make(case.peer)
    ours = senet.create_model(case.ours, device="meta", **case.options)
    report = load_weights(ours, peer.state_dict())
    assert report.layout == case.layout
    assert report.newly_initialized == ()
    if case.back:
        peer.load_state_dict(to_layout(ours, case.back), strict=True, assign=True)


@pytest.mark.parametrize(
    "case", [case if case.run else pytest.param(case, marks=pytest.mark.slow) for case in CASES], ids=str
)
def test_the_same_logits_there_and_back(case: Case, record_property: Callable[..., None]) -> None:
    images = pictures(2, (case.size, case.size))
    with torch.device("meta"):
        peer = case.make(case.peer)
    aside: nn.Module | None = None
    if getattr(peer, "AuxLogits", None) is not None:  # its head for training takes no maps as small as these
        peer.AuxLogits.to_empty(device="cpu")
        aside, peer.aux_logits, peer.AuxLogits = peer.AuxLogits, False, None
    randomise(peer, images)
    tensors = peer.state_dict()
    if aside is not None:
        tensors |= {f"AuxLogits.{key}": torch.zeros_like(t) for key, t in aside.state_dict().items()}
    ours = senet.create_model(case.ours, device="meta", **case.options)
    load_weights(ours, tensors)
    single = deviation(ours.eval(), peer, images)
    ours = senet.create_model(case.ours, device="meta", **case.options).double()  # what is computed on loading, too
    load_weights(ours, tensors)
    double = deviation(ours.eval(), peer.double(), images.double())
    record_property("float32", single)
    record_property("float64", double)
    assert single < FLOAT32_TOLERANCE
    assert double < FLOAT64_TOLERANCE
    if case.back:
        given = to_layout(ours, case.back)
        with torch.device("meta"):
            again = case.make(case.peer).double()
        again.load_state_dict(given, strict=True, assign=True)
        assert deviation(ours, again.eval(), images.double()) < FLOAT64_TOLERANCE


def test_vgg_heads_of_all_three_libraries() -> None:
    """One network's weights in three layouts: timm's kernels of 7x7, torchvision's matrices, pytorchcv's too."""
    narrow = {"depths": (1, 1, 2, 2, 2), "hidden": 8, "num_classes": 5}
    ours = senet.create_model("vgg11", **narrow)
    for layout, name, shape in (
        ("timm", "pre_logits.fc1.weight", (8, 512, 7, 7)),
        ("torchvision", "classifier.0.weight", (8, 512 * 49)),
        ("pytorchcv", "output.fc1.fc.weight", (8, 512 * 49)),
    ):
        tensors = to_layout(ours, layout)
        assert tensors[name].shape == shape
        other = senet.create_model("vgg11", **narrow)
        assert load_weights(other, tensors).layout == layout
        assert torch.equal(other.head.hidden[0].weight, ours.head.hidden[0].weight)
    without = {key: t for key, t in tensors.items() if not key.endswith("conv.bias")}
    load_weights(other, without)
    assert not any(t.any() for key, t in other.state_dict().items() if key.endswith("conv.bias"))


def test_mobilenets_activation_is_no_weight_but_compared() -> None:
    """timm cuts at 6, pytorchcv doesn't; each one's weights fit the other's network."""
    whole, cut = (senet.create_model("mobilenet_v1", width=0.25, **options) for options in ({}, CUT))
    with pytest.raises(CheckpointError, match=r"'relu6', this network 'relu': .* build it with activation='relu6'$"):
        load_weights(whole, to_layout(cut, "timm"))
    with pytest.raises(CheckpointError, match=r"build it with activation='relu'$"):
        load_weights(cut, to_layout(whole, "pytorchcv"))
    with pytest.raises(SenetError, match=r"no counterpart in timm; timm's MobileNet: .* activation='relu6'"):
        to_layout(whole, "timm")
    with pytest.raises(SenetError, match="no counterpart in pytorchcv; pytorchcv's MobileNets: "):
        to_layout(cut, "pytorchcv")


# docs/reference/weights.md: every structure of pytorchcv's SE catalog. Deeper ones differ in their numbers of blocks
# alone.
CATALOGUE = [
    Case("se_resnet18_v1_5", pytorchcv, "seresnet10", options={"depths": (1, 1, 1, 1)}),
    Case("se_resnet18_v1_5", pytorchcv, "seresnet26", options={"depths": (3, 3, 3, 3)}, again=True),
    Case("se_resnet50_v1_5", pytorchcv, "seresnetbc26b", options={"depths": (2, 2, 2, 2)}),
    Case("se_resnet50_v1_5", pytorchcv, "seresnet50b", again=True),
    Case("senet154", pytorchcv, "senet16", options=PADDED | {"depths": (1, 1, 1, 1), "groups": 32}),
    Case("se_resnext50_32x4d_v1_5", pytorchcv, "seresnext101_64x4d",
         options={"depths": (3, 4, 23, 3), "groups": 64}),
    Case("se_cifar_resnet20", pytorchcv, "seresnet164bn_cifar10",
         options=PROJECTED | {"depth": 18, "bottleneck": True}),
    Case("se_resnet18_v1_5", pytorchcv, "seresnet10_cub", options={"depths": (1, 1, 1, 1), "num_classes": 200}),
]  # fmt: skip


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case.again else case for case in CATALOGUE], ids=str
)
def test_the_largest_catalogue_of_se_networks(case: Case) -> None:
    with torch.device("meta"):
        peer = case.make(case.peer)
    ours = senet.create_model(case.ours, device="meta", **case.options)
    assert load_weights(ours, peer.state_dict()).layout == "pytorchcv"
    peer.load_state_dict(to_layout(ours, "pytorchcv"), strict=True, assign=True)


def test_a_preactivation_network_for_imagenet_is_refused_as_what_it_is() -> None:
    with torch.device("meta"):
        peer = pytorchcv("sepreresnet10")
    with pytest.raises(CheckpointError, match=r"Likely cause: the file is of another network family"):
        load_weights(senet.create_model("se_resnet18_v1_5", device="meta", depths=(1, 1, 1, 1)), peer.state_dict())


def test_pytorchcvs_preactivation_with_se_has_other_pieces() -> None:
    with torch.device("meta"):
        peer = pytorchcv("sepreresnet20_cifar10")
    with pytest.raises(
        CheckpointError, match=r"features.init_block.bn.bias has no counterpart .*final.0.bias is missing"
    ):
        load_weights(senet.create_model("se_cifar_preresnet20", device="meta"), peer.state_dict())
