"""`senet compare` through its command line: what it trains, what it reuses, what it leaves."""

from __future__ import annotations

import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import start

from senet.cli import main
from senet.comparison.measuring import step_batch, training_costs
from senet.comparison.plan import Comparison
from senet.comparison.variant import Variant
from senet.data import Subset, open_data, write_images
from senet.ops import choose
from senet.training.failures import DIVERGED
from senet.training.job import DataOptions
from senet.training.model_initialization import ModelInitialization
from senet.training.module import TrainingModule
from senet.training.recipe import RunOptions
from senet.training.recipes import recipe_named

TINY = ["--model-kwargs", "depth=1", "--model-kwargs", "widths=[16,32]"]
QUICK = ["--data", "digits", "--limit", "96", "--size", "8", "--epochs", "1", "--batch-size", "32", "--workers", "0"]

ONE_SEED = [*QUICK, "--model", "se_cifar_resnet20", *TINY, "--seeds", "1", "--timing-seconds", "0"]


def compare(*arguments: object) -> int:
    return main(["compare", *map(str, arguments)])


@pytest.fixture(scope="module")
def seen():
    """Which images with which pixels each step saw, since the last `clear`."""
    found, step = [], TrainingModule.training_step

    def watched(self, batch, batch_idx):
        found.append((self.recipe.seed, batch.indices.tolist(), float(batch.images.sum())))
        return step(self, batch, batch_idx)

    TrainingModule.training_step = watched
    yield found
    TrainingModule.training_step = step


@pytest.fixture(scope="module")
def done(tmp_path_factory, seen) -> Path:
    """A finished comparison."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    arguments = [*QUICK, "--model", "se_cifar_resnet20", *TINY, "--seeds", 2, "--test-sizes", "8,10", "--out", folder]
    assert compare(*arguments, "--timing-seconds", "0.1") == 0
    return folder


def result(folder: Path):
    found = json.loads((folder / "compare.json").read_text())
    assert found["validation_images"] in (None, 359), "what the resolution of the intervals follows from"
    return found


def test_both_networks_see_the_same_images(done, seen):
    by_run = [seen[i : i + 3] for i in range(0, 12, 3)]  # three steps an epoch, one epoch a run
    assert by_run[0] == by_run[1]
    assert by_run[2] == by_run[3]
    assert by_run[0] != by_run[2]


def test_all_networks_are_accelerated_alike(done, capsys):
    assert result(done)["accelerate"] is True
    assert "All networks train and are timed with --accelerate" in (done / "compare.md").read_text()
    assert compare("--resume", done, "--no-accelerate") == 2
    assert "was started with accelerate=True, not False; choose another --out" in capsys.readouterr().err


def test_the_measured_step_is_the_trained_one():
    """An accelerated network saves less memory and has the same operations."""
    data = DataOptions(data="digits", limit=96)
    recipe = replace(recipe_named("digits"), batch_size=16)
    network = ModelInitialization(model="se_mobilenet_v1_025", size=(64, 64))
    found = {}
    for accelerate in (True, False):
        variants = (Variant(name="se", init=network, recipe=recipe),)
        run = RunOptions(workers=0, accelerate=accelerate)
        comparison = Comparison(source=data, variants=variants, seeds=(0,), run=run)
        found[accelerate] = training_costs(comparison, data.open(), seconds=0)["se"]
    assert (found[True].params, found[True].macs) == (found[False].params, found[False].macs)
    if choose().library is not None:
        assert found[True].saved_mb < 0.95 * found[False].saved_mb


@pytest.mark.parametrize(
    ("device", "devices", "pieces", "batch"),
    [
        ("cpu", 1, 1, 16),
        ("cpu", 1, 16, 8),
        ("cuda", 1, 1, 128),
        ("cuda", 1, 4, 32),
        ("cuda", 2, 4, 16),
        ("cuda", 0, 1, 32),
    ],
)
def test_the_batch_of_the_measured_step(monkeypatch, device, devices, pieces, batch):
    """A GPU computes 16 images in the time of the launches, so there the step has the training's own batch."""
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    recipe = replace(recipe_named("digits"), batch_size=128, grad_accumulation=pieces)
    assert step_batch(recipe, RunOptions(devices=devices), 1000, torch.device(device)) == batch
    assert step_batch(recipe, RunOptions(devices=devices), 20, torch.device(device)) <= 20


