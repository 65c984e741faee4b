"""A user's mistakes: one or two lines, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from cli_options import QUICK


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "se_resnet50"], "--data is missing"),
        (["--data", "digits"], "the network is missing"),
        (["--data", "digits", "--model", "se_resnet5"], "'se_resnet50'"),
        (["--data", "didgits", "--model", "se_resnet50"], "'digits'"),
        (["--data", "folder:/nowhere/at/all", "--model", "se_resnet50"], "/nowhere/at/all"),
        (["--data", "digits", "--model", "se_resnet50", "--recipe", "cifr"], "'cifar"),
        (["--data", "digits", "--model", "se_resnet50", "--attention", "sse:reduction=2"], "reduction"),
        (["--data", "digits", "--model", "se_resnet50", "--attention", "see"], "'se'"),
        (["--data", "digits", "--model", "se_resnet50", "--attention", "se:reduction=1024"], "1..256"),
        (["--data", "digits", "--model", "se_resnet50", "--stages", "1"], "stage"),
        (["--data", "digits", "--model", "se_resnet50", "--stages", "a"], "--stages"),
        (["--data", "digits", "--model", "se_resnet50", "--placement", "prre"], "'pre'"),
        (["--data", "digits", "--model", "se_resnet50", "--model-kwargs", "pretrained=true"], "unknown option"),
        (["--data", "digits", "--model", "se_resnet50", "--model-kwargs", "text=a"], "unknown option"),
        (["--data", "digits", "--model", "se_resnet50", "--model-kwargs", "depths=3"], "depths=3 must be tuple"),
        (["--data", "digits", "--model", "se_resnet50", "--lr", "0"], "lr"),
        (["--data", "digits", "--model", "se_resnet50", "--precision", "bf61"], "'bf16'"),
        (
            ["--data", "digits", "--model", "se_cifar_resnet20", "--batch-size", "30", "--grad-accumulation", "4"],
            "grad_accumulation=4 equal micro-batches",
        ),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--crop", "none", "--pad", "3"], "pad"),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--step-epochs", "3"], "read by --schedule step only"),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--scale", "0.5"], "argument --scale: expected 2"),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--ratio", "1"], "argument --ratio: expected 2"),
        (
            ["--data", "digits", "--model", "se_cifar_resnet20", "--scale-jitter", "1"],
            "argument --scale-jitter: expected 2",
        ),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--scale", "0.5", "0.2"], "smallest and the largest"),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--crop", "pad", "--scale", "0.08", "1"], "scale"),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--color-jitter", "nan"], "color_jitter=nan"),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--lr", "inf"], "lr=inf must be a finite number"),
        (
            ["--data", "digits", "--model", "se_cifar_resnet20", "--white-level", "4095"],
            "--white-level 4095 has no effect",
        ),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--white-level", "12bit"], "4095 for 12 bits"),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--white-level", "0"], "1 to 65535"),
        (["--data", "digits", "--model", "resnet18", "--stages", "3"], "resnet18 has none; add attention"),
        (["--data", "digits", "--model", "resnet18", "--placement", "pre"], "resnet18 has none; add attention"),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--step-factor", "0.2"], "the schedule is one-cycle"),
        (["--data", "digits", "--model", "se_cifar_resnet20", "--download"], "--download has no effect on digits"),
        (["--data", "folder:x", "--model", "se_resnet50", "--data-root", "y"], "--data-root has no effect on folder:/"),
        (["--data", "cifar10", "--data-root", "/nowhere", "--model", "se_cifar_resnet20"], "--download"),
        (["--resume", "/nowhere"], "contains no run"),
        (["--resume"], "--resume DIR"),
        (["--resume", "/nowhere", "--model-kwargs", "depths=[1]"], "--model-kwargs can't change in a resumed run"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_train_refuses_before_anything_is_written(refused, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused("train", *arguments)
    assert not list(tmp_path.iterdir())


def test_out_that_is_taken_or_can_not_be_made(refused, trained, digit_folder, tmp_path):
    common = ["train", "--data", f"folder:{digit_folder}", "--model", "se_cifar_resnet20", *QUICK, "--out"]
    assert f"--resume {trained}" in refused(*common, trained)
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(*common, tmp_path / "file" / "run")


def test_a_folder_without_its_prefix_is_understood(refused, tmp_path):
    assert f"folder:{tmp_path}" in refused("train", "--data", tmp_path, "--model", "se_cifar_resnet20")


@pytest.mark.parametrize("damage", ["missing", "no description", "truncated", "altered", "other network"])
def test_checkpoints_that_can_not_be_used(refused, trained, digit_folder, tmp_path, damage):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    weights, description = folder / "best.safetensors", folder / "best.json"
    content = bytearray(weights.read_bytes())
    if damage == "missing":
        weights.unlink()
    elif damage == "no description":
        description.unlink()
    elif damage == "truncated":
        weights.write_bytes(content[:-100])
    elif damage == "altered":
        content[-1] ^= 1
        weights.write_bytes(content)
    else:
        described = json.loads(description.read_text())
        description.write_text(json.dumps(described | {"model": "cifar_resnet32"}))
    message = refused("evaluate", "--checkpoint", folder, "--data", f"folder:{digit_folder}")
    assert "best" in message or str(folder) in message


def test_bad_use(refused, trained, tmp_path):
    assert "--topk" in refused("predict", tmp_path, "--checkpoint", trained, "--topk", "0")
    assert "no image files" in refused("predict", tmp_path, "--checkpoint", trained)
    (tmp_path / "a.png").write_text("")
    assert "no folder" in refused("predict", tmp_path, "--checkpoint", trained, "--out", tmp_path / "x" / "y.csv")
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused("predict", tmp_path, "--checkpoint", trained, "--out", tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    assert "precision" in refused("predict", tmp_path / "a.png", "--checkpoint", trained, "--precision", "8")
    assert "can't be counted" in refused("cost", "resnet50", "--size", "1")


def test_an_abbreviated_or_unknown_option_is_refused(senet):
    code, _, err = senet("train", "--dat", "digits")
    assert code == 2
    code, _, err = senet("trian")
    assert code == 2
    assert "train" in err


def test_a_traceback_only_with_debug(senet):
    with pytest.raises(ValueError, match="unknown model"):
        senet("cost", "nonet", "--debug")


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m senet train --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0
    assert run.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(refused, trained, digit_folder):
    # A device that is always full stands in for a full disk; the rows go to it through a link beside it.
    message = refused("predict", digit_folder / "test" / "1", "--checkpoint", trained, "--out", "/dev/full/x.csv")
    assert "/dev/full" in message
