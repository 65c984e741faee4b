"""Where a run stands, and what of it may change when it goes on."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import assert_equal, rows
from torch import nn

from senet.cli import main
from senet.data import Subset, open_data, write_images
from senet.errors import SenetError
from senet.training.fit import Network, fit
from senet.training.folder import write_json
from senet.training.module import TrainingModule
from senet.training.outcome import best_row, outcome_of
from senet.training.recipe import Recipe, RunOptions
from senet.training.recipes import RECIPES
from senet.training.states import TrainingStates

NETWORK = ["--model", "cifar_resnet20", "--model-kwargs", "depth=1", "--model-kwargs", "widths=[8,8]", "--size", "8"]
HOW = [*NETWORK, "--batch-size", "16", "--workers", "0", "--schedule", "constant", "--warmup-epochs", "0"]


@pytest.fixture
def images(tmp_path) -> Path:
    """A few digits as an undivided folder."""
    digits = open_data("digits")
    write_images(Subset(digits.train, np.arange(80)), tmp_path / "images", classes=digits.classes)
    return tmp_path / "images"


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """A run of one epoch on 64 digits, to be copied."""
    run = tmp_path_factory.mktemp("short") / "run"
    senet_train("--data", "digits", "--limit", "64", *HOW, "--epochs", 1, "--out", run)
    return run


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    """A run of three epochs on 100 digits."""
    run = tmp_path_factory.mktemp("long") / "run"
    senet_train("--data", "digits", "--limit", "100", *HOW, "--epochs", 3, "--out", run)
    return run


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A folder with `images` and, in `run`, one epoch on them."""
    folder = tmp_path_factory.mktemp("begun")
    digits = open_data("digits")
    write_images(Subset(digits.train, np.arange(80)), folder / "images", classes=digits.classes)
    senet_train("--data", f"folder:{folder}/images", *HOW, "--epochs", 1, "--out", folder / "run")
    return folder


@pytest.fixture
def altered(begun, tmp_path) -> Iterator[Path]:
    """The same folder; what is done to the images lasts for one test."""
    shutil.copytree(begun / "images", tmp_path / "kept")
    yield begun
    shutil.rmtree(begun / "images")
    shutil.copytree(tmp_path / "kept", begun / "images")


def refused(capsys, *arguments: object) -> str:
    assert main([str(a) for a in arguments]) == 2
    return capsys.readouterr().err.replace("\n", " ")


def senet_train(*arguments: object) -> None:
    assert main(["train", *(str(a) for a in arguments)]) == 0


