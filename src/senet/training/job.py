"""A whole training as it is asked for on a command line, written down so that it can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.console import plain_console, teller
from senet.errors import DataError, SenetError
from senet.tasks import task_named
from senet.training.cluster import is_first_process
from senet.training.folder import JOB, STATES, reading, write_json
from senet.training.lock import lock_folder
from senet.training.model_initialization import BUILT, ModelInitialization
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
    """Which data, as in `senet.data.open_data`.

    Attributes:
        data: `digits`, `folder:PATH`, `cifar10`, ...
        val_fraction: Share to validate on, where the data isn't divided; None is its default.
        split_seed: What the choice of those images depends on; None is its default.
        download: Fetch a published set that isn't there.
        root: Where published sets are kept.
        classes: Names of the classes, where boxes or masks don't say.
        instances: Masks hold numbers of single objects.
        limit: At most so many training images, drawn at random but always the same; None is all.
        white: What is white in 16-bit images, or `"auto"`; None leaves it to the network.
        hold_out: Hold half of the validation images out from choosing the epoch, where there is no test part.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))  # JSON, from which it is read, has lists only
        if self.limit is not None and self.limit < 1:
            raise SenetError(f"limit={self.limit} must be at least 1")

    def absolute(self) -> DataOptions:
        """The same data, at places that hold in any working directory."""
        from senet.data.request import absolute_name, absolute_path

        return replace(self, data=absolute_name(self.data), root=self.root and absolute_path(self.root))

    def open(self, *, record: DataRecord | None = None, training: bool = True) -> Data:
        """Open it.

        Args:
            record: What a network was trained on. Undivided data is divided as then, unless these options say else.
            training: As in `senet.data.open_data`.
        """
        from senet.data import hold_out, open_data, subsample
        from senet.data.request import DEFAULT_FRACTION

        data = open_data(
            self.data,
            val_fraction=self.val_fraction,
            seed=self.split_seed,
            download=self.download,
            root=self.root,
            classes=self.classes,
            instances=self.instances,
            white=self.white,
            default_fraction=(record and record.val_fraction) or DEFAULT_FRACTION,
            default_seed=(record and record.split_seed) or 0,
            training=training,
        )
        data = hold_out(data) if self.hold_out else data
        return data if self.limit is None else replace(data, train=subsample(data.train, self.limit))


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training: data, network, recipe, and how it runs.

    Attributes:
        source: The data.
        network: Which network, and the weights that it begins with.
        recipe: What the training is.
        run: How it runs.
        digest: `senet.data.Data.digest` of the data that the run began with; empty before it begins.
    """

    source: DataOptions
    network: ModelInitialization
    recipe: Recipe
    run: RunOptions = field(default_factory=RunOptions)
    digest: str = ""

    def start(
        self,
        folder: Path,
        console: Console | None = None,
        *,
        notes: Mapping[str, Mapping[str, Any]] | None = None,
        data: Data | None = None,
    ) -> Outcome:
        """Train into a folder that holds no run yet.

        Args:
            folder: Is made if need be, once everything is known to be in order.
            console: For bar and messages; standard error if None.
            notes: What else to leave in it: file name to content.
            data: `source`, where it is open already.

        Raises:
            SenetError: There is a run in it, another process trains into it, it can't be written to, or the training
                can't work.
        """
        self.refuse_used(folder)
        data = self.open_data(data)
        begun = self.begun(data)
        network = self.build(data)  # not `begun`, which would read the file of the weights once more
        report_leaks(self.network, data, console)
        if network.new_head and self.recipe.train != "all":
            raise SenetError(
                f"--train {self.recipe.train} leaves the classifier as it is, which is new here: {network.new_head}"
            )
        with _held(folder):
            self.refuse_used(folder)  # now that nobody else can begin one
            _tidy(folder)
            if is_first_process():
                if network.new_head and self.network.weights != BUILT and console is not None:
                    teller(console)(f"the classifier is new: {network.new_head}")
                # What makes it a run goes last: whoever is killed before begins anew.
                for name, content in {**(notes or {}), JOB: begun.to_dict()}.items():
                    write_json(folder, name, content)
            return self._fit(network, data, folder, state=None, console=console)

    def begun(self, data: Data) -> Job:
        """This with the hashes of what it begins with: its data and its weights.

        Raises:
            CheckpointError: The weights' file can't be read.
        """
        return replace(self, network=self.network.pinned(), digest=data.digest)

    def resume(self, folder: Path, console: Console | None = None, *, data: Data | None = None) -> Outcome:
        """Go on with the run in a folder, which may have changed in length, or have its data elsewhere.

        Once a training state is saved, the weights that the run began with are needed no more. Of a run that has
        ended, this is the result.

        Raises:
            SenetError: As `start`; or the data has changed, or the run has trained more epochs than that already.
        """
        tell = teller(console or plain_console()) if is_first_process() else str
        with _held(folder):
            _tidy(folder)
            status = self.status(folder, tell=tell)
            if status.state is not None and status.state.epoch > self.recipe.epochs:
                raise SenetError(f"{folder} has trained {status.state.epoch} epochs already; --epochs takes more")
            if status.outcome is not None:
                return self._ended(folder, status.outcome, tell)
            data = self.reopened(folder) if data is None else self.open_data(data)
            self.refuse_changed(folder, data)
            self._keep_changes(folder, data.digest)
            # What a training state replaces is not read again.
            job = replace(self, network=replace(self.network, weights=BUILT)) if status.state is not None else self
            return self._fit(job.build(data), data, folder, state=status.state, console=console)

    def status(self, folder: Path, *, tell: Callable[[str], object] = str) -> RunStatus:
        """Where this run, in its folder, stands; see `run_status`."""
        score = task_named(self.network.task).metrics[0].key
        return run_status(folder, epochs=self.recipe.epochs, score=score, patience=self.recipe.patience, tell=tell)

    def _ended(self, folder: Path, outcome: Outcome, tell: Callable[[str], object]) -> Outcome:
        if self.source != Job.read(folder).source:
            self.reopened(folder)
        if is_first_process():
            self._keep_changes(folder, self.digest)
            if read_outcome(folder, epochs=self.recipe.epochs) is None:  # the process was killed right before
                write_outcome(folder, outcome, epochs=self.recipe.epochs)
            done = round(outcome.rows[-1]["epoch"])
            more = (
                f"of {self.recipe.epochs} epochs, as --patience {self.recipe.patience} says: no longer one changes that"
                if done < self.recipe.epochs
                else "epochs; a larger --epochs trains longer"
            )
            tell(f"{folder} has ended, after {done} {more}")
        return outcome

    def refuse_changed(self, folder: Path, data: Data) -> None:
        """Raise a `SenetError` if the data is not what the run in the folder began with."""
        if self.digest not in ("", data.digest):
            raise SenetError(
                f"{data.name} is not the data that the run in {folder} began with: images or labels were added, "
                "removed or changed; bring the data back, or start anew in another --out"
            )

    def _keep_changes(self, folder: Path, digest: str) -> None:
        """Write down a new length, a new place of the data, and the digest of a run that begins."""
        there = Job.read(folder)
        here = replace(there, source=self.source, recipe=self.recipe, digest=digest)
        if is_first_process() and here != there:
            write_json(folder, JOB, here.to_dict())

    def open_data(self, data: Data | None = None) -> Data:
        """The data, perhaps open already.

        Raises:
            SenetError: It is for another task.
            DataError: It can't be used.
        """
        data = data or self.source.open()
        if data.task != self.network.task:
            raise SenetError(f"{data.name} is for --task {data.task}, not for {self.network.task}")
        return data

    def reopened(self, folder: Path) -> Data:
        """The data that the run in a folder began with, which may have moved since.

        Raises:
            SenetError: It can't be used, or has changed.
        """
        try:
            data = self.open_data()
        except DataError as error:
            kind, colon, _ = self.source.data.partition(":")
            raise DataError(
                f"{error}\nif the data has moved: --data {kind}:NEWPLACE" if colon else f"{error}"
            ) from error
        self.refuse_changed(folder, data)
        return data

    def refuse_used(self, folder: Path) -> None:
        """Raise a `SenetError` if there is a run in the folder."""
        if is_first_process() and holds_results(folder):
            raise SenetError(f"{folder} holds a run already; go on with --resume {folder}, or choose another --out")

    def build(self, data: Data) -> Network:
        """The network as the training begins with it; what is random in it depends on the recipe's seed alone."""
        import torch

        from senet.training.fit import Network

        preprocessing = self.network.images(data)
        torch.manual_seed(self.recipe.seed)
        started = self.network.build(data.classes, preprocessing)
        return Network(
            started.model,
            self.network.model,
            self.network.all_options(),
            preprocessing,
            new_head=started.new_head,
            task=self.network.task,
            head=self.network.whole_head(),
        )

    def _fit(
        self, network: Network, data: Data, folder: Path, *, state: TrainingState | None, console: Console | None
    ) -> Outcome:
        from senet.training.fit import fit

        return fit(network, data, self.recipe, folder, run=self.run, state=state, console=console)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `read` reads it back."""
        return {
            "source": asdict(self.source),
            **self.network.to_dict(),
            "recipe": self.recipe.to_dict(),
            "run": asdict(self.run),
            "digest": self.digest,
        }

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job of the run in a folder.

        Raises:
            CheckpointError: There is none, or it can't be read.
        """
        with reading(folder, JOB, "run to resume") as values:
            return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """Read what `to_dict` wrote."""
        return cls(
            source=DataOptions(**values["source"]),
            network=ModelInitialization.from_dict(values),
            recipe=Recipe.from_dict(values["recipe"]),
            run=RunOptions(**values["run"]),
            digest=values["digest"],
        )


def report_leaks(start: ModelInitialization, data: Data, console: Console | None) -> None:
    """Warn where a training is validated on images that the weights it begins with were trained on."""
    from senet.data.listing import count_sampled

    record = start.trained_on()
    leaked = count_sampled(data.val, record.sample) if record and is_first_process() and console is not None else 0
    if leaked and console is not None:
        teller(console)(
            f"warning: the weights of {start.weights} were trained on {leaked:,} of the {len(data.val):,} validation "
            "images (same path, same content): accuracies are better than on new images"
        )


def _held(folder: Path) -> AbstractContextManager[None]:
    """The folder's lock; of a distributed run, the first process has it."""
    return lock_folder(folder) if is_first_process() else nullcontext()


def _tidy(folder: Path) -> None:
    """Remove what a process that was killed while writing has left half-written."""
    if is_first_process():
        for path in (*folder.glob(".*.tmp*"), *(folder / STATES).glob(".*.tmp*")):
            path.unlink(missing_ok=True)
