"""Several processes, for real: on one machine, under torchrun, on two "machines" of the loopback; and killed."""

from __future__ import annotations

import ast
import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import start as forked
from safetensors.torch import load_file

from senet.errors import SenetError
from senet.training.cluster import launched, placed
from senet.training.recipe import RunOptions
from senet.training.states import TrainingStates

# A small learning rate: differences of the last bit grow with every step, and faster with larger ones.
OPTIONS = [
    *("--data", "digits", "--model", "cifar_resnet20", "--model-kwargs", "depth=1", "--size", "8"),
    *("--batch-size", "256", "--lr", "0.02", "--epochs", "3", "--workers", "0"),
]
TRAIN = ["-m", "senet", "train"]


def start(where: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    gone = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"}
    environment = {k: v for k, v in os.environ.items() if k not in gone} | {"OMP_NUM_THREADS": "1"} | more
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=where,
    )


def finish(process: subprocess.Popen[str], code: int | None = 0, seconds: float = 280) -> str:
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == code if code is not None else process.returncode != 0, said
    return said


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as table:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(table)]


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    for _ in range(2400):
        if any(folder.glob(pattern)):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{folder}/{pattern} never came")


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    finish(start(folder.parent, *TRAIN, *OPTIONS, "--out", str(folder)))
    return folder


def assert_the_same_curve(one: Path, other: Path) -> None:
    """The first epoch's loss to float32's rounding; later numbers as far as rounding grows (6e-5 in three epochs)."""
    mine, yours = rows(one), rows(other)
    assert len(mine) == len(yours)
    assert mine[0]["train_loss"] == pytest.approx(yours[0]["train_loss"], abs=2e-6)
    for a, b in zip(mine, yours, strict=True):
        for key in ("train_loss", "val_loss"):
            assert a[key] == pytest.approx(b[key], abs=2e-4), key
        assert a["lr"] == b["lr"]
        assert abs(a["val_top1"] - b["val_top1"]) <= 1.5 / 360, "an image on the border may fall either way"
        assert a["step"] == b["step"]


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(tmp_path, alone):
    """Norms included: their statistics are of the whole batch."""
    said = finish(start(tmp_path, *TRAIN, *OPTIONS, "--out", "run", "--devices", "2"))
    assert said.count("epoch 3/3") == 1, "only the first process speaks"
    assert_the_same_curve(tmp_path / "run", alone)


@pytest.mark.slow
def test_without_shared_statistics_the_curve_is_another(tmp_path, alone):
    finish(start(tmp_path, *TRAIN, *OPTIONS, "--out", "run", "--devices", "2", "--no-sync-bn"))
    assert abs(rows(tmp_path / "run")[0]["train_loss"] - rows(alone)[0]["train_loss"]) > 5e-5


@pytest.mark.slow
def test_accelerated_processes_follow_the_curve_of_separate_modules(tmp_path):
    """One step an epoch. The loss of the first agrees, and the validation after each shows the averaged gradients."""
    options = [*OPTIONS[:2], "--model", "se_mobilenet_v1_025", "--size", "64", "--limit", "128", "--batch-size", "128"]
    options += ["--lr", "0.01", "--epochs", "2", "--workers", "0", "--devices", "2"]
    said = {
        folder: finish(start(tmp_path, *TRAIN, *options, *more, "--out", folder))
        for folder, more in (("on", ["--no-sync-bn"]), ("off", ["--no-sync-bn", "--no-accelerate"]), ("shared", []))
    }
    line = "13 of 13 attention layers run with their norm"
    assert {folder: text.count(line) for folder, text in said.items()} == {"on": 1, "off": 0, "shared": 0}
    on, off = rows(tmp_path / "on"), rows(tmp_path / "off")
    assert on[0]["train_loss"] == pytest.approx(off[0]["train_loss"], rel=1e-5)
    assert [row["val_loss"] for row in on] == pytest.approx([row["val_loss"] for row in off], rel=1e-3)
    assert on[-1]["val_loss"] != off[-1]["val_loss"], "the operator rounds otherwise: it has run"