def test_it_goes_on_with_moved_data_and_from_another_folder(tmp_path, images, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    senet_train("--data", "folder:images", *HOW, "--epochs", 1, "--out", "run")
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    senet_train("--resume", tmp_path / "run", "--epochs", 2)  # the data is still found
    images.rename(tmp_path / "moved")
    said = refused(capsys, "train", "--resume", "../run", "--epochs", 3)
    assert "doesn't exist" in said
    assert "if the data has moved: --data folder:NEWPATH" in said
    senet_train("--resume", "../run", "--epochs", 3, "--data", "folder:../moved")
    senet_train("--resume", "../run", "--epochs", 4)  # the new place is remembered
    assert len(rows(tmp_path / "run")) == 4


@pytest.mark.parametrize("change", ["added", "removed", "relabelled"])
def test_changed_data_is_refused(altered, capsys, change):
    images, run = altered / "images", altered / "run"
    before = (run / "metrics.csv").read_text()
    picture = next(images.glob("*/*.png"))
    if change == "added":
        (picture.parent / "new.png").write_bytes(picture.read_bytes())
    elif change == "removed":
        picture.unlink()
    else:
        other = next(folder for folder in images.iterdir() if folder != picture.parent)
        picture.rename(other / "moved.png")
    said = refused(capsys, "train", "--resume", run, "--epochs", 2)
    assert "differs from the data of the run" in said
    assert (run / "metrics.csv").read_text() == before
    assert json.loads((run / "run.json").read_text())["recipe"]["epochs"] == 1


@pytest.mark.parametrize("finished", [True, False])
def test_a_longer_run_is_what_it_would_have_been_from_the_start(tmp_path, long, capsys, finished):
    """With a constant rate; a run that wasn't finished was stopped after its first epoch."""
    senet_train("--data", "digits", "--limit", "100", *HOW, "--epochs", 1, "--out", tmp_path / "run")
    if not finished:
        job = json.loads((tmp_path / "run" / "run.json").read_text())
        job["recipe"]["epochs"] = 2
        (tmp_path / "run" / "run.json").write_text(json.dumps(job))
        (tmp_path / "run" / "result.json").unlink()
    senet_train("--resume", tmp_path / "run", "--epochs", 3)
    assert_equal(tmp_path / "run", long)
    assert "has already trained 3 epochs" in refused(capsys, "train", "--resume", tmp_path / "run", "--epochs", 2)
    senet_train("--resume", tmp_path / "run")  # nothing is left to do
    assert_equal(tmp_path / "run", long)


@pytest.mark.parametrize(
    "schedule",
    [["cosine"], pytest.param(["one-cycle"], marks=pytest.mark.slow), ["step", "--step-epochs", "1", "3"]],
    ids=lambda words: words[0],
)
def test_a_longer_run_follows_the_longer_schedule(tmp_path, schedule):
    common = ["--data", "digits", "--limit", "100", *HOW[:-4], "--schedule", *schedule, "--warmup-epochs", "0.5"]
    senet_train(*common, "--epochs", 4, "--out", tmp_path / "long")
    senet_train(*common, "--epochs", 2, "--out", tmp_path / "run")
    senet_train("--resume", tmp_path / "run", "--epochs", 4)
    found, wanted = (rates(tmp_path / name) for name in ("run", "long"))
    assert found[2:] == pytest.approx(wanted[2:], rel=1e-9)
    if schedule != ["step", "--step-epochs", "1", "3"]:
        assert found[1] != wanted[1]


def rates(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row["lr"]) for row in csv.DictReader(file)]


FIXED = [
    ["--val-fraction", "0.5"], ["--split-seed", "0"], ["--split-seed", "7"], ["--limit", "5"], ["--instances"],
    ["--class-names", "a,b"], ["--no-pretrained"], ["--lr", "0.1"], ["--seed", "0"], ["--attention", "se"],
    ["--task", "detection"], ["--no-freeze-bn"], ["--pad", "2"], ["--out", "other"],
]  # fmt: skip


@pytest.mark.parametrize("option", FIXED, ids=" ".join)
def test_an_option_that_a_resumed_run_can_not_take_is_refused(tmp_path, capsys, option):
    for verb in ("train", "retrofit", "compare"):
        said = refused(capsys, verb, "--resume", tmp_path / "run", *option)
        assert option[0].replace("--no-", "--") in said
        assert "can't change" in said or "stays there" in said


def test_every_option_is_either_fixed_or_may_change():
    """A new option of `senet train` is refused by a resumed run until somebody decides that it can take it."""
    from senet.cli import jobs, make_parser

    parsed = make_parser()[0].parse_args(["train", "--resume", "run"])
    given = {name for name, value in vars(parsed).items() if value is not None}
    assert given <= jobs.MAY_CHANGE, "an option that isn't given must be None, or a resumed run refuses it"


NAN = math.nan


@pytest.mark.parametrize(
    ("table", "best"),
    [
        ([(0.5, 1.0), (0.9, NAN), (0.6, 1.0)], 2),
        ([(NAN, 1.0), (0.5, 1.0), (0.9, 1.0)], 2),
        ([(math.inf, 1.0), (0.1, 1.0)], 1),
        ([(0.3, 1.0), (0.3, 0.5)], 0),
        ([(NAN, NAN)], None),
    ],
)
def test_an_epoch_without_finite_numbers_is_never_the_best(table, best, tmp_path):
    found = [{"epoch": n, "val_top1": top1, "val_loss": loss} for n, (top1, loss) in enumerate(table)]
    row = best_row(found, "top1")
    assert row is (None if best is None else found[best])
    if best is None:
        with pytest.raises(SenetError, match=r"no epoch has a finite validation metric.*last.safetensors"):
            outcome_of(found, "top1", folder=tmp_path)


