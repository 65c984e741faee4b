"""Stopped and killed for real, gone on with, and equal to the run that wasn't, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from equality import assert_equal, rows
from processes import Child, start

from senet.training import lock
from senet.training.lock import InUseError, lock_folder
from senet.training.states import TrainingStates

OPTIONS = [
    "train", "--data", "digits", "--limit", "330", "--model", "se_cifar_resnet20", "--model-kwargs", "depth=1",
    "--model-kwargs", "widths=[16,32]", "--size", "8", "--augment", "rand", "--repeated-augmentation", "3",
    "--loss", "bce", "--epochs", "3", "--batch-size", "32", "--save-every", "2",
    "--ema-decay", "0.9", "--mixup", "0.2", "--cutmix", "0.5", "--random-erasing", "0.3", "--clip-grad-norm", "1",
]  # fmt: skip
"""Ten steps an epoch, with everything on that is random or remembered."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    start(*OPTIONS, "--workers", "0", "--out", folder, log=folder.parent / "log").finish()
    return folder


@pytest.fixture
def begin(tmp_path):
    """Begin a run in `tmp_path / "run"`, or go on with it."""
    count = 0

    def run(*more: object, resume: bool = False, **how: object) -> Child:
        nonlocal count
        count += 1
        folder = tmp_path / "run"
        options = ["train", "--resume", folder] if resume else [*OPTIONS, "--out", folder]
        return start(*options, *(more or ("--workers", "0")), log=tmp_path / f"log{count}", **how)

    return run


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_again_and_again(tmp_path, whole, begin, workers):
    """Each time in the middle of putting another file in its place, before it is there or after."""
    folder, child = tmp_path / "run", begin("--workers", workers, die_at_replace=7)
    child.finish(-signal.SIGKILL)
    for moment in (12, 20, 23) if workers == 0 else (22,):
        begin("--workers", workers, resume=True, die_at_replace=moment).finish(-signal.SIGKILL)
    begin("--workers", workers, resume=True).finish()
    assert_equal(folder, whole)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Another run's network, trained a little: what a fine-tuning begins with."""
    folder = tmp_path_factory.mktemp("weights") / "run"
    options = ["--epochs", "1", "--seed", "5", "--workers", "0", "--out", folder]
    start(*OPTIONS[:-14], *options, log=folder.parent / "log").finish()
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, weights) -> Path:
    """The folder of a fine-tuning that nothing happened to."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    start(*tuning(weights), "--out", folder, log=folder.parent / "log").finish()
    return folder


def tuning(weights: Path) -> list[object]:
    return ["train", "--data", "digits", "--limit", "100", "--checkpoint", weights, "--epochs", "2",
            "--batch-size", "32", "--workers", "0", "--save-every", "0"]  # fmt: skip


FILES = 2 * (1 + 6 + 1 + 6 + 1)
"""Moments of that fine-tuning: before and after `run.json`, of each epoch two networks with their descriptions (when it
is the best one), table, curves and training state, and the result."""


# Nothing there yet, no state yet, and a state; every moment is tried below.
@pytest.mark.parametrize("moment", [2, 9, 13])
def test_a_kill_while_the_first_epoch_is_written_keeps_the_initial_weights(tmp_path, weights, tuned, moment):
    killed_at(moment, tmp_path, weights, tuned)


def test_initial_weights_that_have_changed_are_refused(tmp_path, weights, whole):
    """The run was killed before its first state, so that it needs them again."""
    copy = tmp_path / "weights"
    shutil.copytree(weights, copy)
    begun = start(*tuning(copy), "--out", tmp_path / "run", log=tmp_path / "log", die_at_replace=1)
    begun.finish(-signal.SIGKILL)
    for name in ("best.safetensors", "best.json"):
        shutil.copy(whole / name, copy / name)
    said = start("train", "--resume", tmp_path / "run", log=tmp_path / "again").finish(2)
    assert "has changed since the run started" in said.replace("\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(1, FILES + 3))
def test_a_kill_at_every_file_of_a_fine_tuning(tmp_path, weights, tuned, moment):
    killed_at(moment, tmp_path, weights, tuned)


def killed_at(moment: int, tmp_path: Path, weights: Path, tuned: Path) -> None:
    first = start(*tuning(weights), "--out", tmp_path / "run", log=tmp_path / "log", die_at_replace=moment)
    first.process.join()
    if first.process.exitcode:
        assert first.process.exitcode == -signal.SIGKILL, first.said
        begun = (tmp_path / "run" / "run.json").is_file()
        again = ["train", "--resume", tmp_path / "run"] if begun else [*tuning(weights), "--out", tmp_path / "run"]
        start(*again, log=tmp_path / "again").finish()
    else:
        assert moment > FILES - 4, first.said  # the second epoch may not be the best
    assert_equal(tmp_path / "run", tuned)
    assert (tmp_path / "run" / "result.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(1, 60))
def test_killed_at_every_file(tmp_path, whole, begin, moment):
    first = begin(die_at_replace=moment)
    first.process.join()
    if first.process.exitcode:
        assert first.process.exitcode == -signal.SIGKILL, first.said
        begin(resume=(tmp_path / "run" / "run.json").is_file()).finish()
    assert_equal(tmp_path / "run", whole)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stop_during_validation_saves_at_once_and_the_resumed_run_is_the_same(tmp_path, whole, begin, number):
    folder, child = tmp_path / "run", begin("--workers", "0", "--save-every", "0", slow_validation=1)
    child.wait()
    since = time.monotonic()
    child.signal(number)
    said = child.finish(130)
    assert time.monotonic() - since < 5, "the validation takes minutes"
    assert "Traceback" not in said
    assert str(TrainingStates(folder).all()[0]) == "epoch 2, batch 10"
    begin(resume=True).finish()
    assert_equal(folder, whole)


def test_a_run_that_has_ended_gives_its_result_again(tmp_path, whole):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    said = start("train", "--resume", copy, log=tmp_path / "log").finish().replace("\n", "")
    assert f"{copy} finished after 3 epochs" in said
    (copy / "result.json").unlink()  # as where the process is killed right before it writes it
    start("train", "--resume", copy, log=tmp_path / "log2").finish()
    assert (copy / "result.json").read_text() == (whole / "result.json").read_text()


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_ctrl_c_saves_and_the_resumed_run_is_the_same(tmp_path, whole, begin, workers):
    folder, child = tmp_path / "run", begin("--workers", workers, "--save-every", "0", pause_at=13)
    child.wait()
    child.signal(signal.SIGINT)
    child.go_on()
    said = child.finish(130)
    assert f"senet train --resume {folder}" in said.replace("\n", "")
    assert "Traceback" not in said
    assert str(TrainingStates(folder).all()[0]) == "epoch 2, batch 4"
    begin("--workers", workers, resume=True).finish()
    assert_equal(folder, whole)


def test_stopped_in_the_middle_of_a_batch_that_is_added_up(tmp_path, begin):
    options = ("--workers", "0", "--grad-accumulation", "4", "--epochs", "2", "--save-every", "0")
    start(*OPTIONS, *options, "--out", tmp_path / "whole", log=tmp_path / "log").finish()
    child = begin(*options, pause_at=13)  # by the optimiser; each of its steps adds up four batches
    child.wait()
    child.signal(signal.SIGTERM)
    child.go_on()
    child.finish(130)
    assert TrainingStates(tmp_path / "run").all()[0].batch % 4 == 0
    begin(resume=True).finish()
    assert_equal(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("how", [pytest.param("again", marks=pytest.mark.slow), "resume"])
def test_killed_before_any_state_was_saved(tmp_path, whole, begin, how):
    folder = tmp_path / "run"
    begin(die_at_replace=1).finish(-signal.SIGKILL)
    assert [path.name for path in folder.iterdir() if path.name != ".lock"] == ["run.json"]
    begin(resume=how == "resume").finish()
    assert_equal(folder, whole)


@pytest.mark.parametrize("damage", [pytest.param("truncated", marks=pytest.mark.slow), "one bit"])
def test_a_damaged_state_is_named_and_the_one_before_is_used(tmp_path, whole, begin, damage):
    folder = tmp_path / "run"
    begin(die_at_replace=21).finish(-signal.SIGKILL)
    newest, before = TrainingStates(folder).all()
    content = bytearray(newest.path.read_bytes())
    if damage == "truncated":
        content = content[:1000]
    else:
        content[len(content) // 2] ^= 1
    newest.path.write_bytes(content)
    said = begin(resume=True).finish().replace("\n", "")
    assert f"{newest.path} is truncated or altered" in said
    assert before.path != newest.path
    assert_equal(folder, whole)


def test_what_can_not_be_resumed_says_so(tmp_path, whole):
    def refused(*options: object) -> str:
        said = start("train", *options, log=tmp_path / "log").finish(2)
        (tmp_path / "log").unlink()
        return said.replace("\n", "")

    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    assert "contains no run" in refused("--resume", tmp_path)
    assert "--resume" in refused(*OPTIONS[1:], "--out", copy)
    (copy / "result.json").unlink()
    for state in TrainingStates(copy).all():
        state.path.write_bytes(b"nothing")
    assert "has no intact state" in refused("--resume", copy)
    shutil.rmtree(copy / "states")
    assert "states are missing" in refused("--resume", copy)


def test_one_process_a_folder(tmp_path, whole, begin):
    folder, holder = tmp_path / "run", begin("--workers", "2", pause_at=3)
    holder.wait()
    said = begin(resume=True).finish(2).replace("\n", "")
    assert f"is in use by process {holder.process.pid} on {os.uname().nodename} since 20" in said
    loaders = children(holder.process.pid)
    assert len(loaders) >= 2
    for loader in loaders:  # they outlive their parent for a moment; their copy of the lock must not count
        os.kill(loader, signal.SIGSTOP)
    holder.signal(signal.SIGKILL)
    holder.finish(-signal.SIGKILL)
    begin(resume=True).finish()
    for loader in loaders:
        os.kill(loader, signal.SIGKILL)
    assert_equal(folder, whole)


def test_who_asks_twice_does_not_give_the_lock_up(tmp_path, begin):
    folder = tmp_path / "run"
    with lock_folder(folder):
        with pytest.raises(InUseError, match="this very process"), lock_folder(folder):
            pass
        assert f"is in use by process {os.getpid()} on" in begin().finish(2).replace("\n", "")


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_lock_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Msvcrt:
        LK_NBLCK = 2
        held: bool = False

        def locking(self, handle: int, mode: int, count: int) -> None:
            assert (mode, count, os.lseek(handle, 0, os.SEEK_CUR)) == (2, 1, lock.FAR)
            if self.held:
                raise PermissionError(13, "Permission denied")
            self.held = True

    monkeypatch.setattr(lock, "_WINDOWS", True)
    monkeypatch.setattr(lock, "_system", Msvcrt())
    with lock_folder(tmp_path):
        assert (tmp_path / lock.LOCK).stat().st_size < lock.FAR
        lock._ours.clear()  # as in another process
        with pytest.raises(InUseError, match=f"process {os.getpid()} on"), lock_folder(tmp_path):
            pass


def test_a_dead_loader_process_ends_the_run_which_goes_on(tmp_path, whole, begin):
    folder, child = tmp_path / "run", begin("--workers", "2", "--save-every", "0", pause_at=12)
    child.wait()
    for loader in children(child.process.pid):
        os.kill(loader, signal.SIGKILL)
    child.go_on()
    said = child.finish(2).replace("\n", "")
    assert "a data loading process died (pid" in said
    assert "continue with --resume" in said
    assert "Traceback" not in said
    begin("--workers", "2", resume=True).finish()
    assert_equal(folder, whole)


def test_a_full_disk_loses_nothing(tmp_path, whole, begin):
    folder = tmp_path / "run"
    begin(die_at_replace=31).finish(-signal.SIGKILL)
    before = rows(folder)
    assert before
    said = begin(resume=True, largest_file=100_000).finish(2).replace("\n", "")
    assert "no space left on the device" in said
    assert "the training is saved up to epoch" in said
    assert rows(folder)[: len(before)] == before
    begin(resume=True).finish()
    assert_equal(folder, whole)


def test_a_folder_that_can_not_be_written_to(tmp_path, begin):
    (tmp_path / "run").write_text("a file")
    assert f"{tmp_path / 'run'} can't be written to" in begin().finish(2).replace("\n", "")


@pytest.mark.parametrize("how", ["torch", "python"])
def test_out_of_memory(tmp_path, how):
    """The network asks for more than there is, for real, in its fifth step."""
    (tmp_path / "hungry.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    steps = 0\n"
        "    def forward(self, x):\n"
        "        self.steps += self.training\n"
        "        if self.steps == 5:\n"
        f"            {'torch.empty(1 << 50)' if how == 'torch' else 'bytearray(1 << 60)'}\n"
        "        return super().forward(x.mean(1).flatten(1))\n"
        "def build(num_classes): return Net(64, num_classes)\n"
    )
    child = start(
        "train", "--data", "digits", "--limit", "330", "--model", "hungry:build", "--size", "8", "--batch-size", "32",
        "--epochs", "1", "--workers", "0", "--save-every", "2", "--out", tmp_path / "run", log=tmp_path / "log",
        directory=str(tmp_path),
    )  # fmt: skip
    said = child.finish(2).replace("\n", "")
    assert "out of memory with batches of 32 x 1 x 8 x 8" in said
    assert "up to epoch 1, batch 4; continue with --resume" in said
    assert "Traceback" not in said


def test_a_loss_that_is_no_number_keeps_the_last_good_network(tmp_path, begin):
    from senet.zoo import load_model

    options = ("--schedule", "step", "--step-epochs", "1", "--step-factor", "1", "--warmup-epochs", "0", "--mixup", "0")
    child = begin(
        "--workers", "0", "--cutmix", "0", "--clip-grad-norm", "0", "--lr", "0.05", *options, rate_at=(15, 1e30)
    )
    said = child.finish(2).replace("\n", "")
    assert "non-finite at step" in said or "the loss became" in said
    assert "(learning rate 1e+30)" in said or "learning rate 1e+30)" in said
    assert "the last good network is last.safetensors, from epoch 1" in said
    load_model(tmp_path / "run" / "last.safetensors")
