"""Detect lost processes of a distributed training."""

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

__all__ = ["LOST", "Heartbeat", "communication_failed", "connection_closed"]

LOST = 2
"""Exit code of a process after the loss of another one, the same as for user errors."""

PERIOD_S = 2.0
PATIENCE = 20
"""Number of periods without a new heartbeat after which a process counts as dead. All processes end within a minute.

Only periods in which this process ran are counted, since a suspended or overloaded machine is not dead.
"""

CLOSED = ("closed by peer", "closed by remote peer", "reset by peer", "broken pipe", "remote process")
"""Phrases in errors of gloo and NCCL after the other end of a connection has gone."""


class Heartbeat(L.Callback):
    """Ends this process with a message once another process of its training has died or hangs.

    Without it, a process waits in its next collective operation for half an hour or forever, depending on the backend.
    A thread sends a heartbeat every two seconds through the processes' common store. The first process checks the
    heartbeats of the others. The others check the store, which belongs to the first one.

    Args:
        advice: Advice for the user at the end of the message.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.failure = ""
        self._explained: tuple[BaseException | None, str] = (None, "")
        self._stop = threading.Event()
        self._rounds = 0
        self._thread: threading.Thread | None = None
        self._children: list[subprocess.Popen[Any]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Start the heartbeat."""
        if trainer.world_size == 1 or not dist.is_initialized() or self._thread is not None:
            return
        # Lightning's own observer would end this process without a message when a child process has died.
        started = getattr(trainer.strategy.launcher, "procs", [])
        self._children = list(started)
        started.clear()
        self._rank, self._world = trainer.global_rank, trainer.world_size
        self._prints = trainer.local_rank == 0
        self._store = dist.PrefixStore("senet/heartbeat", dist.distributed_c10d._get_default_store().clone())
        self._beats = [(b"", 0)] * self._world
        self._beat(0)
        trainer.strategy.barrier("heartbeat")  # every process has sent its first heartbeat
        self._thread = threading.Thread(target=self._listen, daemon=True, name="senet-heartbeat")
        self._thread.start()
        if self._rank:
            threading.Thread(target=self._watch, daemon=True, name="senet-heartbeat-watch").start()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Send the reason for leaving, unless this process ends because another one was lost."""
        if self.explain(exception):
            return
        first_line = (str(exception).splitlines() or [type(exception).__name__])[0]
        self._leave("left" if type(exception).__name__ == "Interrupted" else f"failed {first_line}")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Send that this process has left."""
        self._leave("left")

    def explain(self, error: BaseException, patience_s: float = 2.5 * PERIOD_S) -> str:
        """Describe the loss of another process that an error comes from. Empty for an error of this process.

        Back ends raise the same errors for reasons of their own, such as a lack of memory. So the heartbeat must have
        found the lost process, or the error must say that the connection was closed.

        Args:
            error: The error.
            patience_s: Time that the heartbeat has to find the lost process, which takes a period in the first process
                and another one to reach the others.
        """
        if error is not self._explained[0]:
            self._explained = error, self._loss(error, patience_s)
        return self._explained[1]

    def _loss(self, error: BaseException, patience_s: float) -> str:
        if self._thread is None or not communication_failed(error):
            return ""
        until = time.monotonic() + patience_s
        while not self.failure and time.monotonic() < until:
            time.sleep(0.1)
        if not self.failure and not connection_closed(error):
            return ""
        self._stop.set()
        self._end_children()
        return f"{self.failure or 'the connection to another process of this training was lost'}; {self.advice}"

    def _leave(self, word: str) -> None:
        if self._thread is None or self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(PATIENCE * PERIOD_S)
        with suppress(RuntimeError):  # the process with the store has left before
            self._store.set(str(self._rank), word)

    def _listen(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._rounds += 1
            try:
                self._beat(self._rounds)
                failure = self._check_all() if self._rank == 0 else self._check_first()
            except RuntimeError:
                failure = "process 0 of this training is gone"
            if failure:
                self.failure = failure
                break
        if self.failure and not self._stop.wait(PERIOD_S):  # else the main thread reports it
            self._exit()

    def _watch(self) -> None:
        """End this process if the store doesn't answer, since the store hangs with the first process."""
        seen, missed = 0, 0
        while not self._stop.wait(PERIOD_S):
            seen, missed = self._rounds, missed + 1 if self._rounds == seen else 0
            if missed > PATIENCE:
                self.failure = self._silence(0)
                self._exit()

    def _beat(self, count: int) -> None:
        self._store.set(str(self._rank), f"alive {count}")

    def _check_all(self) -> str:
        """Find a lost process, in the first process, and report it to the others through the store."""
        failure = self._ended_child()
        found = self._store.multi_get([str(rank) for rank in range(self._world)])
        for rank, beat in enumerate(found):
            failure = failure or self._check(rank, beat)
        if failure:
            self._store.set("failure", failure)
        return failure

    def _check(self, rank: int, beat: bytes) -> str:
        """Describe the failure of a process by its last heartbeat, empty if there is none."""
        last, missed = self._beats[rank]
        self._beats[rank] = (beat, missed + 1 if beat == last else 0)
        word, _, rest = beat.decode("utf-8", "replace").partition(" ")
        if word == "failed":
            return f"process {rank} of this training has stopped: {rest}"
        if word == "alive" and self._beats[rank][1] > PATIENCE:
            return self._silence(rank)
        return ""

    def _silence(self, rank: int) -> str:
        return f"process {rank} of this training has sent no heartbeat for {PATIENCE * PERIOD_S:.0f} s"

    def _ended_child(self) -> str:
        """Describe a killed child process, which is detected at once."""
        for local_rank, child in enumerate(self._children, 1):
            code = child.poll()
            if code is not None and code < 0:
                return f"process {local_rank} of this training was killed ({_signal_name(-code)})"
        return ""

    def _check_first(self) -> str:
        if self._store.check(["failure"]):
            return self._store.get("failure").decode()
        return self._check(0, self._store.get("0"))

    def _exit(self) -> None:
        """End this process at once, since the main thread may hang forever."""
        self._end_children()
        if self._prints or "process 0 " in self.failure:
            print(f"senet: {self.failure}; {self.advice}", file=sys.stderr, flush=True)
        os._exit(LOST)

    def _end_children(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()


def communication_failed(error: BaseException) -> bool:
    """Whether an error comes from an exchange between processes. Gloo raises it without a type of its own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def connection_closed(error: BaseException) -> bool:
    """Whether an error of an exchange says that another process can't be reached."""
    return isinstance(error, dist.DistNetworkError) or any(phrase in str(error).lower() for phrase in CLOSED)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