def test_what_it_leaves(done):
    found = result(done)
    plain, se = found["variants"]["plain"], found["variants"]["se"]
    assert plain["options"]["attention"] is None
    assert se["options"]["attention"]["kind"] == "se"
    assert se["cost"]["params"] > plain["cost"]["params"]
    assert se["cost"]["saved_mb"] > 0
    assert se["cost"]["latency_ratio"] > 0
    assert plain["difference_points"] is None
    differences = [100 * (se["runs"][seed]["metric"] - plain["runs"][seed]["metric"]) for seed in ("0", "1")]
    assert se["difference_points"]["mean"] == pytest.approx(sum(differences) / 2, abs=1e-4)  # float32 accuracies
    assert se["verdict"]
    assert (done / "compare.png").read_bytes().startswith(b"\x89PNG")
    text = (done / "compare.md").read_text()
    assert f"se against plain: {se['verdict']}" in text
    assert "senet compare" not in text or "```" in text
    for name in ("plain-seed0", "se-seed1"):
        assert (done / name / "best.safetensors").is_file()


def test_other_sizes_show_the_shift_of_the_squeeze(done):
    sizes = result(done)["variants"]["se"]["sizes"]
    assert set(sizes) == {"8", "10"}
    assert sizes["8"]["training_size"]
    assert not sizes["8"]["shift"]
    assert set(sizes["10"]["shift"]) == {"stages.2.0.se", "stages.3.0.se"}
    assert all(value > 0 for value in sizes["10"]["shift"].values())
    own = result(done)["variants"]["se"]["runs"]["0"]["metric"]
    kept = json.loads((done / "se-seed0" / "sizes.json").read_text())
    assert kept["top1"]["8"] == pytest.approx(own, abs=1e-6)


def test_finished_runs_stay_and_more_seeds_are_added(done, seen, capsys):
    seen.clear()
    arguments = [*QUICK, "--model", "se_cifar_resnet20", *TINY, "--timing-seconds", 0, "--out", done]
    assert compare(*arguments, "--seeds", 2) == 0
    assert not seen
    assert compare(*arguments, "--seeds", 3) == 0
    assert {seed for seed, *_ in seen} == {2}
    assert result(done)["variants"]["se"]["metric_percent"]["count"] == 3
    assert compare(*arguments, "--seeds", 2, "--lr", "0.01") == 2
    assert "was started with recipe.lr=0.05, not 0.01; choose another --out" in capsys.readouterr().err
    assert compare("--resume", done, "--timing-seconds", 0) == 0


