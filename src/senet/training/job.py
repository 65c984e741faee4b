"""A whole training as it is asked for on a command line, written down so that it can be resumed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import CheckpointError, SenetError
from senet.preprocessing import Preprocessing
from senet.training.folder import JOB, holds_a_run
from senet.training.recipe import Recipe, RunOptions

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
    """

    data: str
    val_fraction: float | None = None
    split_seed: int = 0
    download: bool = False
    root: str | None = None

    def open(self) -> Data:
        """Open it."""
        from senet.data import open_data

        return open_data(
            self.data, val_fraction=self.val_fraction, seed=self.split_seed, download=self.download, root=self.root
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training: data, network, recipe, and how it runs.

    Attributes:
        source: The data.
        model: A name of `list_models()`, or `module:function`.
        options: The network's options, JSON-ready.
        size: Height and width of the images; None leaves it to the data, else to the network.
        recipe: What the training is.
        run: How it runs.
    """

    source: DataOptions
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    recipe: Recipe
    run: RunOptions = field(default_factory=RunOptions)

    def start(self, folder: Path, console: Console | None = None) -> Outcome:
        """Train into a folder that holds no run yet.

        Raises:
            SenetError: There is a run in it, it can't be written to, or the training can't work.
        """
        if is_first_process() and holds_a_run(folder):
            raise SenetError(f"{folder} holds a run already; go on with --resume {folder}, or choose another --out")
        data = self.source.open()
        network = self.network(data)
        if is_first_process():
            self._write(folder)
        return self._fit(network, data, folder, resume=False, console=console)

    def resume(self, folder: Path, console: Console | None = None) -> Outcome:
        """Go on with the run in a folder."""
        data = self.source.open()
        return self._fit(self.network(data), data, folder, resume=True, console=console)

    def _fit(self, network: Network, data: Data, folder: Path, *, resume: bool, console: Console | None) -> Outcome:
        from senet.training.fit import fit

        return fit(network, data, self.recipe, folder, run=self.run, resume=resume, console=console)

    def preprocessing(self, data: Data) -> Preprocessing:
        """The user's size, on the data's own path, else on the network's."""
        own = data.default_preprocessing
        if own is None and ":" not in self.model:
            from senet.zoo import model_spec

            own = model_spec(self.model).preprocessing
        own = own or Preprocessing()
        return replace(own, size=self.size) if self.size else own

    def network(self, data: Data) -> Network:
        """The network with fresh weights, which depend on the recipe's seed alone."""
        import torch

        from senet.training.fit import Network
        from senet.zoo import build_model

        preprocessing = self.preprocessing(data)
        torch.manual_seed(self.recipe.seed)
        model = build_model(
            self.model, num_classes=len(data.classes), in_channels=preprocessing.in_channels, **self.options
        )
        return Network(model, self.model, self.options, preprocessing)

    def _write(self, folder: Path) -> None:
        from senet.weights import write_atomically

        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
            write_atomically(folder / JOB, lambda path: path.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise SenetError(f"--out {folder} can't be written to: {error.strerror}") from error

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `read` reads it back."""
        return {
            "source": asdict(self.source),
            "model": self.model,
            "options": self.options,
            "size": self.size and list(self.size),
            "recipe": self.recipe.to_dict(),
            "run": asdict(self.run),
        }

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job of the run in a folder.

        Raises:
            CheckpointError: There is none, or it can't be read.
        """
        path = folder / JOB
        if not path.is_file():
            raise CheckpointError(f"{folder} holds no run to resume: it has no {JOB}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                source=DataOptions(**values["source"]),
                model=values["model"],
                options=values["options"],
                size=tuple(values["size"]) if values["size"] else None,
                recipe=Recipe.from_dict(values["recipe"]),
                run=RunOptions(**values["run"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} can't be read: {error}") from error


def is_first_process() -> bool:
    """Whether this is the process of a distributed run that speaks and writes."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0
