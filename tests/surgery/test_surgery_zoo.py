"""Families of networks as others wrote them: how many places are found, and that nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import video
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import senet
from senet.errors import SenetError
from senet.nn import Attention
from senet.surgery import Report, plan, retrofit, trainable

try:
    import timm
except ImportError:  # its networks are then left out, by name
    timm = None

RESIDUAL, CONCATENATION, BRANCH = "residual block", "concatenation", "concatenated branch"
WITHOUT, DENSE, SEPARABLE, PLAIN = "block without shortcut", "dense layer", "separable block", "plain convolution"
AGGREGATION = "aggregation"

# Name: kinds of the sites, and the size at which the two runs are compared.
CLASSIFIERS: dict[str, tuple[dict[str, int], int]] = {
    "torchvision:alexnet": ({PLAIN: 5}, 64),
    "torchvision:convnext_tiny": ({RESIDUAL: 18}, 32),
    "torchvision:densenet121": ({DENSE: 58}, 32),
    "torchvision:googlenet": ({CONCATENATION: 9}, 64),
    "torchvision:inception_v3": ({CONCATENATION: 11}, 96),
    "torchvision:mnasnet1_0": ({RESIDUAL: 10, WITHOUT: 6, SEPARABLE: 1}, 32),
    "torchvision:mobilenet_v2": ({RESIDUAL: 10, WITHOUT: 7}, 32),
    "torchvision:regnet_x_400mf": ({RESIDUAL: 22}, 32),
    "torchvision:resnet50": ({RESIDUAL: 16}, 32),
    "torchvision:resnext50_32x4d": ({RESIDUAL: 16}, 32),
    "torchvision:shufflenet_v2_x0_5": ({BRANCH: 13, CONCATENATION: 3}, 32),
    "torchvision:squeezenet1_1": ({CONCATENATION: 8}, 64),
    "torchvision:vgg11_bn": ({PLAIN: 8}, 32),
    "timm:cspresnet50": ({RESIDUAL: 13}, 32),
    "timm:darknet53": ({RESIDUAL: 23}, 32),
    "timm:dla34": ({RESIDUAL: 12, DENSE: 6}, 32),
    "timm:dpn68": ({RESIDUAL: 22}, 32),
    "timm:fasternet_t0": ({RESIDUAL: 13}, 32),
    "timm:gernet_s": ({RESIDUAL: 14}, 32),
    "timm:hrnet_w18_small": ({RESIDUAL: 23}, 64),
    "timm:inception_next_tiny": ({RESIDUAL: 18}, 32),
    "timm:mambaout_femto": ({RESIDUAL: 18}, 32),
    "timm:mobilenetv1_100": ({SEPARABLE: 13}, 32),
    "timm:nf_resnet26": ({RESIDUAL: 8}, 32),
    "timm:poolformer_s12": ({RESIDUAL: 12}, 32),
    "timm:repvgg_a0": ({RESIDUAL: 17, WITHOUT: 5}, 32),
    "timm:res2net50_26w_4s": ({RESIDUAL: 16}, 32),
    "timm:resnetv2_50": ({RESIDUAL: 16}, 32),
    "timm:selecsls42b": ({BRANCH: 6}, 32),
    "timm:vovnet39a": ({AGGREGATION: 6}, 32),
    "timm:xception41": ({RESIDUAL: 12, WITHOUT: 1}, 64),
}


RESEMBLING = {
    "torchvision:resnet50", "torchvision:resnext50_32x4d", "torchvision:regnet_x_400mf", "torchvision:inception_v3",
    "torchvision:mobilenet_v2", "torchvision:vgg11_bn", "timm:cspresnet50", "timm:darknet53", "timm:dla34",
    "timm:gernet_s", "timm:inception_next_tiny", "timm:mambaout_femto", "timm:poolformer_s12", "timm:res2net50_26w_4s",
    "timm:resnetv2_50", "timm:xception41",
}  # fmt: skip
"""Their blocks are joined as those of others here (detector, GoogLeNet, MNASNet, AlexNet, DenseNet, ConvNeXt)."""


def hollow(name: str) -> nn.Module:
    """Without the time that initial weights take; `randomise` gives others."""
    with torch.device("meta"):
        model = build(name)
    model.to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.zero_()
    return model


def build(name: str) -> nn.Module:
    library, _, rest = name.partition(":")
    if library == "timm":
        if timm is None:
            pytest.skip("timm isn't installed")
        return timm.create_model(rest)
    options = {"init_weights": False, "aux_logits": False} if rest in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(rest, weights=None, **options)


def randomise(model: nn.Module) -> None:
    """Without a zero gain or bias, which would hide a change."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
            else:
                parameter.uniform_(0.5, 1.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def run(model: nn.Module, *inputs: Any) -> list[Tensor]:
    torch.manual_seed(1)
    return [t for t in torch.utils._pytree.tree_leaves(model(*inputs)) if isinstance(t, Tensor)]


def check(model: nn.Module, *inputs: Any, **options: Any) -> Report:
    """Retrofit keeps outputs bit for bit, and every gate then gets a gradient; none sits on a shortcut."""
    randomise(model)
    with torch.no_grad():
        # Statistics as in training, so that a deep network's maps neither vanish nor explode.
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = 0.9
        model.train()(*inputs) if not isinstance(inputs[0], list) else None
        before = run(model.eval(), *inputs)
    report = retrofit(model, **options)
    trainable(model, "attention")
    after = run(model, *inputs)
    assert len(before) == len(after)
    assert all(torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(before, after, strict=True))
    if isinstance(inputs[0], list):  # which boxes a detector returns is no smooth function
        after = run(model.backbone, torch.stack(inputs[0]))
    sum((t * torch.randn_like(t)).sum() for t in after if t.requires_grad).backward()
    for site in report.inserted:
        gate = model.get_submodule(site.path).attention
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in gate.parameters()), site.path
        assert not any(part in site.path for part in ("shortcut", "downsample.", "skip", "proj_conv")), site.path
    return report