@pytest.mark.slow
def test_under_torchrun(tmp_path, alone):
    run = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    said = finish(start(tmp_path, *run, *TRAIN, *OPTIONS, "--out", "run"))
    assert said.count("epoch 3/3") == 1
    assert_the_same_curve(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "senet"])
def test_on_two_nodes(tmp_path, alone, launcher):
    port = free_port()
    nodes = []
    for node in ("0", "1"):
        if launcher == "torchrun":
            run = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "--nnodes", "2", "--node-rank", node]
            run += ["--master-addr", "127.0.0.1", "--master-port", port]
            nodes.append(start(tmp_path, *run, *TRAIN, *OPTIONS, "--out", "run"))
        else:
            here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": node}
            more = ["--out", "run", "--devices", "1", "--nodes", "2"]
            nodes.append(start(tmp_path, *TRAIN, *OPTIONS, *more, **here))
    said = [finish(node) for node in nodes]
    assert [text.count("epoch 3/3") for text in said] == [1, 0]
    assert_the_same_curve(tmp_path / "run", alone)


LONG = [*OPTIONS[:-4], "--epochs", "300", "--workers", "0"]


def children(process: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
@pytest.mark.parametrize("who", ["the first", "the second"])
def test_a_lost_process_ends_the_training_which_can_be_resumed(tmp_path, who, how):
    process = start(tmp_path, *TRAIN, *LONG, "--out", "run", "--devices", "2")
    wait_for(tmp_path / "run", "states/*.ckpt", process)
    others = children(process)
    victim = process.pid if who == "the first" else next(pid for pid in others if "senet" in command_of(pid))
    os.kill(victim, how)
    lost = time.monotonic()
    if who == "the first" and how == signal.SIGSTOP:  # its output ends when the second one's does
        wait_until_gone([pid for pid in others if "senet" in command_of(pid)], 90)
        os.kill(process.pid, signal.SIGKILL)
        said = process.communicate(timeout=10)[0]
    else:
        said = finish(process, code=None, seconds=90)
    assert time.monotonic() - lost < 75, "a minute, and something for a busy machine"
    assert "senet train --resume run" in said.replace("\n", " "), said
    assert "Traceback" not in said
    assert "this is a bug" not in said
    wait_until_gone([pid for pid in others if pid != victim], 20)
    if how == signal.SIGSTOP:
        for pid in (victim, *others):
            if command_of(pid):
                os.kill(pid, signal.SIGKILL)
    done = len(rows(tmp_path / "run"))
    process = start(tmp_path, *TRAIN, "--resume", "run")
    while len(rows(tmp_path / "run")) <= done:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    finish(process, 130)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_until_gone(pids: list[int], seconds: float) -> None:
    until = time.monotonic() + seconds
    while any(command_of(pid) for pid in pids):
        assert time.monotonic() < until, [command_of(pid) for pid in pids]
        time.sleep(0.2)


@pytest.mark.slow
def test_ctrl_c_saves_and_both_leave(tmp_path):
    process = start(tmp_path, *TRAIN, *LONG, "--out", "run", "--devices", "2")
    wait_for(tmp_path / "run", "states/*.ckpt", process)
    for pid in (process.pid, *children(process)):  # as a terminal does: to all processes in it
        os.kill(pid, signal.SIGINT)
    said = finish(process, 130)
    assert said.count("stopping after this step") == 1
    assert "stopped and saved" in said
    assert "Traceback" not in said


def launch(tmp_path: Path, *words: str, codes: tuple[int, int] = (0, 0), **how: Any) -> list[str]:
    """`senet train` in two processes with the environment that `torchrun` gives them, without its start."""
    common = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", "GROUP_RANK": "0",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}  # fmt: skip
    ranks = [
        forked(
            "train", *words, log=tmp_path / f"log{rank}", directory=str(tmp_path),
            environment=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, **how,
        )
        for rank in range(2)
    ]  # fmt: skip
    return [rank.finish(code) for rank, code in zip(ranks, codes, strict=True)]


def test_two_processes_resumed_in_mid_epoch_report_the_whole_epoch(tmp_path):
    """Each process has sums of its own over the epoch so far: the resumed one takes up all of them, bit for bit."""
    options = [*OPTIONS[:-6], "--batch-size", "64", "--lr", "0.02", "--epochs", "2", "--workers", "0"]
    folder = tmp_path / "run"
    launch(tmp_path, *options, "--save-every", "8", "--keep-states", "9", "--out", "run")
    whole = (folder / "metrics.csv").read_text()
    (folder / "result.json").unlink()
    for state in TrainingStates(folder).all():
        if (state.epoch, state.batch) > (1, 8):
            state.path.unlink()
    assert str(TrainingStates(folder).all()[0]) == "epoch 2, batch 8"
    launch(tmp_path, "--resume", "run")
    changed = {"seconds", "images_per_second"}
    again = [{k: v for k, v in row.items() if k not in changed} for row in rows(folder)]
    (folder / "metrics.csv").write_text(whole)
    assert again == [{k: v for k, v in row.items() if k not in changed} for row in rows(folder)]


def test_sharded_processes_follow_the_curve_of_whole_networks(tmp_path):
    """With a weight decay that shows, clipped gradients, and a resumed epoch."""
    options = [*OPTIONS[:-6], "--batch-size", "64", "--limit", "128", "--epochs", "2", "--workers", "0"]
    options += ["--lr", "0.02", "--weight-decay", "2", "--clip-grad-norm", "0.5"]
    kept = {}
    for strategy in ("ddp", "fsdp"):
        launch(tmp_path, *options, "--keep-states", "9", "--strategy", strategy, "--out", strategy, shard_on_cpu=True)
        kept[strategy] = load_file(tmp_path / strategy / "last.safetensors")
    for key, tensor in kept["ddp"].items():
        torch.testing.assert_close(kept["fsdp"][key], tensor, rtol=1e-4, atol=1e-5)
    (tmp_path / "fsdp" / "result.json").unlink()
    TrainingStates(tmp_path / "fsdp").all()[0].path.unlink()
    launch(tmp_path, "--resume", "fsdp", shard_on_cpu=True)
    for key, tensor in load_file(tmp_path / "fsdp" / "last.safetensors").items():
        assert torch.equal(tensor, kept["fsdp"][key]), key


def test_sharded_networks_keep_their_running_statistics_in_float32(tmp_path):
    options = [*OPTIONS[:-6], "--batch-size", "64", "--limit", "128", "--epochs", "1", "--workers", "0"]
    launch(tmp_path, *options, "--strategy", "fsdp", "--precision", "bf16", "--out", "run", shard_on_cpu=True)
    for key, tensor in load_file(tmp_path / "run" / "last.safetensors").items():
        if key.endswith(("running_mean", "running_var")):
            assert tensor.dtype is torch.float32
            assert not torch.equal(tensor, tensor.bfloat16().float()), key


def test_an_error_of_one_process_is_not_taken_for_the_loss_of_another(tmp_path):
    options = [*OPTIONS[:-6], "--batch-size", "64", "--epochs", "3", "--workers", "0", "--out", "run"]
    text = "Distributed package doesn't have NCCL built in"
    said = launch(tmp_path, *options, codes=(2, 1), fail_at=(1, 3, text))
    assert f"process 1 of this training has stopped: {text}" in said[0].replace("\n", " ")
    assert f"unexpected RuntimeError: {text}" in said[1].replace("\n", " ")


def test_a_loss_that_is_no_number_stops_both_processes(tmp_path):
    options = [*OPTIONS[:-6], "--batch-size", "64", "--epochs", "2", "--workers", "0", "--out", "run"]
    said = launch(tmp_path, *options, "--lr", "1e30", "--schedule", "constant", codes=(2, 2))
    assert "the loss became" in said[0], said
    assert "learning rate" in said[0]
    assert "Traceback" not in said[0] + said[1]


SLOW_VALIDATION = """
import sys, time
from senet.training.module import TrainingModule
real = TrainingModule.validation_step
def step(self, batch, number):
    if number == 0: print("VALIDATING", flush=True)
    time.sleep(0.5)
    real(self, batch, number)
TrainingModule.validation_step = step
from senet.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_most_steps_of_two_processes_wait_for_none_of_them(tmp_path):
    """Except in the exchanges of gradients and of norms, which happen on the devices."""
    options = [*OPTIONS[:-6], "--batch-size", "8", "--limit", "160", "--epochs", "1", "--workers", "0"]
    launch(tmp_path, *options, "--out", "run", reads="reads")
    for rank in range(2):
        found = ast.literal_eval((tmp_path / f"log{rank}.reads").read_text())
        assert found.keys() == {0, 2, 6, 14, 19}, found


@pytest.mark.slow
def test_two_processes_stop_together_within_a_validation(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_VALIDATION)
    options = [*OPTIONS[:-6], "--batch-size", "8", "--limit", "64", "--epochs", "2", "--workers", "0"]
    process = start(tmp_path, "slow.py", "train", *options, "--devices", "2", "--save-every", "0", "--out", "run")
    assert process.stdout is not None
    while "VALIDATING" not in process.stdout.readline():
        assert process.poll() is None
    since = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)  # to one of them: they agree
    finish(process, 130)
    assert time.monotonic() - since < 8, "whole validation: more than 10 s"
    assert str(TrainingStates(tmp_path / "run").all()[0]) == "epoch 1, batch 8"
    finish(start(tmp_path, *TRAIN, "--resume", "run"))
    assert len(rows(tmp_path / "run")) == 2


def test_too_few_images_to_validate_on():
    """Each process must validate something: said before anything is started."""
    from senet.training.fit import check_shares

    with pytest.raises(SenetError, match="1 validation image"):
        check_shares(1, world_size=2)
    check_shares(2, world_size=2)


def test_what_a_launcher_says():
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
    slurm = {"SLURM_NTASKS": "16", "SLURM_PROCID": "3", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "8"}
    assert placed(RunOptions(), torchrun) == RunOptions(devices=4, nodes=2)
    assert placed(RunOptions(devices=4, nodes=2), torchrun) == RunOptions(devices=4, nodes=2)
    assert placed(RunOptions(), slurm) == RunOptions(devices=8, nodes=2)
    del slurm["SLURM_NTASKS_PER_NODE"]
    assert placed(RunOptions(), slurm) == RunOptions(devices=8, nodes=2)
    assert launched(slurm | {"SLURM_JOB_NAME": "bash"}) is None
    assert launched({}) is None
    with pytest.raises(SenetError, match="--devices 2, but torchrun has started 4; omit --devices"):
        placed(RunOptions(devices=2), torchrun)
    with pytest.raises(SenetError, match="--nodes 3, but srun has started 2"):
        placed(RunOptions(nodes=3), slurm)


def test_several_nodes_need_to_know_each_other():
    with pytest.raises(SenetError, match="--nodes 2 needs MASTER_PORT, NODE_RANK in the environment"):
        placed(RunOptions(nodes=2), {"MASTER_ADDR": "10.0.0.1"})


def test_the_first_machine_of_a_slurm_job():
    """No SLURM here: only what Lightning makes of its variables is tested."""
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    assert SLURMEnvironment.resolve_root_node_address("gpu[03-04]") == "gpu03"


FROZEN = ["--freeze", "backbone", "--unfreeze-after", "1"]


@pytest.mark.slow
def test_two_processes_unfreeze_as_one(tmp_path):
    """The head learns in the first epoch, everything later. Both processes average the gradients of the same part."""
    for folder, more in (("one", []), ("two", ["--devices", "2"])):
        finish(start(tmp_path, *TRAIN, *OPTIONS, *FROZEN, *more, "--out", folder))
    assert_the_same_curve(tmp_path / "two", tmp_path / "one")
    first, later = rows(tmp_path / "two")[0], rows(tmp_path / "two")[-1]
    assert later["train_loss"] < first["train_loss"]
    weights = {name: load_file(tmp_path / name / "last.safetensors") for name in ("one", "two")}
    for key, tensor in weights["one"].items():
        torch.testing.assert_close(weights["two"][key], tensor, rtol=1e-3, atol=1e-3, msg=key)


@pytest.mark.slow
def test_two_processes_that_shard_do_not_unfreeze(tmp_path):
    said = launch(tmp_path, *OPTIONS, *FROZEN, "--strategy", "fsdp", "--out", "run", codes=(2, 2), shard_on_cpu=True)
    assert "not possible under fsdp" in " ".join(said[0].split())
    assert "Traceback" not in "".join(said)
