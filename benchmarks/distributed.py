"""Compare the loss curves of one process, two processes and two nodes, and time the end after the loss of a process.

    python benchmarks/distributed.py [--only curves first-KILL ...] [--json benchmarks/distributed.json]

Trains a small SE network on digits, on CPUs with the gloo backend. Nodes are two commands on the loopback.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TRAIN = ["-m", "senet", "train", "--data", "digits", "--model", "se_cifar_resnet20", "--model-kwargs", "depth=1"]
TRAIN += ["--model-kwargs", "widths=[16,32]", "--size", "8", "--batch-size", "128", "--lr", "0.01", "--workers", "0"]


def start(where: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    return subprocess.Popen(
        [sys.executable, *words], cwd=where, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def launched(where: Path, name: str, more: list[str]) -> list[subprocess.Popen[str]]:
    """Start the processes of a run as a user does."""
    port = free_port()
    run = [*TRAIN, "--out", name.replace(" ", "-").replace(",", ""), *more]
    elastic = ["-m", "torch.distributed.run", "--master-port", port]
    if name == "torchrun, 2 processes":
        return [start(where, *elastic, "--nproc-per-node", "2", *run)]
    if name == "torchrun, 2 nodes":
        nodes = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--node-rank"]
        return [start(where, *elastic, *nodes, node, *run) for node in ("0", "1")]
    if name == "2 nodes":
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [start(where, *run, "--devices", "1", "--nodes", "2", NODE_RANK=node, **there) for node in ("0", "1")]
    devices = {"1 process": [], "2 processes": ["--devices", "2"]}
    devices["2 processes, own norms"] = [*devices["2 processes"], "--no-sync-bn"]
    return [start(where, *run, *devices[name])]


def curves(where: Path) -> dict[str, Any]:
    names = (
        "1 process",
        "2 processes",
        "torchrun, 2 processes",
        "2 nodes",
        "torchrun, 2 nodes",
        "2 processes, own norms",
    )
    rows: dict[str, list[dict[str, float]]] = {}
    for name in names:
        for process in launched(where, name, ["--epochs", "3"]):
            said, _ = process.communicate(timeout=600)
            assert process.returncode == 0, said
        with (where / name.replace(" ", "-").replace(",", "") / "metrics.csv").open() as table:
            rows[name] = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(table)]
        print(name, [row["train_loss"] for row in rows[name]], flush=True)
    first = rows["1 process"]
    return {
        name: {
            "train_loss": [row["train_loss"] for row in mine],
            "val_loss": [row["val_loss"] for row in mine],
            "val_top1": [row["val_top1"] for row in mine],
            "largest difference": max(
                abs(a[key] - b[key]) for a, b in zip(mine, first, strict=True) for key in ("train_loss", "val_loss")
            ),
        }
        for name, mine in rows.items()
    }


def second_of(process: subprocess.Popen[str]) -> int:
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
    )
    return next(int(line.split()[0]) for line in listed.stdout.splitlines() if "senet" in line)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_until(done: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < seconds, "it took too long"
        time.sleep(0.05)
    return time.monotonic() - began


def lost(where: Path, who: str, how: signal.Signals) -> dict[str, Any]:
    """Kill or stop one of two processes. The other must end with a message, and the run can then be resumed."""
    folder = where / f"lost-{who}-{how.name}"
    process = start(where, *TRAIN, "--epochs", "500", "--out", str(folder), "--devices", "2")
    wait_until(lambda: any((folder / "states").glob("*.ckpt")), 300)
    second = second_of(process)
    victim, survivor = (process.pid, second) if who == "first" else (second, process.pid)
    os.kill(victim, how)
    seconds = wait_until(lambda: (process.poll() is not None) if survivor == process.pid else gone(survivor), 120)
    if how == signal.SIGSTOP and not gone(victim):
        os.kill(victim, signal.SIGKILL)
    said = process.communicate(timeout=30)[0]
    epochs = len((folder / "metrics.csv").read_text().splitlines()) - 1
    again = start(where, "-m", "senet", "train", "--resume", str(folder))
    wait_until(lambda: len((folder / "metrics.csv").read_text().splitlines()) > epochs + 2, 300)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    return {
        "seconds": round(seconds, 1),
        "exit code": process.returncode,
        "said": [line for line in said.splitlines() if "training" in line and "senet" in line][-1:] or said[-300:],
        "resumed after epoch": epochs,
        "resumed, Ctrl-C, exit code": again.returncode,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=["curves", "first-KILL", "first-STOP", "second-KILL", "second-STOP"]
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    where = Path(tempfile.mkdtemp())
    found = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    found["date"] = datetime.date.today().isoformat()
    for name in options.only:
        if name == "curves":
            found[name] = curves(where)
        else:
            who, _, how = name.partition("-")
            found[name] = lost(where, who, signal.Signals[f"SIG{how}"])
        print(name, json.dumps(found[name], indent=1), flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
