"""A whole training as it is asked for on a command line, written down so that it can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import SenetError
from senet.training.cluster import is_first_process
from senet.training.folder import JOB, STATES, holds_a_run, reading, write_json
from senet.training.lock import held
from senet.training.recipe import Recipe, RunOptions
from senet.training.start import BUILT, Start

if TYPE_CHECKING:
    from rich.console import Console

    from senet.data import Data
    from senet.training.fit import Network, Outcome

__all__ = ["DataOptions", "Job", "is_first_process"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which data, as in `senet.data.open_data`.

    Attributes:
        data: `digits`, `folder:PATH`, `cifar10`, ...
        val_fraction: Share to validate on, where the data isn't divided; None is its default.
        split_seed: What the choice of those images depends on.
        download: Fetch a published set that isn't there.
        root: Where published sets are kept.
        classes: Names of the classes, where boxes or masks don't say.
        instances: Masks hold numbers of single objects.
        limit: At most so many training images, drawn at random but always the same; None is all.
    """

    data: str
    val_fraction: float | None = None
    split_seed: int = 0
    download: bool = False
    root: str | None = None
    classes: tuple[str, ...] = ()
    instances: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))  # JSON, from which it is read, has lists only
        if self.limit is not None and self.limit < 1:
            raise SenetError(f"limit={self.limit} must be at least 1")

    def open(self) -> Data:
        """Open it."""
        from senet.data import open_data, thin

        data = open_data(
            self.data,
            val_fraction=self.val_fraction,
            seed=self.split_seed,
            download=self.download,
            root=self.root,
            classes=self.classes,
            instances=self.instances,
        )
        return data if self.limit is None else replace(data, train=thin(data.train, self.limit))


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training: data, network, recipe, and how it runs.

    Attributes:
        source: The data.
        network: Which network, and the weights that it begins with.
        recipe: What the training is.
        run: How it runs.
    """

    source: DataOptions
    network: Start
    recipe: Recipe
    run: RunOptions = field(default_factory=RunOptions)

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
        network = self.build(data)
        if network.new_head and self.recipe.train != "all":
            raise SenetError(
                f"--train {self.recipe.train} leaves the classifier as it is, which is new here: {network.new_head}"
            )
        with _held(folder):
            self.refuse_used(folder)  # now that nobody else can begin one
            if is_first_process():
                if network.new_head and self.network.weights != BUILT and console is not None:
                    console.print(f"the classifier is new: {network.new_head}", soft_wrap=True)
                for name, content in {JOB: self.to_dict(), **(notes or {})}.items():
                    write_json(folder, name, content)
            return self._fit(network, data, folder, resume=False, console=console)

    def resume(self, folder: Path, console: Console | None = None, *, data: Data | None = None) -> Outcome:
        """Go on with the run in a folder; the weights that it began with are needed no more."""
        with _held(folder):
            _tidy(folder)
            data = self.open_data(data)
            saved = any((folder / STATES).glob("*.ckpt"))
            job = replace(self, network=replace(self.network, weights=BUILT)) if saved else self
            return self._fit(job.build(data), data, folder, resume=True, console=console)

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

    def refuse_used(self, folder: Path) -> None:
        """Raise a `SenetError` if there is a run in the folder."""
        if is_first_process() and holds_a_run(folder):
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

    def _fit(self, network: Network, data: Data, folder: Path, *, resume: bool, console: Console | None) -> Outcome:
        from senet.training.fit import fit

        return fit(network, data, self.recipe, folder, run=self.run, resume=resume, console=console)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `read` reads it back."""
        return {
            "source": asdict(self.source),
            **self.network.to_dict(),
            "recipe": self.recipe.to_dict(),
            "run": asdict(self.run),
        }

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job of the run in a folder.

        Raises:
            CheckpointError: There is none, or it can't be read.
        """
        with reading(folder, JOB, "run to resume") as values:
            return cls(
                source=DataOptions(**values["source"]),
                network=Start.from_dict(values),
                recipe=Recipe.from_dict(values["recipe"]),
                run=RunOptions(**values["run"]),
            )


def _held(folder: Path) -> AbstractContextManager[None]:
    """The folder's lock; of a distributed run, the first process has it."""
    return held(folder) if is_first_process() else nullcontext()


def _tidy(folder: Path) -> None:
    """Remove what a process that was killed while writing has left half-written."""
    if is_first_process():
        for path in (*folder.glob(".*.tmp*"), *(folder / STATES).glob(".*.tmp*")):
            path.unlink(missing_ok=True)