def test_a_validation_that_gives_nan(train, tmp_path, monkeypatch):
    """The second epoch's; files stay readable, and the training goes on."""
    from senet.tasks.classification import ClassificationObjective

    val_metrics = ClassificationObjective.val_metrics
    seen = []

    def second_is_nan(self):
        values = val_metrics(self)
        seen.append(values)
        return {name: value * math.nan if len(seen) == 2 else value for name, value in values.items()}

    monkeypatch.setattr(ClassificationObjective, "val_metrics", second_is_nan)
    outcome, folder = train(epochs=3, patience=3)
    assert len(outcome.rows) == 3
    assert outcome.best["epoch"] in (1, 3)
    for name in ("result.json", "last.json", "best.json"):
        json.loads((folder / name).read_text(), parse_constant=pytest.fail)


def test_json_holds_no_nan(tmp_path, capsys):
    from senet.cli.output import print_json

    write_json(tmp_path, "result.json", {"a": [NAN, (1.0, -math.inf)], "b": {"c": NAN}})
    print_json({"a": NAN})
    for text in ((tmp_path / "result.json").read_text(), capsys.readouterr().out):
        assert json.loads(text, parse_constant=pytest.fail)["a"] in ([None, [1.0, None]], None)


def test_a_state_appears_under_its_final_name_in_one_step(tmp_path, monkeypatch):
    """A kill between content and name would leave a file that is a state for one reader and none for another."""
    seen = []
    move = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: seen.append((path, target)) or move(path, target))
    TrainingStates(tmp_path).write((0, 3), lambda path: path.write_bytes(b"state"))
    assert len(seen) == 1
    assert [path.name for path in (tmp_path / "states").iterdir()] == [TrainingStates(tmp_path).all()[0].path.name]


def test_a_written_file_and_its_folder_are_flushed(tmp_path, monkeypatch):
    from senet.weights.files import write_atomically

    flushed = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: flushed.append(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle)
    )
    write_atomically(tmp_path / "file", lambda path: path.write_text("x"))
    assert len(flushed) == 2
    assert flushed[1] == str(tmp_path)


def test_adamw_has_a_rate_of_its_own(tmp_path, monkeypatch, capsys):
    assert RECIPES["photos"].for_optimizer("adamw").lr == pytest.approx(5e-4)
    assert RECIPES["photos"].for_optimizer("adamw").weight_decay == 0.05
    assert RECIPES["segmentation"].for_optimizer("adamw") == RECIPES["segmentation"]
    assert RECIPES["segmentation"].for_optimizer("sgd").lr == pytest.approx(0.1)
    there = tmp_path / "run"
    senet_train(
        "--data",
        "digits",
        "--limit",
        64,
        *NETWORK,
        "--workers",
        0,
        "--epochs",
        1,
        "--optimizer",
        "adamw",
        "--out",
        there,
    )
    assert "adamw lr 0.001 " in capsys.readouterr().err.replace("\n", " ")
    recipe = Recipe.from_dict(json.loads((there / "run.json").read_text())["recipe"])
    assert (recipe.lr, recipe.weight_decay) == (pytest.approx(1e-3), 0.05)


