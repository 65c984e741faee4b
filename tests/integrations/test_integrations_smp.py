"""segmentation_models_pytorch trains on the networks of this package, by their names in timm's registry."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import senet

smp = pytest.importorskip("segmentation_models_pytorch")

import senet.integrations.timm  # noqa: E402

DECODERS = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet",
            "Segformer")  # fmt: skip
"""All of segmentation_models_pytorch but DPT, which takes tokens of vision transformers."""

FAMILIES = ("se_resnet18", "se_vgg11", "se_densenet121", "se_mobilenet_v1_025", "se_shufflenet_v1_g1",
            "se_bn_inception")  # fmt: skip


def train_a_step(model: torch.nn.Module, *, channels: int = 3, side: int = 64) -> None:
    """Take one step that reaches every parameter."""
    torch.manual_seed(0)
    images = torch.randn(2, channels, side, side)
    masks = (images[:, 0] > 0).long()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    outputs = model.train()(images)
    assert outputs.shape == (2, 2, side, side)
    F.cross_entropy(outputs, masks).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


def test_a_unet_trains_a_step() -> None:
    model = smp.Unet("tu-senet_se_mobilenet_v1_025", encoder_weights=None, in_channels=4, classes=2)
    assert model.encoder.out_channels == [4, 16, 32, 64, 128, 256]
    assert any(isinstance(module, senet.nn.Attention) for module in model.encoder.modules())
    train_a_step(model, channels=4)
    images = torch.randn(4, 4, 64, 64)
    masks, losses, optimizer = (images[:, 0] > 0).long(), [], torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(8):
        losses.append(F.cross_entropy(model(images), masks))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    features = model.encoder(torch.rand(1, 4, 64, 96))
    assert [tuple(feature_map.shape[2:]) for feature_map in features] == [
        (64 // 2**step, 96 // 2**step) for step in range(6)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_each_decoder(decoder: str) -> None:
    kind = getattr(smp, decoder, None) or pytest.skip(f"this release of segmentation_models_pytorch has no {decoder}")
    model = kind("tu-senet_se_resnet50_v1_5", encoder_weights=None, classes=2)
    train_a_step(model, side=128)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family(name: str) -> None:
    depth = 4 if "vgg" in name else 5  # VGG's last stage has stride 16
    options = {"encoder_depth": depth, "decoder_channels": (64, 32, 32, 16, 16)[:depth]}
    train_a_step(smp.Unet(f"tu-senet_{name}", encoder_weights=None, classes=2, **options))


@pytest.mark.slow
@pytest.mark.parametrize("stride", [8, 16])
def test_dilated_encoders(stride: int) -> None:
    model = smp.DeepLabV3Plus("tu-senet_se_resnet18", encoder_weights=None, classes=2, encoder_output_stride=16)
    train_a_step(model)
    model = smp.DeepLabV3("tu-senet_se_resnet18", encoder_weights=None, classes=2, encoder_output_stride=stride)
    assert model.encoder(torch.rand(1, 3, 64, 64))[-1].shape[2] == 64 // stride
    train_a_step(model)
