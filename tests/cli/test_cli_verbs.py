"""Every verb on real files, read as a script and as a person would read it."""

from __future__ import annotations

import csv
import json
import shutil
import sys

import pytest
import torch
from cli_options import QUICK
from PIL import Image

from senet.inference.backends import describe_tf32
from senet.ops import using


def test_train_leaves_what_the_others_use(senet, trained):
    for name in ("last.safetensors", "best.safetensors", "last.json", "best.json", "metrics.csv", "curves.png"):
        assert (trained / name).stat().st_size > 0
    described = json.loads((trained / "best.json").read_text())
    assert described["model"] == "se_cifar_resnet20"
    assert described["classes"] == [str(d) for d in range(10)]
    assert described["preprocessing"]["size"] == [16, 16]


def test_train_prints_a_table_or_json(senet, digit_folder, tmp_path):
    common = ["train", "--data", f"folder:{digit_folder}", "--model", "cifar_resnet20", *QUICK, "--epochs", "1"]
    code, out, err = senet(*common, "--out", tmp_path / "a")
    assert code == 0
    assert "best.safetensors" in out
    assert "top-1" in out
    assert "epoch 1/1" in err
    code, out, err = senet(*common, "--out", tmp_path / "b", "--json")
    assert code == 0
    assert json.loads(out)["best"]["epoch"] == 1


