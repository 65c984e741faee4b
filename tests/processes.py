"""Real processes that train, started without importing everything anew, and killed for real.

A server process imports the package once and forks for each training; what is forked is a process of its own, with
its own loader processes, that ends by exit code or signal.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reads import of_training

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["lightning.pytorch", "torchmetrics.classification", "torchvision.datasets", "torchvision.transforms.v2",
     "sklearn.datasets", "matplotlib.figure", "torch.utils.tensorboard", "senet.training.fit", "senet.cli"]
)  # fmt: skip


@dataclass
class Child:
    """One training process."""

    process: Any
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def finish(self, code: int = 0) -> str:
        self.process.join()  # pytest's own time limit ends what hangs
        assert self.process.exitcode == code, (self.process.exitcode, self.said)
        return self.said

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait(self) -> None:
        """Until it has come to its `pause_at`."""
        while not Path(f"{self.log}.paused").exists():
            assert self.process.is_alive(), self.said
            time.sleep(0.01)

    def go_on(self) -> None:
        """After its pause."""
        Path(f"{self.log}.go").touch()


def start(*arguments: object, log: Path, **how: Any) -> Child:
    """`senet ARGUMENTS` as a process whose output goes to `log`; the rest is for `_run`."""
    process = CONTEXT.Process(target=_run, args=([str(a) for a in arguments], str(log), how))
    log.touch()
    process.start()
    return Child(process, log)


def both(target: Callable[..., None], *arguments: object) -> None:
    """Run `target(rank, *arguments)` in two processes, of rank 0 and 1."""
    ranks = [CONTEXT.Process(target=target, args=(rank, *arguments), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]


def _run(arguments: list[str], log: str, how: dict[str, Any]) -> None:
    """What the process does.

    Args:
        arguments: Of the command line.
        log: Gets what it says.
        how: `die_at_replace`: see there. `largest_file`: bytes; writing more fails as on a full disk. `pause_at`: step
            before which it waits for `Child.go_on`. `rate_at`: (step, learning rate from there on). `directory`: where.
            `slow_validation`: the epoch whose validation says that it began, as a pause does, and takes a minute.
            `environment`: more variables. `shard_on_cpu`: `--strategy fsdp` without the GPU that Lightning demands.
            `fail_at`: rank, step, and the text of a `RuntimeError` there.
            `reads`: name of a file beside `log` for the reads of each step, see `reads.of_training`.
    """
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ.update(how.get("environment", {}))
    if "RANK" in os.environ:  # Lightning reads it at its import, which was the server's
        from lightning.pytorch.utilities.rank_zero import rank_zero_only

        rank_zero_only.rank = int(os.environ["RANK"])
    import torch

    torch.set_num_threads(1)
    # What a forkserver has started would start its loader processes through another one; a user's command forks.
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "die_at_replace" in how:
        _die_at_replace(how["die_at_replace"])
    if "largest_file" in how:
        resource.setrlimit(resource.RLIMIT_FSIZE, (how["largest_file"],) * 2)
    os.chdir(how.get("directory", "."))
    _leave_curves_out()
    _disturb_steps(log, how.get("pause_at"), how.get("rate_at"))
    if "fail_at" in how:
        _fail_at(*how["fail_at"])
    if how.get("shard_on_cpu"):
        _shard_on_cpu()
    if "slow_validation" in how:
        _slow_validation(log, how["slow_validation"])
    from senet.cli import main

    if "reads" in how:
        with of_training() as reads:
            code = main(arguments)
        Path(f"{log}.{how['reads']}").write_text(repr(reads.of_steps()))
        sys.exit(code)
    sys.exit(main(arguments))


def _die_at_replace(number: int) -> None:
    """SIGKILL when a finished file is put in its place: with 2n - 1 right after the n-th, with 2n right before it."""
    replace = Path.replace
    count = 0

    def counted(path: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == (number + 1) // 2 and number % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        done = replace(path, target)
        if count == (number + 1) // 2 and number % 2 == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    Path.replace = counted  # type: ignore[method-assign]


def _leave_curves_out() -> None:
    """Write an empty picture, since drawing one takes half of such a training."""
    from senet.training import checkpointer

    checkpointer.draw_curves = lambda rows, path, *_: path.write_bytes(b"")


def _slow_validation(log: str, epoch: int) -> None:
    from senet.training.module import TrainingModule

    step = TrainingModule.validation_step

    def slow(self: Any, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == epoch:
            step(self, batch, batch_idx)  # something is in the sums already
            Path(f"{log}.paused").touch()
            time.sleep(60)
        step(self, batch, batch_idx)

    TrainingModule.validation_step = slow  # type: ignore[method-assign]


def _fail_at(rank: int, number: int, text: str) -> None:
    from senet.training.module import TrainingModule

    step = TrainingModule.training_step

    def failing(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.global_step == number and self.global_rank == rank:
            raise RuntimeError(text)
        return step(self, batch, batch_idx)

    TrainingModule.training_step = failing  # type: ignore[method-assign]


def _shard_on_cpu() -> None:
    """PyTorch's FSDP on CPUs and gloo, where it works if the device is named."""
    from lightning.pytorch.strategies import FSDPStrategy
    from torch.distributed import fsdp

    from senet.training import fit

    class OnCPU(FSDPStrategy):  # Lightning refuses its own class without a GPU, and no other one
        def _setup_model(self, model: Any) -> Any:
            original = fsdp.FullyShardedDataParallel.__init__

            def start(self: Any, *args: Any, **kwargs: Any) -> None:
                import torch

                original(self, *args, **kwargs | {"device_id": torch.device("cpu")})

            fsdp.FullyShardedDataParallel.__init__ = start  # type: ignore[method-assign]
            try:
                return super()._setup_model(model)
            finally:
                fsdp.FullyShardedDataParallel.__init__ = original  # type: ignore[method-assign]

    fit.FSDPStrategy = OnCPU  # type: ignore[misc]


def _disturb_steps(log: str, pause_at: int | None, rate_at: tuple[int, float] | None) -> None:
    from senet.training.module import TrainingModule

    step = TrainingModule.training_step

    def disturbed(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.global_step == pause_at:
            Path(f"{log}.paused").touch()
            while not Path(f"{log}.go").exists():
                time.sleep(0.01)
        if rate_at is not None and self.global_step >= rate_at[0]:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = rate_at[1]
        return step(self, batch, batch_idx)

    TrainingModule.training_step = disturbed  # type: ignore[method-assign]