@pytest.mark.parametrize("pieces", [2, 4])
def test_micro_batches_take_as_many_steps_and_the_same_gradients(few_digits, tmp_path, monkeypatch, pieces):
    """150 images in batches of 32: four steps, whatever they are split into; a linear network has no norms."""
    data = replace(few_digits, train=Subset(few_digits.train, np.arange(150)))
    norms: dict[int, list[float]] = {1: [], pieces: []}

    def noted(module: TrainingModule, optimizer: torch.optim.Optimizer) -> None:
        squares = [float(p.grad.square().sum()) for p in module.model.parameters()]
        norms[module.recipe.grad_accumulation].append(math.sqrt(sum(squares)))

    monkeypatch.setattr(TrainingModule, "on_before_optimizer_step", noted)
    preprocessing = replace(data.default_preprocessing, size=(8, 8))
    for count in norms:
        torch.manual_seed(0)
        network = Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "linear", {}, preprocessing)
        (tmp_path / str(count)).mkdir()
        recipe = Recipe(epochs=1, batch_size=32, lr=1e-6, grad_accumulation=count)
        outcome = fit(network, data, recipe, tmp_path / str(count), run=RunOptions(workers=0))
        assert outcome.rows[-1]["step"] == 4
    assert norms[pieces] == pytest.approx(norms[1], rel=1e-4)


def test_a_set_smaller_than_a_batch_is_split_too(train, few_digits):
    data = replace(few_digits, train=Subset(few_digits.train, np.arange(40)))
    outcome, _ = train(data=data, batch_size=64, grad_accumulation=4)
    assert outcome.rows[-1]["step"] == 2


def test_a_run_that_has_ended_takes_no_other_data(tmp_path, images, capsys):
    run = tmp_path / "run"
    senet_train("--data", f"folder:{images}", *HOW, "--epochs", 1, "--out", run)
    before = (run / "run.json").read_text()
    assert "differs from the data" in refused(capsys, "train", "--resume", run, "--data", "digits")
    assert "doesn't exist" in refused(capsys, "train", "--resume", run, "--data", f"folder:{tmp_path}/nowhere")
    assert (run / "run.json").read_text() == before
    images.rename(tmp_path / "moved")
    senet_train("--resume", run, "--data", f"folder:{tmp_path}/moved")
    senet_train("--resume", run, "--epochs", 2)


@pytest.mark.parametrize("row", [{}, [], {"epoch": "1"}, {"epoch": 1, "val_top1": "x"}, None])
def test_a_damaged_result_is_written_again(tmp_path, short, row):
    run = shutil.copytree(short, tmp_path / "run")
    whole = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(whole | {"best": row, "last": row}))
    senet_train("--resume", run)
    assert json.loads((run / "result.json").read_text())["best"] == whole["best"]


def test_the_result_of_a_shorter_run_is_gone_once_a_longer_one_was_begun(tmp_path, short, capsys):
    run = shutil.copytree(short, tmp_path / "run")
    result = (run / "result.json").read_text()
    senet_train("--resume", run, "--epochs", 2)
    (run / "result.json").write_text(result)  # as if killed after the second epoch of three
    assert "has already trained 2 epochs" in refused(capsys, "train", "--resume", run, "--epochs", 1)


def test_a_run_that_patience_ended_says_so(tmp_path, capsys):
    run = tmp_path / "run"
    senet_train("--data", "digits", "--limit", "64", *HOW, "--epochs", 9, "--patience", 1, "--lr", 1e-12, "--out", run)
    done = len(rows(run))
    assert done < 9
    capsys.readouterr()
    senet_train("--resume", run, "--epochs", 20)
    said = " ".join(capsys.readouterr().err.split())
    assert f"after {done} of 20 epochs by --patience 1" in said
    assert "trains longer" not in said
    assert json.loads((run / "result.json").read_text())["epochs"] == 20


@pytest.mark.parametrize(
    ("other", "said"), [(["--lr", "0.5"], "lr=0.5"), (["--model-kwargs", "widths=[16,16]"], "another network")]
)
def test_states_of_another_run_are_refused(tmp_path, short, capsys, other, said):
    shutil.copytree(short, tmp_path / "run")
    senet_train("--data", "digits", "--limit", "64", *HOW, *other, "--epochs", 2, "--out", tmp_path / "other")
    before = (tmp_path / "run" / "metrics.csv").read_text()
    for path in (tmp_path / "other" / "states").iterdir():
        (tmp_path / "run" / "states" / path.name).write_bytes(path.read_bytes())
    assert said in refused(capsys, "train", "--resume", tmp_path / "run", "--epochs", 3)
    assert (tmp_path / "run" / "metrics.csv").read_text() == before