def test_train_options_reach_the_network_and_the_recipe(senet, digit_folder, tmp_path):
    from senet.zoo import load_model

    folder = tmp_path / "run"
    code, _, err = senet(
        "train", "--data", f"folder:{digit_folder}", "--model", "se_cifar_resnet20", "--out", folder, *QUICK,
        "--attention", "se:reduction=4,gate=hard-sigmoid", "--placement", "pre", "--stages", "3,4",
        "--model-kwargs", "projection=true", "--model-kwargs", "widths=[16,32,48]",
        "--optimizer", "adamw", "--lr", "0.001", "--seed", "7", "--crop", "none", "--hflip", "0",
    )  # fmt: skip
    assert code == 0, err
    job = json.loads((folder / "run.json").read_text())
    assert (job["recipe"]["optimizer"], job["recipe"]["seed"], job["recipe"]["augmentation"]["crop"]) == (
        "adamw",
        7,
        "none",
    )
    model = load_model(folder).model
    assert model.spec.placement == "pre"
    assert model.spec.stages == (3, 4)
    assert model.spec.projection
    assert model.stages["4"][0].shortcut[0].weight.shape == (48, 32, 1, 1)
    assert model.spec.attention.reduction == 4
    assert not hasattr(model.stages["2"][0].se, "fc1")
    assert model.stages["3"][1].se.fc1.weight.shape == (32 // 4, 32)


def test_evaluate(senet, trained, digit_folder):
    arguments = ["evaluate", "--checkpoint", trained, "--data", f"folder:{digit_folder}", "--workers", "0"]
    code, out, _ = senet(*arguments, "--per-class")
    assert code == 0
    assert "top-1" in out
    assert "class" in out
    code, out, _ = senet(*arguments, "--json")
    result = json.loads(out)
    assert result["images"] == 100
    assert result["top1"] == pytest.approx(json.loads((trained / "best.json").read_text())["metrics"]["top1"], abs=1e-6)
    code, out, _ = senet(*arguments, "--json", "--split", "all")
    assert json.loads(out)["images"] == 400


def test_evaluate_matches_classes_by_name(senet, trained, digit_folder, tmp_path, refused):
    some = tmp_path / "some"
    for name in ("3", "7"):
        shutil.copytree(digit_folder / "test" / name, some / name)
    code, out, _ = senet("evaluate", "--checkpoint", trained, "--data", f"folder:{some}", "--split", "all", "--json",
                         "--workers", "0")  # fmt: skip
    assert code == 0
    whole = json.loads(senet("evaluate", "--checkpoint", trained, "--data", f"folder:{digit_folder}", "--json",
                             "--workers", "0")[1])  # fmt: skip
    part = json.loads(out)
    for name in ("3", "7"):
        assert part["per_class"][name] == whole["per_class"][name]
    assert part["per_class"]["1"] is None
    (some / "7").rename(some / "seven")
    assert "'seven'" in refused("evaluate", "--checkpoint", trained, "--data", f"folder:{some}", "--split", "all")


def test_evaluation_refuses_a_broken_image(trained, digit_folder, tmp_path, refused):
    folder = tmp_path / "data"
    shutil.copytree(digit_folder, folder)
    victim = next((folder / "test" / "4").iterdir())
    victim.write_bytes(b"")
    for workers in ("0", "2"):
        message = refused("evaluate", "--checkpoint", trained, "--data", f"folder:{folder}", "--workers", workers)
        assert victim.name in message
        assert "empty" in message


def test_predict_gives_a_row_a_file_also_for_a_bad_one(senet, trained, digit_folder, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    out_file = tmp_path / "preds.csv"
    code, out, _ = senet(
        "predict", digit_folder / "test" / "5", bad, tmp_path / "gone.png", "--checkpoint", trained, "--out", out_file,
        "--topk", "3",
    )  # fmt: skip
    assert code == 0
    assert "2 of them files that can't be read" in out
    rows = list(csv.DictReader(out_file.open()))
    assert len(rows) == len(list((digit_folder / "test" / "5").iterdir())) + 2
    assert list(rows[0]) == [
        "path",
        "label",
        "probability",
        "label_2",
        "probability_2",
        "label_3",
        "probability_3",
        "error",
    ]
    good = [row for row in rows if not row["error"]]
    assert all(row["label"] in "0123456789" and 0 < float(row["probability"]) <= 1 for row in good)
    assert all(float(row["probability"]) >= float(row["probability_2"]) for row in good)
    assert [row["error"] != "" and row["label"] == "" for row in rows[-2:]] == [True, True]
    code, out, _ = senet("predict", bad, "--checkpoint", trained)
    assert code == 1
    assert "not an image" in out


def test_predict_agrees_with_evaluate(senet, trained, digit_folder):
    _, out, _ = senet("predict", digit_folder / "test", "--checkpoint", trained, "--json", "--batch-size", "7")
    rows = json.loads(out)
    right = sum(row["top"][0]["label"] == row["path"].split("/")[-2] for row in rows) / len(rows)
    evaluated = json.loads(senet("evaluate", "--checkpoint", trained, "--data", f"folder:{digit_folder}", "--json")[1])
    assert right == pytest.approx(evaluated["top1"])


def test_list(senet, refused):
    code, out, _ = senet("list", "se_resnet*")
    assert code == 0
    assert "se_resnet50\n" in out
    assert "senet154" not in out
    code, out, _ = senet("list", "senet154", "--cost", "--json")
    assert json.loads(out)["senet154"]["params"] == 115_088_984
    code, out, _ = senet("list", "se_resnet50", "--cost")
    assert "28,088,024" in out
    assert "known" in refused("list", "zzz*") or "mean" in refused("list", "zzz*")


def test_cost(senet):
    code, out, _ = senet("cost", "se_resnet50")
    assert code == 0
    assert "28,088,024" in out
    assert "3,860,488,192" in out
    assert "stages.5" in out
    code, out, _ = senet("cost", "se_resnet50", "--attention", "none", "--json")
    assert json.loads(out)["params"] == 25_557_032
    code, out, _ = senet("cost", "cifar_resnet20", "--size", "64x32", "--in-channels", "1", "--json")
    assert json.loads(out)["input_size"] == [1, 64, 32]


def test_doctor_names_the_machine(senet):
    code, out, _ = senet("doctor")
    assert code == 0
    assert torch.__version__.split("+")[0] in out
    code, out, _ = senet("doctor", "--json")
    machine = json.loads(out)["machine"]
    assert machine["torch threads"] == torch.get_num_threads()
    assert machine["TF32"] == describe_tf32()
    compiled = machine["kernel"].startswith("compiled")
    assert machine["senet.accelerate"].startswith("runs norms" if compiled else "no effect")
    assert machine["Triton kernels"].startswith(("off (", "unavailable ("))
    with using("reference"):
        machine = json.loads(senet("doctor", "--json")[1])["machine"]
    assert machine["senet.accelerate"] == "no effect, since the compiled kernel is missing"


def test_what_looks_like_rich_text_is_shown_as_it_is(senet, digit_folder, tmp_path, monkeypatch):
    """Rich would make an emoji of `:m:` and take `[old]` for a style."""
    monkeypatch.chdir(tmp_path)
    for name in ("m", "scans[old]"):
        shutil.copytree(digit_folder, tmp_path / name)
        victim = next((tmp_path / name / "train" / "2").iterdir())
        victim.write_bytes(b"")
        arguments = ["--data", f"folder:{name}", "--model", "cifar_resnet20", *QUICK, "--epochs", "1"]
        code, out, err = senet("train", *arguments, "--out", tmp_path / f"run-{name}")
        assert code == 0
        assert f"on folder:{tmp_path / name}: 1 epochs" in err
        assert f"skipped {victim}: empty file (0 bytes)\n" in err
        assert f"on folder:{tmp_path / name}, 1 epochs" in out
        code, out, _ = senet("doctor", "--data", f"folder:{name}", "--workers", "0")
        assert f"folder:{name}" in out
        assert str(victim) in out


@pytest.mark.parametrize(
    ("instructions", "machine", "said"),
    [
        ({"avx512_bf16": True, "amx_tile": False}, "x86_64", "yes (AVX512-BF16)"),
        ({"avx512_bf16": True, "amx_tile": True}, "AMD64", "yes (AVX512-BF16, AMX)"),
        # PyTorch computes bfloat16 products here too, in float32's instructions.
        ({"avx512_bf16": False, "amx_tile": False}, "x86_64", "no (neither AVX512-BF16 nor AMX"),
        ({"avx512_bf16": False, "amx_tile": False}, "aarch64", "yes"),
    ],
)
def test_doctor_calls_bfloat16_fast_only_with_instructions_for_it(senet, monkeypatch, instructions, machine, said):
    for name, has in instructions.items():
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda has=has: has)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert json.loads(senet("doctor", "--json")[1])["machine"]["fast bf16 on this CPU"].startswith(said)


def test_doctor_looks_through_a_data_set(senet, digit_folder, tmp_path):
    code, out, _ = senet("doctor", "--data", f"folder:{digit_folder}")
    assert code == 0
    assert "no issues found" in out
    folder = tmp_path / "data"
    shutil.copytree(digit_folder, folder)
    victim = next((folder / "train" / "2").iterdir())
    victim.write_bytes(victim.read_bytes()[:50])
    leak = next((folder / "test" / "3").iterdir())
    shutil.copy(leak, folder / "train" / "3" / "copy.png")
    code, out, _ = senet("doctor", "--data", f"folder:{folder}")
    assert code == 1
    assert victim.name in out
    assert "copy.png" in out
    code, out, _ = senet("doctor", "--data", f"folder:{folder}", "--json")
    assert len(json.loads(out)["data"]["leaks"]) == 1


def test_doctor_names_rare_classes(senet, digit_folder, tmp_path):
    folder = tmp_path / "data"
    for digit, count in (("0", 20), ("1", 20), ("2", 2)):
        images = sorted((digit_folder / "train" / digit).iterdir())
        for split, chosen in (("train", images[:count]), ("val", images[count : count + 1])):
            (folder / split / digit).mkdir(parents=True)
            for image in chosen:
                shutil.copy(image, folder / split / digit)
    code, out, _ = senet("doctor", "--data", f"folder:{folder}", "--workers", "0")
    assert code == 0, "a rare class is no fault"
    words = " ".join(out.split())
    assert "rare classes of the training split (1)" in words
    assert "2 2 of 42 images" in words


def test_a_network_of_your_own(senet, digit_folder, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text(
        "import torch.nn as nn\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
        " nn.Linear(8, num_classes))\n"
        "def nothing(): return 3\n"
    )
    code, _, err = senet("train", "--data", f"folder:{digit_folder}", "--model", "mynet:build", "--out", "run", *QUICK)
    assert code == 0, err
    evaluate = ["evaluate", "--checkpoint", "run", "--data", f"folder:{digit_folder}", "--json", "--workers", "0"]
    assert "--model mynet:build" in refused(*evaluate)
    code, out, _ = senet(*evaluate, "--model", "mynet:build")
    assert json.loads(out)["images"] == 100
    train = ["train", "--data", f"folder:{digit_folder}", "--out", "x", "--model"]
    assert "no function 'bild'" in refused(*train, "mynet:bild")
    assert "no module 'nonet'" in refused(*train, "nonet:build")
    assert "returned int" in refused(*train, "mynet:nothing")
    assert not (tmp_path / "x").exists()
    sys.modules.pop("mynet", None)


def test_the_preprocessing_travels_with_the_checkpoint(senet, trained, digit_folder, tmp_path):
    large = tmp_path / "large.png"
    first = sorted((digit_folder / "test" / "6").iterdir())[0]
    with Image.open(first) as image:
        image.resize((80, 80), Image.Resampling.BILINEAR).save(large)
    _, out, _ = senet("predict", first, large, "--checkpoint", trained, "--json")
    small_row, large_row = json.loads(out)
    assert large_row["top"][0]["probability"] == pytest.approx(small_row["top"][0]["probability"], abs=0.3)
