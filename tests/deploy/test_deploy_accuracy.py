"""The limit of lost accuracy is a number of images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from senet.deploy import exporting
from senet.deploy.accuracy import check_drop
from senet.errors import SenetError


@pytest.mark.parametrize("images", [1, 7, 36, 199])
def test_with_few_images_one_may_be_lost(images: int) -> None:
    """0.5 points of 36 images are a fifth of an image: any other answer than before was a refusal."""
    note = check_drop("int8", 1.0, (images - 1) / images, images, 0.5)
    assert f"less than one of {images} images" in note
    assert "the limit was one image" in note
    if images > 1:
        with pytest.raises(SenetError, match=r"points of accuracy.*here one image"):
            check_drop("int8", 1.0, (images - 2) / images, images, 0.5)


@pytest.mark.parametrize(("images", "allowed"), [(200, 1), (399, 1), (400, 2), (1000, 5), (50_000, 250)])
def test_the_limit_counts_images(images: int, allowed: int) -> None:
    for right in (images, images - 1, images // 2 + 3):  # shares that no binary number holds exactly
        assert check_drop("int8", right / images, (right - allowed) / images, images, 0.5) == ""
        with pytest.raises(SenetError, match="points of accuracy"):
            check_drop("int8", right / images, (right - allowed - 1) / images, images, 0.5)


@pytest.mark.parametrize("max_drop", [0.0, -1.0])
def test_a_limit_of_nothing_is_taken_at_its_word(max_drop: float) -> None:
    with pytest.raises(SenetError, match="points of accuracy"):
        check_drop("int8", 1.0, 35 / 36, 36, max_drop)


def test_the_export_asks_it_and_reports_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace
    from types import SimpleNamespace

    import senet.inference
    from senet.data import open_data, subsample

    digits = open_data("digits")
    data = replace(digits, val=subsample(digits.val, 36))
    predictions = iter([36, 35, 36, 34])
    monkeypatch.setattr(senet.inference, "evaluate", lambda *_, **__: SimpleNamespace(top1=next(predictions) / 36))
    metadata = SimpleNamespace(precision="int8")
    report = exporting.ExportReport(path="", format="onnx", metadata=metadata, runtime="onnxruntime", bytes=0, images=1,
                                    drift=0.0, tolerance=None, latency_ms={})  # fmt: skip
    made = exporting._measured(None, None, report, exporting.Check(data=data), data)
    assert "the limit was one image" in made.notes[0]
    with pytest.raises(SenetError, match="here one image"):
        exporting._measured(None, None, report, exporting.Check(data=data), data)


def test_before_and_after_are_measured_on_one_device(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Files run on the CPU. On an accelerator the network's own figure would contain the difference of devices."""
    from dataclasses import replace

    from senet.data import open_data, subsample
    from senet.inference import device

    monkeypatch.setattr(device, "default_device", lambda: torch.device("meta"))
    digits = open_data("digits")
    data = replace(digits, val=subsample(digits.val, 20), test=None)
    torch.manual_seed(0)
    seen: list[tuple[int, torch.device]] = []
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    images = replace(digits.default_preprocessing, size=(8, 8))
    hooked = nn.Module.__call__
    monkeypatch.setattr(nn.Conv2d, "__call__", lambda self, x: (seen.append((len(x), x.device)), hooked(self, x))[1])
    report = exporting.export(
        model,
        tmp_path / "net.pt2",
        format="torch",
        precision="bf16",
        preprocessing=images,
        check=exporting.Check(data=data, tolerance=1.0, max_drop=100.0),
    )
    assert set(report.accuracy) == {"before", "after"}
    assert {device for count, device in seen if count == len(data.val)} == {torch.device("cpu")}
