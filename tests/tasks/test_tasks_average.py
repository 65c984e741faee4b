"""Averages of detectors and segmentation networks, with statistics from training images; mirrored images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from senet.cli import main
from senet.data import open_data
from senet.preprocessing import CIFAR
from senet.tasks import load_model, task_named
from senet.weights import CheckpointMetadata, write_checkpoint

HEADS = {"detection": {"kind": "fcos", "channels": 32}, "segmentation": {"kind": "unet", "channels": 16}}
DATA = {"detection": "voc", "segmentation": "masks"}


def write(path: Path, task: str, seed: int, classes) -> Path:
    torch.manual_seed(seed)
    options = {"depth": 1, "widths": [16, 32, 32], "attention": {"kind": "se", "reduction": 4}}
    images = replace(CIFAR, size=(32, 32))
    network = task_named(task).build("cifar_resnet20", num_classes=len(classes), preprocessing=images,
                                     options=options, head=HEADS[task])  # fmt: skip
    metadata = CheckpointMetadata(model="cifar_resnet20", options=options, classes=classes, preprocessing=images,
                                  task=task, head=HEADS[task])  # fmt: skip
    write_checkpoint(path, network.state_dict(), metadata)
    return path


@pytest.mark.parametrize("task", [pytest.param("detection", marks=pytest.mark.slow), "segmentation"])
def test_average_and_mirrored_images(task, request, tmp_path, capsys):
    data = f"{DATA[task]}:{request.getfixturevalue(DATA[task])}"
    classes = open_data(data).classes
    paths = [write(tmp_path / f"{seed}.safetensors", task, seed, classes) for seed in range(2)]
    out = tmp_path / "average.safetensors"
    more = ["--data", data, "--workers", "0", "--batch-size", "4", "--json"]
    assert main(["average", *map(str, paths), "--out", str(out), *more]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert list(found) == [task_named(task).metrics[0].key]
    norms = [m for m in load_model(out).model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(float(norm.running_mean.abs().max()) > 0 for norm in norms), "the networks were new"
    results = []
    for tta in ((), ("--tta", "flip")):
        code = main(["evaluate", str(out), "--split", "val", *more, *tta])
        results.append((code, *capsys.readouterr()))
    assert json.loads(results[0][1])["metrics"][next(iter(found))] == pytest.approx(next(iter(found.values())))
    if task == "segmentation":
        assert results[1][0] == 0
        assert json.loads(results[1][1])["tta"] == "flip"
    else:
        assert results[1][0] == 2
        assert "a detection network takes no test-time augmentation" in results[1][2]
        assert main(["evaluate", str(out), *more, "--size", "64"]) == 2
        assert "a detector, which resizes images itself" in capsys.readouterr().err