def kinds(report: Report) -> dict[str, int]:
    return dict(Counter(site.kind for site in report.inserted))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in RESEMBLING)) for name in CLASSIFIERS]
)
def test_a_family_gets_attention_and_keeps_its_function(name: str) -> None:
    expected, size = CLASSIFIERS[name]
    report = check(hollow(name), torch.randn(2, 3, size, size))
    assert kinds(report) == expected
    assert not report.skipped or name == "timm:hrnet_w18_small"


def test_resnet50_has_it_after_each_last_norm() -> None:
    report = plan(torchvision.models.resnet50(weights=None))
    depths = (3, 4, 6, 3)
    assert [s.path for s in report.inserted] == [f"layer{i}.{j}.bn3" for i, n in enumerate(depths, 1) for j in range(n)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:nasnetalarge", "timm:pnasnet5large"])
def test_a_cell_has_it_on_its_concatenation(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    report = plan(model)
    assert kinds(report) == {CONCATENATION: 22 if "pnas" not in name else 14}
    assert all("." not in site.path for site in report.inserted)


@pytest.mark.parametrize(
    "name",
    ["timm:seresnet50", "timm:efficientnet_b0", "timm:ecaresnet26t", "timm:resnest14d", "torchvision:efficientnet_b0"],
)
def test_attention_that_is_there_is_left_alone(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    report = retrofit(model)
    assert not report.inserted
    assert {skip.reason for skip in report.skipped} == {"already has attention"}
    assert not any(isinstance(m, Attention) for m in model.modules())


@pytest.mark.parametrize("name", ["torchvision:vit_b_16", "torchvision:swin_t", "timm:vit_tiny_patch16_224"])
def test_a_transformer_is_refused_and_its_convolutions_named(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    with pytest.raises(SenetError, match=r"is a transformer: .* Its only convolutions are .*(proj|features\.0)"):
        retrofit(model)


def test_a_video_network() -> None:
    convolutions = [video.resnet.Conv3DSimple] * 4
    model = video.resnet.VideoResNet(video.resnet.BasicBlock, convolutions, [1, 1, 1, 1], video.resnet.BasicStem)
    report = check(model, torch.randn(2, 3, 4, 16, 16))
    assert kinds(report) == {RESIDUAL: 4}
    assert len(report.inserted[0].space) == 3


class Block1d(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(channels, out, 7, stride, 3, bias=False), nn.BatchNorm1d(out)
        self.conv2, self.bn2 = nn.Conv1d(out, out, 7, 1, 3, bias=False), nn.BatchNorm1d(out)
        self.shortcut = nn.Conv1d(channels, out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


def test_a_network_over_time() -> None:
    blocks = nn.Sequential(Block1d(32, 32, 1), Block1d(32, 64, 2), Block1d(64, 64, 1))
    model = nn.Sequential(nn.Conv1d(2, 32, 7, 2, 3), blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 5))
    report = check(model, torch.randn(2, 2, 64))
    assert [site.path for site in report.inserted] == ["1.0.bn2", "1.1.bn2", "1.2.bn2"]


def test_a_detector_gets_it_in_its_backbone() -> None:
    backbone = partial(resnet_fpn_backbone, backbone_name="resnet50", weights=None)
    detector = FasterRCNN(
        backbone(), num_classes=3, min_size=64, max_size=64, rpn_post_nms_top_n_test=5, box_score_thresh=0.0,
        box_detections_per_img=5,
    )  # fmt: skip
    report = check(detector, [torch.rand(3, 64, 64)])
    assert kinds(report) == {RESIDUAL: 16}
    assert all(site.path.startswith("backbone.body.layer") for site in report.inserted)
    assert len(retrofit(backbone(backbone_name="resnet18").body).inserted) == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fcn_resnet50"])
def test_a_segmentation_network(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    report = check(model, torch.randn(2, 3, 32, 32))
    residual = [site for site in report.inserted if site.kind == RESIDUAL]
    assert len(residual) == 16
    assert all(site.path.startswith("backbone.") for site in residual)
    assert len(report.inserted) - 16 == (name == "deeplabv3_resnet50")  # the pyramid's concatenation


class Functional(nn.Module):
    """Everything in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 32, 32, 3, padding=1) for i in range(5))
        self.norms = nn.ModuleList(nn.BatchNorm2d(32) for _ in range(5))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.convs[0](x)))
        for i in (1, 3):
            y = F.relu(self.norms[i](self.convs[i](x)))
            x = F.relu(x + self.norms[i + 1](self.convs[i + 1](y)))
        return self.fc(x.mean((2, 3)))


def test_everything_in_one_forward() -> None:
    report = check(Functional(), torch.randn(2, 3, 16, 16))
    assert [site.path for site in report.inserted] == ["norms.2", "norms.4"]


class Branching(nn.Module):
    """What it does next depends on numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Functional()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x if x.mean() > -1e6 else -x)


def test_a_branch_that_depends_on_numbers_is_run_for_real() -> None:
    report = check(Branching(), torch.randn(2, 3, 16, 16))
    assert [site.path for site in report.inserted] == ["net.norms.2", "net.norms.4"]


class Plain(nn.Module):
    """EDSR's residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.body(x)


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = nn.Sequential(*(Plain(32) for _ in range(4)))
        self.last = nn.Conv2d(32, 32, 3, padding=1)
        self.tail = nn.Sequential(nn.Conv2d(32, 128, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(32, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.tail(x + self.last(self.blocks(x)))


def test_a_long_skip_is_no_unit() -> None:
    report = check(SuperResolution(), torch.randn(2, 3, 16, 16))
    assert [site.path for site in report.inserted] == [f"blocks.{i}.body.2" for i in range(4)]
    assert [skip.reason for skip in report.skipped] == ["is a long skip over other blocks"]


class UNet(nn.Module):
    """Ronneberger et al. 2015, small."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        twice: Callable[[int, int], nn.Sequential] = lambda a, b: nn.Sequential(  # noqa: E731
            nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1), nn.ReLU()
        )
        self.down1, self.down2, self.bottom = twice(3, width), twice(width, 2 * width), twice(2 * width, 4 * width)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.right2, self.right1 = twice(4 * width, 2 * width), twice(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        up = self.up2(self.bottom(F.max_pool2d(second, 2)))
        up = self.up1(self.right2(torch.cat([second, up], 1)))
        return self.head(self.right1(torch.cat([first, up], 1)))


def test_concatenating_skips() -> None:
    report = check(UNet(), torch.randn(2, 3, 16, 16))
    blocks = ("down1", "down2", "bottom", "right2", "right1")
    assert [site.path for site in report.inserted] == [f"{block}.{i}" for block in blocks for i in (1, 3)]


def test_a_network_of_this_package_has_the_places_that_its_own_option_uses() -> None:
    report = check(senet.create_model("cifar_resnet20"), torch.randn(2, 3, 16, 16))
    assert kinds(report) == {RESIDUAL: 9}
