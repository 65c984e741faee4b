"""Whether all processes of a distributed training are still there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import lightning as L
import torch.distributed as dist

__all__ = ["LOST", "Heartbeat", "connection_lost"]

LOST = 2
"""The exit code of a process whose company is lost; like that of other errors that a message explains."""

PERIOD_S = 2.0
PATIENCE = 20
"""A process whose sign stays the same for so many periods is taken for dead; all end within a minute of its last one.

Counted in periods in which this process was awake itself: a machine that was suspended, or is overloaded, is no death.
"""


class Heartbeat(L.Callback):
    """Ends this process, with a message, once another one of its training has died or hangs.

    Without it a survivor waits in its next collective operation: for ever on some backends, half an hour on others.
    A thread gives a sign every two seconds through the store in which the processes met. The first process looks
    after the others' signs, and the others after the store, which lives in the first one.

    Args:
        advice: What the user can do, as the message's end.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.verdict = ""
        self._stop = threading.Event()
        self._rounds = 0
        self._thread: threading.Thread | None = None
        self._children: list[subprocess.Popen[Any]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin to listen."""
        if trainer.world_size == 1 or not dist.is_initialized() or self._thread is not None:
            return
        # Lightning's own observer ends this process without a word when one that it started has died.
        started = getattr(trainer.strategy.launcher, "procs", [])
        self._children = list(started)
        started.clear()
        self._rank, self._world = trainer.global_rank, trainer.world_size
        self._speaks = trainer.local_rank == 0
        self._store = dist.PrefixStore("senet/rollcall", dist.distributed_c10d._get_default_store().clone())
        self._signs = [(b"", 0)] * self._world
        self._give_sign(0)
        trainer.strategy.barrier("rollcall")  # every process has given its first sign
        self._thread = threading.Thread(target=self._listen, daemon=True, name="senet-rollcall")
        self._thread.start()
        if self._rank:
            threading.Thread(target=self._watch, daemon=True, name="senet-rollcall-watch").start()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say goodbye, and why, unless it is the loss of another process that ends this one."""
        if isinstance(exception, RuntimeError) and connection_lost(exception):
            return
        first_line = (str(exception).splitlines() or [type(exception).__name__])[0]
        self._leave("left" if type(exception).__name__ == "Interrupted" else f"failed {first_line}")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say goodbye."""
        self._leave("left")

    def explain(self, patience_s: float = 3.0) -> str:
        """Which process was lost, as far as it is known after a while; for the process that noticed by itself."""
        until = time.monotonic() + patience_s
        while not self.verdict and time.monotonic() < until:
            time.sleep(0.1)
        self._stop.set()
        self._end_children()
        return f"{self.verdict or 'the connection to another process of this training was lost'}; {self.advice}"

    def _leave(self, word: str) -> None:
        if self._thread is None or self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(PATIENCE * PERIOD_S)
        with suppress(RuntimeError):  # whoever keeps the store has left before
            self._store.set(str(self._rank), word)

    def _listen(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._rounds += 1
            try:
                self._give_sign(self._rounds)
                verdict = self._look_after_all() if self._rank == 0 else self._ask_the_first()
            except RuntimeError:
                verdict = "process 0 of this training, where all meet, is gone"
            if verdict:
                self.verdict = verdict
                break
        if self.verdict and not self._stop.wait(PERIOD_S):  # else the main thread has noticed, and speaks
            self._exit()

    def _watch(self) -> None:
        """End a process whose questions get no answer: while the first process hangs, so does the store in it."""
        seen, missed = 0, 0
        while not self._stop.wait(PERIOD_S):
            seen, missed = self._rounds, missed + 1 if self._rounds == seen else 0
            if missed > PATIENCE:
                self.verdict = self._silent(0)
                self._exit()

    def _give_sign(self, count: int) -> None:
        self._store.set(str(self._rank), f"alive {count}")

    def _look_after_all(self) -> str:
        """The first process's part: who is missing; told to the others too."""
        verdict = self._ended_child()
        found = self._store.multi_get([str(rank) for rank in range(self._world)])
        for rank, sign in enumerate(found):
            verdict = verdict or self._judge(rank, sign)
        if verdict:
            self._store.set("verdict", verdict)
        return verdict

    def _judge(self, rank: int, sign: bytes) -> str:
        """What is wrong with a process by the sign that it left last; empty if nothing is."""
        last, missed = self._signs[rank]
        self._signs[rank] = (sign, missed + 1 if sign == last else 0)
        word, _, rest = sign.decode("utf-8", "replace").partition(" ")
        if word == "failed":
            return f"process {rank} of this training has stopped: {rest}"
        if word == "alive" and self._signs[rank][1] > PATIENCE:
            return self._silent(rank)
        return ""

    def _silent(self, rank: int) -> str:
        return f"process {rank} of this training has given no sign for {PATIENCE * PERIOD_S:.0f} s"

    def _ended_child(self) -> str:
        """A process that this one started and that died; the others may take a while to be missed."""
        for local_rank, child in enumerate(self._children, 1):
            code = child.poll()
            if code is not None and code < 0:
                return f"process {local_rank} of this training was killed ({_signal_name(-code)})"
        return ""

    def _ask_the_first(self) -> str:
        if self._store.check(["verdict"]):
            return self._store.get("verdict").decode()
        return self._judge(0, self._store.get("0"))

    def _exit(self) -> None:
        """End at once: the main thread may hang in an operation that never returns."""
        self._end_children()
        if self._speaks or "process 0 " in self.verdict:
            print(f"senet: {self.verdict}; {self.advice}", file=sys.stderr, flush=True)
        os._exit(LOST)

    def _end_children(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()


def connection_lost(error: RuntimeError) -> bool:
    """Whether an error says that another process can't be reached (and not that something is wrong here)."""
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "Broken pipe"))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