def test_variants_and_tables(tmp_path, capsys):
    words = ["depth=1", "widths=[16,32]"]
    assert (
        compare(
            *QUICK, "--seeds", 1, "--timing-seconds", 0, "--out", tmp_path / "a", "--json",
            "--variant", "plain=cifar_resnet20", *words,
            "--variant", "late=cifar_resnet20", *words, "attention=se:reduction=4,gate=tanh", "stages=3",
            "placement=pre",
        )
        == 0
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    options = found["variants"]["late"]["options"]
    assert options["attention"]["gate"] == "tanh"
    assert (options["stages"], options["placement"]) == ([3], "pre")
    assert "no verdict without several" in found["variants"]["late"]["verdict"]
    tuned = ["--variant", f"tuned={tmp_path}/a/plain-seed0"]
    assert (
        compare(*QUICK[:4], *QUICK[6:], "--seeds", 1, "--timing-seconds", 0, "--out", tmp_path / "b", "--json", *tuned,
                "--variant", f"se={tmp_path}/a/plain-seed0", "retrofit=se:reduction=4")
        == 0
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert len(found["variants"]["se"]["options"]["retrofit"]) == 2
    assert found["variants"]["se"]["recipe"]["lr"] == pytest.approx(0.1 / 10 * 32 / 64)
    table = ["--recipe", "table14", "--model", "cifar_resnet20", "--only", "se", "post"]
    assert compare(*QUICK, *table, "--seeds", 1, "--timing-seconds", 0, "--out", tmp_path / "c") == 0
    said = capsys.readouterr().out
    assert "post: published error 22.78/6.35 % (resnet50 on imagenet)" in said
    assert "not the paper's" in said


@pytest.mark.parametrize("devices", [(), pytest.param(("--devices", 2, "--strategy", "ddp"), marks=pytest.mark.slow)])
def test_a_run_that_diverges_is_a_result_too(devices, tmp_path, capsys):
    wild = ("--lr", 1e30, "--schedule", "constant", "--warmup-epochs", 0)
    assert compare(*ONE_SEED, "--out", tmp_path / "x", *wild, *devices) == 2
    said = capsys.readouterr().out
    assert "failed: plain, seed 0: the " in said
    assert "failed: se, seed 0: the " in said
    assert not (tmp_path / "x" / "compare.png").exists()


@pytest.mark.parametrize("number", ["2", "-9"])
def test_a_run_that_diverges_in_processes_of_its_own_ends_as_on_one_device(number, tmp_path, monkeypatch, capsys):
    """How the processes end is their launcher's matter; why the run ended is in its folder."""
    from senet.comparison import running

    def ended(command, **_):
        (Path(command[-1]) / DIVERGED).write_text("the loss became nan at step 3")
        return SimpleNamespace(returncode=int(number))

    monkeypatch.setattr(running, "_several_devices", lambda run: True)
    monkeypatch.setattr(running.subprocess, "run", ended)
    assert compare(*ONE_SEED, "--out", tmp_path / "x") == 2
    said = capsys.readouterr().out
    for name in ("plain", "se"):
        assert f"failed: {name}, seed 0: the loss became nan at step 3" in said


def test_another_end_of_processes_is_no_divergence(tmp_path, monkeypatch, capsys):
    from senet.comparison import running

    monkeypatch.setattr(running, "_several_devices", lambda run: True)
    monkeypatch.setattr(running.subprocess, "run", lambda command, **_: SimpleNamespace(returncode=1))
    assert compare(*ONE_SEED, "--out", tmp_path / "x") == 2
    assert "its training ended with exit code 1" in capsys.readouterr().err.replace("\n", " ")


def test_several_processes_share_the_runs(done, tmp_path, capsys):
    out = tmp_path / "out"
    first = start("compare", *ONE_SEED, "--out", out, log=tmp_path / "first", pause_at=1)
    first.wait()  # in the first step of the plain network
    assert compare("--resume", out) == 0
    said = capsys.readouterr().err
    assert f"helping process {first.process.pid} on " in said
    assert "training se, seed 0" in said
    assert "training plain" not in said
    assert f"not finished: plain, seed 0: in training by process {first.process.pid} on " in said
    assert result(out)["finished_runs"] == 1
    assert compare(*ONE_SEED, "--seeds", 2, "--out", out) == 2
    assert f"{out} is in use by process {first.process.pid}" in capsys.readouterr().err.replace("\n", "")
    first.go_on()
    assert "training se" not in first.finish()
    assert result(out)["finished_runs"] == 2
    shared, alone = ([found["runs"]["0"]["metric"] for found in result(f)["variants"].values()] for f in (out, done))
    assert shared == alone


def test_the_run_of_a_process_that_died_is_taken_over(tmp_path):
    out = tmp_path / "out"
    first = start("compare", *ONE_SEED, "--out", out, log=tmp_path / "first", pause_at=1)
    first.wait()
    second = start("compare", "--resume", out, log=tmp_path / "second", pause_at=1)
    second.wait()  # in the SE network
    first.signal(signal.SIGKILL)
    first.finish(-signal.SIGKILL)
    second.go_on()
    said = second.finish()
    assert said.index("training se, seed 0") < said.index("resuming plain, seed 0")
    assert result(out)["finished_runs"] == 2


@pytest.fixture
def images(tmp_path) -> Path:
    """A few digits as an undivided folder."""
    digits = open_data("digits")
    write_images(Subset(digits.train, np.arange(80)), tmp_path / "images", classes=digits.classes)
    return tmp_path / "images"


@pytest.mark.parametrize("how", ["--resume", "the whole command"])
def test_it_goes_on_with_moved_data_but_not_with_other(how, images, tmp_path, capsys):
    out = tmp_path / "out"
    command = [*ONE_SEED[2:], "--out", out]
    assert compare("--data", f"folder:{images}", *command) == 0
    images.rename(tmp_path / "moved")
    again = ["--resume", out] if how == "--resume" else command
    stray = out / "se-seed0"
    for name in ("result.json", "states", "best.safetensors", "last.safetensors", "metrics.csv"):
        path = stray / name  # as if killed before its first state
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert compare("--data", f"folder:{tmp_path}/moved", *again) == 0
    assert (stray / "result.json").is_file()
    capsys.readouterr()
    next((tmp_path / "moved").glob("*/*.png")).unlink()
    assert compare("--data", f"folder:{tmp_path}/moved", *again) == 2
    assert "differs from the data of the run" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("processes", [False, True])
def test_a_run_without_a_state_knows_the_weights_that_it_began_with(processes, tmp_path, monkeypatch, capsys):
    """Also one in processes of its own, and it takes the way of running that was said last."""
    begun, out = tmp_path / "begun", tmp_path / "out"
    assert main(["train", *QUICK, "--model", "cifar_resnet20", *TINY, "--out", str(begun)]) == 0

    def killed(arguments, **_):
        calls.append(arguments)
        return SimpleNamespace(returncode=1)

    calls: list[list[str]] = []
    monkeypatch.setattr("senet.comparison.running.subprocess.run", killed)
    monkeypatch.setattr("senet.comparison.running._several_devices", lambda _: True)
    command = [*QUICK, "--checkpoint", begun, "--seeds", "1", "--timing-seconds", "0", "--out", out]
    assert compare(*command) == 2
    run = Path(calls[0][-1])
    job = json.loads((run / "run.json").read_text())
    assert job["digest"]
    assert job["sha256"]
    assert compare("--resume", out, "--keep-states", "3") == 2
    assert json.loads((run / "run.json").read_text()) == job | {"run": job["run"] | {"keep_states": 3}}
    assert main(["train", *QUICK, "--seed", "9", "--model", "cifar_resnet20", *TINY, "--out", str(tmp_path / "b")]) == 0
    shutil.copy(tmp_path / "b" / "best.safetensors", begun)
    monkeypatch.undo()
    capsys.readouterr()
    arguments = ["train", "--resume", run] if processes else ["compare", "--resume", out]
    assert main([*map(str, arguments)]) == 2
    assert "has changed since the run started" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_on_two_devices_each_training_has_its_own_processes(tmp_path):
    assert compare(*ONE_SEED, "--out", tmp_path / "x", "--devices", 2, "--strategy", "ddp") == 0
    assert result(tmp_path / "x")["finished_runs"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--variant", "a=cifar_resnet20"], "nothing to be compared with"),
        (["--variant", "a=cifar_resnet20", "--variant", "a=cifar_resnet20"], "two variants have the name 'a'"),
        (["--variant", "a=cifar_resnet20", "--variant", "b/c=cifar_resnet20"], "a name has letters"),
        (["--variant", "a=cifar_resnet20", "--variant", "b=cifar_resnet20", "deep=3"], "variant b: unknown option"),
        (["--variant", "a=cifar_resnet20", "--variant", "b=cifar_resnet20", "depth=x"], "variant b: depth='x' must"),
        (["--variant", "a=cifar_resnet20", "--variant", "b=cifar_resnet20", "in_channels=7"], "follows from the data"),
        (["--variant", "a=cifar_resnet20", "--variant", "b=cifar_resnet20", "attention=foo"], "variant b: unknown at"),
        (["--variant", "a=cifar_resnet20", "--variant", "b=cifar_resnet20", "stages=9"], "variant b: stages=(9,)"),
        (["--variant", "a=timm:resnet18", "--variant", "b=timm:vit_tiny_patch16_224", "retrofit=se"], "variant b: "),
        (["--variant", "a=cifar_resnet20", "--variant", "b=cifar_resnet20", "depth"], "not of the form KEY=VALUE"),
        (["--variant", "cifar_resnet20", "--variant", "b=cifar_resnet20"], "use NAME=NETWORK"),
        (["--variant", "a=cifar_resnet20", "--model", "cifar_resnet20"], "--model says what one network is"),
        (["--variant", "a=cifar_resnet20", "--variant", "b=cifar_resnet20", "where=x"], "retrofit="),
        (["--model", "se_cifar_resnet20", "--attention", "none"], "leaves nothing to compare"),
        (["--model", "se_cifar_resnet20", "--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--model", "se_cifar_resnet20", "--test-sizes", "big"], "write whole numbers"),
        (["--model", "se_cifar_resnet20", "--only", "r2"], "--only chooses rows of a table"),
        (["--recipe", "table10", "--attention", "eca"], "what is compared is what table10 says"),
        (["--recipe", "table7"], "table7 is for detection; digits is for classification"),
        (["--resume", "nowhere"], "contains no comparison"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_written(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    data = [] if "--resume" in arguments else ["--data", "digits"]
    assert compare(*data, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) <= 2
    assert not list(tmp_path.iterdir())


def test_what_a_training_keeps_in_memory():
    from senet.profiling import saved_bytes

    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Sigmoid(), torch.nn.BatchNorm1d(16))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    # The input, the sigmoid's output (which the norm saves too), and the norm's mean and deviation.
    assert saved_bytes(model, torch.randn(4, 8)) == 4 * (4 * 8 + 4 * 16 + 2 * 16)
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_candidates_are_timed_in_turns():
    from senet.profiling import time_interleaved

    ran: list[str] = []
    found = time_interleaved({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, seconds=0, min_rounds=5)
    assert "".join(ran) == "ab" * 6
    assert found["a"].ratio == 1
    assert all(math.isfinite(timing.ms) and timing.rounds == 5 for timing in found.values())


def test_the_shift_is_in_standard_deviations():
    from senet.comparison.sizes import Moments, shift

    here, there = Moments(), Moments()
    values = torch.randn(500, 6, dtype=torch.float64) * torch.tensor([1.0, 2, 3, 4, 5, 0])
    for part in values.split(100):
        here.add(part)
        there.add(part + 2 * torch.tensor([1.0, 2, 3, 4, 5, 9]))
    assert here.sd[:5].tolist() == pytest.approx(values.std(0, correction=0)[:5].tolist())
    assert shift(there, here) == pytest.approx(2, rel=0.1)
    assert shift(here, here) == 0
