"""`senet compare` on detectors and segmenters: judged by the task's own score, priced with the task's own loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import senet
from senet.cli import main
from senet.profiling import cost

NETWORK = ["--model", "se_resnet18", "--model-kwargs", "group_width=16", "--model-kwargs", "depths=[1,1,1,1]"]
HEADS = {"detection": "fcos:channels=64", "segmentation": "unet:channels=32"}
WIDTHS = (64, 128, 256, 512)
QUICK = ["--size", "64", "--epochs", "1", "--batch-size", "2", "--workers", "0", "--timing-seconds", "0.1"]


@pytest.mark.parametrize(
    ("task", "kind", "score"),
    [pytest.param("detection", "voc", "map", marks=pytest.mark.slow), ("segmentation", "masks", "miou")],
)
def test_plain_against_se(task, kind, score, request, tmp_path: Path) -> None:
    data, out = request.getfixturevalue(kind), tmp_path / "out"
    arguments = ["--task", task, "--data", f"{kind}:{data}", "--head", HEADS[task], *NETWORK, *QUICK, "--seeds", "1"]
    assert main(["compare", *arguments, "--out", str(out)]) == 0
    found = json.loads((out / "compare.json").read_text())
    assert (found["task"], found["metric"]["key"], found["finished_runs"]) == (task, score, 2)
    plain, se = found["variants"]["plain"], found["variants"]["se"]
    for variant in (plain, se):
        assert variant["metric_percent"]["count"] == 1
        assert variant["cost"]["saved_mb"] > 0
        assert variant["cost"]["step_ms"] > 0
        for run in variant["runs"].values():
            assert run["metric"] == run["last_epoch"][f"val_{score}"]
    assert se["difference_points"]["count"] == 1
    attention = sum(2 * c * c // 16 + c + c // 16 for c in WIDTHS)
    assert se["cost"]["params"] - plain["cost"]["params"] == attention
    # The squeeze leaves one vector a map: the products of the two layers are all that is added.
    assert se["cost"]["macs"] - plain["cost"]["macs"] == sum(2 * c * c // 16 for c in WIDTHS)
    assert found["metric"]["title"] in (out / "compare.md").read_text()
    assert (out / "compare.png").stat().st_size > 1000


@pytest.mark.slow
def test_variants_get_the_head(voc: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arms = ["--variant", "plain=resnet18", *NETWORK[3::2], "--variant", "se=resnet18", *NETWORK[3::2], "retrofit=se"]
    said = ["--task", "detection", "--data", f"voc:{voc}", "--head", HEADS["detection"], *arms, *QUICK, "--seeds", "1"]
    assert main(["compare", *said, "--out", str(out)]) == 0
    found = json.loads((out / "compare.json").read_text())["variants"]
    assert found["se"]["cost"]["params"] > found["plain"]["cost"]["params"]


@pytest.mark.slow
def test_table_7_on_a_few_pictures(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    said = ["--recipe", "table7", "--only", "resnet50", "se_resnet50", "--data", f"voc:{voc}", *QUICK, "--seeds", "1"]
    assert main(["compare", *said, "--out", str(out)]) == 0
    found = json.loads((out / "compare.json").read_text())
    assert (found["task"], found["finished_runs"]) == ("detection", 2)
    assert "se_resnet50: published AP@.5/AP 61.0/40.4 % (se_resnet50 on coco:COCO)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--task", "segmentation"], "for --task detection"),
        (["--task", "detection", "--test-sizes", "64,96"], "--test-sizes needs classification"),
    ],
)
def test_mistakes(more, says, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--data", f"voc:{voc}", *NETWORK, *QUICK, *more, "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out" / "plain-seed0").exists()


def test_cost_of_what_is_really_run_is_that_of_the_meta_device() -> None:
    import torch

    model = senet.create_model("se_cifar_resnet20", num_classes=10)
    was = {name: value.clone() for name, value in model.state_dict().items()}
    counted, run = cost(model, (3, 32, 32)), cost(model, (3, 32, 32), example_inputs=[torch.rand(1, 3, 32, 32)])
    assert run == counted
    assert all(torch.equal(was[name], value) for name, value in model.state_dict().items())
