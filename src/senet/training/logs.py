"""Write the rows of `metrics.csv`, and the losses of steps, to the loggers of `RunOptions.logger`."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from senet.errors import SenetError
from senet.training.folder import write_json
from senet.training.recipe import RunOptions

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

__all__ = ["IDS", "TIMES", "Logs", "require_loggers"]

TIMES = ("seconds", "images_per_second")
"""Columns with durations, which differ between equal runs."""

IDS: Final = "loggers.json"
"""File of a run's folder: logger to the identifier of its run, which a resumed run continues."""


def _tensorboard(folder: Path, _id: str) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)


def _csv(folder: Path, _id: str) -> Logger:
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(folder, name="", version="csv")


def _wandb(folder: Path, run_id: str) -> Logger:
    from lightning.pytorch.loggers import WandbLogger

    project = os.environ.get("WANDB_PROJECT", "senet")
    return WandbLogger(name=folder.name, save_dir=folder, id=run_id or secrets.token_hex(4), project=project)


def _mlflow(folder: Path, run_id: str) -> Logger:
    from lightning.pytorch.loggers import MLFlowLogger

    server, local = os.environ.get("MLFLOW_TRACKING_URI"), folder.resolve()
    return MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", "senet"),
        run_name=folder.name,
        tracking_uri=server or f"sqlite:///{local / 'mlflow.db'}",
        artifact_location=None if server else str(local / "mlartifacts"),
        run_id=run_id or None,
    )


@dataclass(frozen=True)
class _Kind:
    """A logger.

    Attributes:
        package: The package that it needs.
        make: Makes it from the run's folder and the identifier of a run to continue, which is empty for a new one.
        flush: Writes what it holds. None where it does so by itself.
        continued: Whether a resumed run continues the log. Otherwise it writes all of it again.
    """

    package: str
    make: Callable[[Path, str], Logger]
    flush: Callable[[Any], object] | None
    continued: bool


_KINDS: Final = {
    "tensorboard": _Kind("tensorboard", _tensorboard, lambda logger: logger.experiment.flush(), False),
    "csv": _Kind("lightning", _csv, lambda logger: logger.save(), False),
    "wandb": _Kind("wandb", _wandb, None, True),
    "mlflow": _Kind("mlflow", _mlflow, None, True),
}
"""Keys are `senet.training.recipe.LOGGERS`."""


def require_loggers(run: RunOptions) -> None:
    """Check that the packages of the loggers are installed.

    Raises:
        SenetError: One is missing. The message names the extra to install.
    """
    for name in run.loggers:
        if find_spec(_KINDS[name].package) is None:
            raise SenetError(f"--logger {name} needs the package {name}: pip install 'senet[{name}]'")


class Logs:
    """Writes each epoch's row at the last step of the epoch, and losses at their steps.

    A resumed run writes files again, since entries of a killed run could be missing or duplicated. It continues the
    runs of services, where a repeated step has the same value.

    Args:
        folder: Folder of the run.
        names: Names of the loggers.
        rows: Rows of the epochs so far.
        losses: Step and loss so far.
        hyperparameters: Hyperparameters of the run, for services.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        rows: Sequence[Mapping[str, float]] = (),
        losses: Sequence[tuple[int, float]] = (),
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        ids = _read_ids(folder)
        self._open: dict[str, Any] = {}
        for name in names:
            kind, old = _KINDS[name], ids.get(name, "")
            if not kind.continued:
                shutil.rmtree(folder / name, ignore_errors=True)
            logger = kind.make(folder, old)
            self._open[name] = logger
            if kind.continued:
                ids[name] = str(logger.version)
            if old:
                continue
            if kind.continued and hyperparameters:
                logger.log_hyperparams(dict(hyperparameters))
            for row in rows:
                _write_row(logger, row)
            _write_losses(logger, losses)
            self._flush(name)
        if ids != _read_ids(folder):
            write_json(folder, IDS, ids)

    def add(self, row: Mapping[str, float]) -> None:
        """Write one epoch and flush."""
        for name, logger in self._open.items():
            _write_row(logger, row)
            self._flush(name)

    def add_losses(self, losses: Sequence[tuple[int, float]]) -> None:
        """Write the losses of steps and flush."""
        for name, logger in self._open.items() if losses else ():
            _write_losses(logger, losses)
            self._flush(name)

    def close(self, *, complete: bool) -> None:
        """Close the loggers.

        Args:
            complete: Whether the run has ended, rather than failed or been interrupted.
        """
        for name, logger in self._open.items():
            logger.finalize("finished" if complete else "failed")
            if name == "wandb":  # else the next run of this process would continue this one
                logger.experiment.finish(exit_code=0 if complete else 1)
        self._open.clear()

    def _flush(self, name: str) -> None:
        flush = _KINDS[name].flush
        if flush is not None:
            flush(self._open[name])


def _write_row(logger: Logger, row: Mapping[str, float]) -> None:
    found = {name.replace("_", "/", 1): value for name, value in row.items() if name not in ("epoch", "step", *TIMES)}
    logger.log_metrics(found, step=int(row["step"]))


def _write_losses(logger: Logger, losses: Sequence[tuple[int, float]]) -> None:
    for step, loss in losses:
        logger.log_metrics({"train/step_loss": loss}, step=step)


def _read_ids(folder: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, str] = json.loads((folder / IDS).read_text(encoding="utf-8"))
        return found
    return {}
