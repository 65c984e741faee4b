"""Cross-validation: one training for each fold, and the mean and spread of their metrics."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from senet.comparison.plan import Run
from senet.comparison.running import finished_rows, train_run
from senet.comparison.statistics import spread
from senet.errors import SenetError
from senet.tasks import CLASSIFICATION, task_named
from senet.training.folder import BEST, reading, write_json
from senet.training.job import Job
from senet.training.outcome import best_row
from senet.training.status import has_run

if TYPE_CHECKING:
    from rich.console import Console

    from senet.data import Data

__all__ = ["PLAN", "PREDICTIONS", "SUMMARY", "CrossValidation"]

PLAN = "folds.json"
"""File with the requested training."""
SUMMARY = "cross_validation.json"
"""File with the metrics of each fold, their mean, standard deviation and interval."""
PREDICTIONS = "predictions.csv"
"""File with the prediction of each image by the network that wasn't trained on it."""

MOMENTS = ("best", "last")


@dataclass(frozen=True)
class CrossValidation:
    """Trainings on all folds but one, for each fold of the data.

    Attributes:
        job: The training. Its data has `folds`, and no `fold`.

    Example:
        >>> from pathlib import Path
        >>> from senet.comparison.cross_validation import CrossValidation
        >>> from senet.training import DataOptions, Job, ModelInitialization, recipe_named
        >>> job = Job(
        ...     source=DataOptions(data="folder:flowers", folds=3),
        ...     network=ModelInitialization(model="se_resnet18"),
        ...     recipe=recipe_named("photos"),
        ... )
        >>> [run.folder.name for run in CrossValidation(job).runs(Path("runs"))]
        ['fold1', 'fold2', 'fold3']
    """

    job: Job

    def runs(self, folder: Path) -> Iterator[Run]:
        """Yield the training of each fold."""
        for fold in range(1, (self.job.source.folds or 0) + 1):
            job = replace(self.job, source=replace(self.job.source, fold=fold))
            yield Run(f"fold {fold}", job.recipe.seed, job, folder / f"fold{fold}")

    def start(self, folder: Path, console: Console, report: Callable[[str], object]) -> dict[str, Any]:
        """Train on every fold, in a folder without trainings, see `resume`.

        Raises:
            SenetError: The folder contains trainings, or an option is invalid.
        """
        if (folder / PLAN).is_file():
            raise SenetError(
                f"{folder} already contains a cross-validation; continue with --resume {folder}, or use another --out"
            )
        self.job.refuse_used(folder)
        for run in self.runs(folder):
            run.job.refuse_used(run.folder)
        data = next(self.runs(folder)).job.open_data()
        started = replace(self, job=replace(self.job, network=self.job.network.for_data(data), digest=data.digest))
        write_json(folder, PLAN, started.job.to_dict())
        return started.resume(folder, console, report)

    def resume(self, folder: Path, console: Console, report: Callable[[str], object]) -> dict[str, Any]:
        """Train on the folds that aren't finished, and write summary and predictions.

        Returns:
            The content of the summary.

        Raises:
            SenetError: A training has invalid options, or the data has changed.
            Interrupted: The user pressed Ctrl-C. The state is saved.
        """
        runs = list(self.runs(folder))
        for number, run in enumerate(runs, 1):
            data = run.job.open_data()
            self.job.refuse_changed(folder, data)
            if finished_rows(run.folder) is None:
                state = "resuming" if has_run(run.folder) else "training"
                report(f"{state} {run.variant} of {len(runs)}, in {run.folder}: {_images(data)}")
                train_run(run, data, console)
            write_json(folder, SUMMARY, self.summary(folder, runs[:number]))
        if self.job.network.task == CLASSIFICATION:
            self.predict(folder)
        return self.summary(folder, runs)

    def summary(self, folder: Path, runs: list[Run]) -> dict[str, Any]:
        """Return the metrics of finished folds, and their mean, standard deviation and 95 % t interval, JSON-ready."""
        metrics = task_named(self.job.network.task).metrics_for(self.job.recipe.metric)
        rows: list[dict[str, Any]] = []
        for run in runs:
            found = finished_rows(run.folder) or []
            best = best_row(found, metrics[0].key)
            if best is None:
                raise SenetError(f"{run.folder}: no epoch has a finite validation metric ({metrics[0].key})")
            moments = dict(zip(MOMENTS, (best, found[-1]), strict=True))
            values = {name: {m.key: row[f"val_{m.key}"] for m in metrics if f"val_{m.key}" in row}
                      for name, row in moments.items()}  # fmt: skip
            rows.append({"fold": run.job.source.fold, "epoch": round(best["epoch"]), **values})
        return {
            "folder": str(folder),
            "model": self.job.network.model,
            "data": self.job.source.data,
            "folds": self.job.source.folds,
            "group": self.job.source.group,
            "rows": rows,
            **{name: _over_folds([row[name] for row in rows]) for name in MOMENTS},
        }

    def predict(self, folder: Path) -> None:
        """Write the out-of-fold predictions of classifiers: of each image, by the network that wasn't trained on it."""
        from senet.weights.files import write_atomically

        def write(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                self._predict(file, folder)

        write_atomically(folder / PREDICTIONS, write)

    def _predict(self, file: IO[str], folder: Path) -> None:
        from torch import Tensor

        from senet.inference import evaluate
        from senet.spreadsheet import text_cell
        from senet.zoo import is_code, load_model

        table = csv.writer(file)
        table.writerow(("path", "fold", "truth", "predicted", "right", "probability"))
        model = self.job.network.model
        for run in self.runs(folder):
            loaded = load_model(run.folder / BEST, factory=model if is_code(model) else None)
            data = run.job.open_data()
            names, fold, source = [text_cell(name) for name in loaded.classes], run.job.source.fold, data.val

            def add(
                indices: Tensor,
                labels: Tensor,
                probabilities: Tensor,
                names: list[str] = names,
                fold: int | None = fold,
                source: Any = source,
            ) -> None:
                values, numbers = probabilities.max(1)
                for index, true, predicted, value in zip(
                    indices.tolist(), labels.tolist(), numbers.tolist(), values.tolist(), strict=True
                ):
                    path = text_cell(source.locate(index))
                    table.writerow((path, fold, names[true], names[predicted], int(predicted == true), f"{value:.6f}"))

            workers = self.job.run.workers
            evaluate(
                loaded, source, data.classes, workers=None if workers < 0 else workers, corrupt="skip", observe=add
            )  # fmt: skip

    @classmethod
    def read(cls, folder: Path) -> CrossValidation:
        """Read the plan from a folder.

        Raises:
            CheckpointError: The plan is missing or can't be read.
        """
        with reading(folder, PLAN, "cross-validation to resume") as values:
            return cls(Job.from_dict(values))


def _over_folds(rows: list[dict[str, float]]) -> dict[str, Any]:
    from senet.tasks.intervals import of_mean

    found = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        interval = of_mean(values)
        limited = interval and (max(0.0, interval[0]), min(1.0, interval[1]))  # metrics are in 0..1
        found[key] = asdict(spread(values)) | {"interval": limited}
    return found


def _images(data: Data) -> str:
    return f"{len(data.train):,} images to train on, {len(data.val):,} to validate on"
