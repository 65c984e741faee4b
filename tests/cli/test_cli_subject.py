"""What a command is about: as a positional argument or as an option, and trained networks by `--checkpoint` alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from senet.cli import make_parser

PAIRS = {
    "train": ("model", "se_resnet50", ("--data", "digits")),
    "retrofit": ("model", "se_resnet50", ("--plan",)),
    "compare": ("model", "se_resnet50", ("--data", "digits")),
    "cost": ("model", "se_resnet50", ()),
    "evaluate": ("checkpoint", "runs/x", ("--data", "digits")),
    "inspect": ("checkpoint", "runs/x", ("--data", "digits")),
    "export": ("checkpoint", "runs/x", ("--format", "onnx", "--out", "x.onnx")),
    "convert": ("checkpoint", "x.pth", ("--model", "resnet50", "--out", "x.safetensors")),
    "doctor": ("data", "digits", ()),
    "shard": ("data", "digits", ("--out", "x")),
    "augment-preview": ("data", "digits", ("--out", "x.png")),
}


@pytest.mark.parametrize("command", PAIRS)
def test_both_spellings_are_the_same_and_exclude_each_other(command: str, refused) -> None:
    name, value, rest = PAIRS[command]
    parse = make_parser()[0].parse_args
    expected = vars(parse([command, f"--{name}", value, *rest]))
    assert expected[name] == value
    for words in ([command, value, *rest], [command, *rest, value], [command, *rest, f"--{name}", value]):
        assert vars(parse(words)) == expected, words
    said = refused(command, value, f"--{name}", value, *rest)
    assert f"--{name}" in said
    assert "not allowed with" in said
    assert len(said.splitlines()) == 1
    if command not in ("train", "retrofit", "compare", "doctor"):
        said = refused(command, *rest)
        assert said == f"senet {command}: one of the arguments {name.upper()} --{name} is required\n"


@pytest.mark.parametrize("command", ["train", "retrofit", "compare"])
def test_a_training_without_a_network(command: str, refused) -> None:
    assert "give MODEL, --checkpoint PATH or --resume DIR" in refused(command, "--data", "digits")


def test_networks_of_a_benchmark(senet, refused) -> None:
    parse = make_parser()[0].parse_args
    assert parse(["bench", "a", "b", "--size", "16"]).model == ["a", "b"]
    assert parse(["bench", "--model", "a", "b", "--size", "16"]).model == ["a", "b"]
    assert "not allowed with" in refused("bench", "a", "--model", "b")
    assert "is required" in refused("bench", "--size", "16")


@pytest.mark.parametrize("command", ["train", "retrofit", "compare", "evaluate", "predict", "inspect", "export"])
def test_a_trained_network_is_no_model(command: str, refused, trained: Path, tmp_path: Path) -> None:
    rest = {
        "predict": (tmp_path, "--checkpoint", trained), "export": (trained, "--format", "onnx", "--out", "x.onnx"),
        "evaluate": (trained, "--data", "digits"), "inspect": (trained, "--data", "digits"),
    }.get(command, ("--data", "digits"))  # fmt: skip
    shutil.copy(next(trained.glob("*.png")), tmp_path)
    said = refused(command, *rest, "--model", trained)
    assert f"use --checkpoint {trained}" in said
    assert len(said.splitlines()) == 1


def test_removed_options_are_unknown(refused) -> None:
    assert "unrecognized argument --init;" in refused("train", "--init", "runs/x", "--data", "digits")
    assert "did you mean --class-names?" in refused("inspect", "runs/x", "--data", "digits", "--classes", "a,b")
    assert "did you mean --model-kwargs?" in refused("cost", "resnet50", "--model-kwarg", "depth=2")


def test_options_of_a_network_in_one_go_or_one_by_one(senet, refused) -> None:
    one = senet("cost", "cifar_resnet20", "--json", "--model-kwargs", "depth=2", "projection=true")
    two = senet("cost", "--json", "--model-kwargs", "depth=2", "--model-kwargs", "projection=true",
                "--model", "cifar_resnet20")  # fmt: skip
    assert one[0] == 0
    assert json.loads(one[1])["params"] == json.loads(two[1])["params"]
    assert "write NAME=VALUE" in refused("cost", "cifar_resnet20", "--model-kwargs", "depth")


def test_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    from senet.cli.values import class_names

    monkeypatch.chdir(tmp_path)
    assert class_names("cat, dog,") == ("cat", "dog")
    Path("names.txt").write_text("\ufeffcat\n\n dog \n", encoding="utf-8")
    assert class_names("names.txt") == ("cat", "dog")
    Path("names.txt").write_bytes(b"\xff\xfe")
    common = ("evaluate", "runs/x", "--data", "masks:x", "--class-names")
    assert "names.txt is not UTF-8 text" in refused(*common, "names.txt")
    assert "no such file" in refused(*common, "absent.txt")
    assert "'a' is there twice" in refused(*common, "a,b,a")
    assert "no names in it" in refused(*common, ",")


def test_an_error_is_one_line_without_usage(senet) -> None:
    code, out, err = senet("train", "--epochs", "many")
    assert (code, out) == (2, "")
    assert err == "senet train: argument --epochs: invalid int value: 'many'\n"
    code, _, err = senet("trian")
    assert code == 2
    assert err.startswith("senet: argument COMMAND: invalid choice: 'trian'")
    assert len(err.splitlines()) == 1
    assert senet()[2] == "senet: the following arguments are required: COMMAND\n"
