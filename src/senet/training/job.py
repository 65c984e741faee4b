"""A complete training as requested on the command line, saved so that it can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.console import line_printer, plain_console
from senet.errors import DataError, SenetError
from senet.tasks import task_named
from senet.training.cluster import is_first_process
from senet.training.folder import JOB, STATES, reading, write_json
from senet.training.lock import lock_folder
from senet.training.logs import require_loggers
from senet.training.model_initialization import SCRATCH, ModelInitialization
from senet.training.outcome import Outcome, read_outcome, write_outcome
from senet.training.recipe import Recipe, RunOptions
from senet.training.status import RunStatus, holds_results, run_status

if TYPE_CHECKING:
    from rich.console import Console

    from senet.data import Data
    from senet.training.fit import Network
    from senet.training.states import TrainingState
    from senet.weights import DataRecord

__all__ = ["DataOptions", "Job", "is_first_process"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data of a training, as in `senet.data.open_data`.

    Attributes:
        data: Name of the data: `digits`, `folder:PATH`, `cifar10`, ...
        val_fraction: Fraction of validation images, where the data has no validation split, or None for its default.
        split_seed: Seed of this split, or None for its default.
        folds: Number of folds, where the data has no validation split, in place of `val_fraction`.
        fold: Fold of the validation images, in 1..folds.
        group: Column or regular expression of paths of the groups that stay together.
        download: Whether to download a missing public data set.
        root: Folder of public data sets.
        classes: Class names, where boxes or masks don't name them.
        instances: Whether masks contain the numbers of single objects.
        limit: Largest number of training images, a fixed random choice, or None for all.
        white: White level of 16-bit images, or `"auto"`, or None for the network's.
        hold_out: Whether to hold out half of the validation images from choosing the best epoch, where the data has no
            test split.

    Raises:
        SenetError: `limit` is below 1.

    Example:
        >>> from senet.training import DataOptions
        >>> data = DataOptions(data="digits", limit=100).open()
        >>> len(data.train), len(data.classes)
        (100, 10)
    """

    data: str
    val_fraction: float | None = None
    split_seed: int | None = None
    download: bool = False
    root: str | None = None
    classes: tuple[str, ...] = ()
    instances: bool = False
    limit: int | None = None
    white: int | str | None = None
    hold_out: bool = False
    folds: int | None = None
    fold: int | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))  # JSON, from which it is read, has lists only
        if self.limit is not None and self.limit < 1:
            raise SenetError(f"limit={self.limit} must be at least 1")

    def absolute(self) -> DataOptions:
        """Return these options with absolute paths."""
        from senet.data.request import absolute_path, with_absolute_path

        return replace(self, data=with_absolute_path(self.data), root=self.root and absolute_path(self.root))

    def open(self, *, record: DataRecord | None = None, training: bool = True) -> Data:
        """Open the data.

        Args:
            record: Record of a network's training data. Its split is repeated unless these options set another one. Its
                folds and groups are repeated on the same data only.
            training: As in `senet.data.open_data`.
        """
        if record is not None and (record.folds or record.group):
            again = replace(self, group=record.group or None if self.group is None else self.group)
            if self.val_fraction is None and self.folds is None:
                again = replace(again, folds=record.folds or None, fold=self.fold or record.fold or None)
            try:
                data = again._open(record, training)
            except DataError:
                pass  # other data
            else:
                if record.name == data.absolute_name or record.digest == data.digest:
                    return data
        return self._open(record, training)

    def _open(self, record: DataRecord | None, training: bool) -> Data:
        from senet.data import hold_out, open_data, subsample
        from senet.data.request import DEFAULT_FRACTION

        data = open_data(
            self.data,
            val_fraction=self.val_fraction,
            seed=self.split_seed,
            folds=self.folds,
            fold=self.fold,
            group=self.group,
            download=self.download,
            root=self.root,
            classes=self.classes,
            instances=self.instances,
            white_level=self.white,
            default_fraction=(record and record.val_fraction) or DEFAULT_FRACTION,
            default_seed=(record and record.split_seed) or 0,
            training=training,
        )
        data = hold_out(data) if self.hold_out else data
        return data if self.limit is None else replace(data, train=subsample(data.train, self.limit))


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training: data, network, recipe and options of its execution.

    Attributes:
        source: The data.
        network: The network and its initial weights.
        recipe: The hyperparameters.
        run: Options of the execution.
        digest: `senet.data.Data.digest` of the data when the run started, empty before.
        division: `senet.data.Data.division` of the data when the run started, empty before.

    Example:
        >>> import contextlib, tempfile
        >>> from dataclasses import replace
        >>> from pathlib import Path
        >>> from senet.training import DataOptions, Job, ModelInitialization, recipe_named
        >>> job = Job(
        ...     source=DataOptions(data="digits", limit=64),
        ...     network=ModelInitialization(model="se_cifar_resnet20", options={"depth": 8}),
        ...     recipe=replace(recipe_named("digits"), epochs=1),
        ... )
        >>> folder = Path(tempfile.mkdtemp()) / "digits"
        >>> with contextlib.redirect_stderr(None):
        ...     outcome = job.start(folder)
        >>> len(outcome.rows), Job.read(folder).recipe == job.recipe
        (1, True)
    """

    source: DataOptions
    network: ModelInitialization
    recipe: Recipe
    run: RunOptions = field(default_factory=RunOptions)
    digest: str = ""
    division: str = ""

    def start(
        self,
        folder: Path,
        console: Console | None = None,
        *,
        notes: Mapping[str, Mapping[str, Any]] | None = None,
        data: Data | None = None,
    ) -> Outcome:
        """Start the training in a folder without a run.

        Args:
            folder: Folder of the run. It is made once all options are checked.
            console: Console for progress bar and messages, or None for standard error.
            notes: Further files to write to the folder: file name to content.
            data: The opened `source`, where it is open already.

        Raises:
            SenetError: The folder contains a run, another process uses it, it can't be written to, or an option is
                invalid.
        """
        self.refuse_used(folder)
        require_loggers(self.run)
        data = self.open_data(data)
        pinned = self.pinned(data)
        network = self.build(data)  # not from `pinned`, which would hash the file of the weights once more
        report_leaks(self.network, data, console)
        if network.new_head and self.recipe.train != "all":
            raise SenetError(
                f"--train {self.recipe.train} doesn't train the classifier, which is newly initialized: "
                f"{network.new_head}"
            )
        with _locked(folder):
            self.refuse_used(folder)  # again, now that no other process can start one
            _remove_partial_files(folder)
            if is_first_process():
                if network.new_head and self.network.weights != SCRATCH and console is not None:
                    line_printer(console)(f"the classifier is new: {network.new_head}")
                # `run.json` is written last. A run that is killed before this starts again.
                for name, content in {**(notes or {}), JOB: pinned.to_dict()}.items():
                    write_json(folder, name, content)
            return self._fit(network, data, folder, state=None, console=console)

    def pinned(self, data: Data) -> Job:
        """Return this job with the task and hash of its data, and the hash of its initial weights.

        Raises:
            CheckpointError: The file of the weights can't be read.
        """
        return replace(self, network=self.network.for_data(data).pinned(), digest=data.digest, division=data.division)

    def resume(self, folder: Path, console: Console | None = None, *, data: Data | None = None) -> Outcome:
        """Resume the run in a folder. Its number of epochs and the path of its data may have changed.

        Once a training state is saved, the initial weights are no longer needed. A finished run returns its result.

        Raises:
            SenetError: As in `start`. Or the data has changed, or the run has already trained more epochs.
        """
        report = line_printer(console or plain_console()) if is_first_process() else str
        with _locked(folder):
            _remove_partial_files(folder)
            status = self.status(folder, report=report)
            if status.state is not None and status.state.epoch > self.recipe.epochs:
                raise SenetError(f"{folder} has already trained {status.state.epoch} epochs; use a larger --epochs")
            if status.outcome is not None:
                return self._ended(folder, status.outcome, report)
            data = self.reopened(folder) if data is None else self.open_data(data)
            self.refuse_changed(folder, data)
            self._keep_changes(folder, data.digest, data.division)
            # A training state replaces the initial weights, so they are not read.
            job = replace(self, network=replace(self.network, weights=SCRATCH)) if status.state is not None else self
            return self._fit(job.build(data), data, folder, state=status.state, console=console)

    def status(self, folder: Path, *, report: Callable[[str], object] = str) -> RunStatus:
        """Return the status of this run in its folder, see `run_status`."""
        metric = task_named(self.network.task).metrics_for(self.recipe.metric)[0].key
        return run_status(
            folder, epochs=self.recipe.epochs, metric=metric, patience=self.recipe.patience, report=report
        )

    def _ended(self, folder: Path, outcome: Outcome, report: Callable[[str], object]) -> Outcome:
        if self.source != Job.read(folder).source:
            self.reopened(folder)
        if is_first_process():
            self._keep_changes(folder, self.digest, self.division)
            if read_outcome(folder, epochs=self.recipe.epochs) is None:  # the process was killed before writing it
                write_outcome(folder, outcome, epochs=self.recipe.epochs)
            done = round(outcome.rows[-1]["epoch"])
            more = (
                f"of {self.recipe.epochs} epochs by --patience {self.recipe.patience}; a larger --epochs has no effect"
                if done < self.recipe.epochs
                else "epochs; a larger --epochs trains longer"
            )
            report(f"{folder} finished after {done} {more}")
        return outcome

    def refuse_changed(self, folder: Path, data: Data) -> None:
        """Raise a `SenetError` if the data differs from the data of the run in the folder."""
        if self.digest not in ("", data.digest):
            raise SenetError(
                f"{data.name} differs from the data of the run in {folder}: images or labels were added, removed or "
                "changed; restore the data, or start a new run in another --out"
            )
        if self.division not in ("", data.division):
            raise SenetError(
                f"{data.name} is divided otherwise than in the run in {folder}: groups changed, or another release of "
                "senet or scikit-learn divides it; restore them, or start a new run in another --out"
            )

    def _keep_changes(self, folder: Path, digest: str, division: str) -> None:
        """Save a new number of epochs, a new path of the data, and the hashes of a run without them."""
        there = Job.read(folder)
        here = replace(there, source=self.source, recipe=self.recipe, digest=digest, division=division)
        if is_first_process() and here != there:
            write_json(folder, JOB, here.to_dict())

    def open_data(self, data: Data | None = None) -> Data:
        """Return the data, opened if it is not open already.

        Raises:
            SenetError: The data is for another task.
            DataError: The data can't be used.
        """
        data = data or self.source.open()
        if data.task != self.network.for_data(data).task:
            raise SenetError(f"{data.name} is for --task {data.task}, not for {self.network.task}")
        return data

    def reopened(self, folder: Path) -> Data:
        """Open the data of the run in a folder again. Its path may have changed.

        Raises:
            SenetError: The data can't be used, or has changed.
        """
        try:
            data = self.open_data()
        except DataError as error:
            kind, colon, _ = self.source.data.partition(":")
            raise DataError(
                f"{error}\nif the data has moved: --data {kind}:NEWPATH" if colon else f"{error}"
            ) from error
        self.refuse_changed(folder, data)
        return data

    def refuse_used(self, folder: Path) -> None:
        """Raise a `SenetError` if the folder contains a run."""
        if is_first_process() and holds_results(folder):
            raise SenetError(f"{folder} already contains a run; continue with --resume {folder}, or use another --out")

    def build(self, data: Data) -> Network:
        """Build the network with its initial weights. Random weights depend on the recipe's seed and their names."""
        import torch

        from senet.training.fit import Network
        from senet.training.initial_draws import InitialDraws

        init = self.network.for_data(data)
        preprocessing = init.preprocessing_for(data)
        torch.manual_seed(self.recipe.seed)  # for draws that can't be repeated
        with InitialDraws() as draws:
            initialized = init.build(data.classes, preprocessing)
        draws.repeat(initialized.model, self.recipe.seed)
        return Network(
            initialized.model,
            init.model,
            init.all_options(),
            preprocessing,
            new_head=initialized.new_head,
            task=init.task,
            head=init.whole_head(),
        )

    def _fit(
        self, network: Network, data: Data, folder: Path, *, state: TrainingState | None, console: Console | None
    ) -> Outcome:
        from senet.training.fit import fit

        return fit(network, data, self.recipe, folder, run=self.run, state=state, console=console)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary for `read`."""
        return {
            "source": asdict(self.source),
            **self.network.to_dict(),
            "recipe": self.recipe.to_dict(),
            "run": asdict(self.run),
            "digest": self.digest,
            "division": self.division,
        }

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Read the job of the run in a folder.

        Raises:
            CheckpointError: The folder contains no run, or `run.json` can't be read.
        """
        with reading(folder, JOB, "run to resume") as values:
            return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """Read the result of `to_dict`."""
        return cls(
            source=DataOptions(**values["source"]),
            network=ModelInitialization.from_dict(values),
            recipe=Recipe.from_dict(values["recipe"]),
            run=RunOptions(**values["run"]),
            digest=values["digest"],
            division=values.get("division", ""),
        )


def report_leaks(init: ModelInitialization, data: Data, console: Console | None) -> None:
    """Warn if validation images were training images of the initial weights."""
    from senet.data.listing import count_sampled

    record = init.trained_on()
    leaked = count_sampled(data.val, record.sample) if record and is_first_process() and console is not None else 0
    if leaked and console is not None:
        line_printer(console)(
            f"warning: the weights of {init.weights} were trained on {leaked:,} of the {len(data.val):,} validation "
            "images (same path and content); accuracies are higher than on new images"
        )


def _locked(folder: Path) -> AbstractContextManager[None]:
    """Return the folder's lock. In a distributed run, the first process takes it."""
    return lock_folder(folder) if is_first_process() else nullcontext()


def _remove_partial_files(folder: Path) -> None:
    """Remove partial files of a process that was killed while writing."""
    if is_first_process():
        for path in (*folder.glob(".*.tmp*"), *(folder / STATES).glob(".*.tmp*")):
            path.unlink(missing_ok=True)
