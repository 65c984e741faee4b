"""A complete comparison: networks, seeds and data. It is saved so that it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from senet.comparison.variant import Variant
from senet.errors import SenetError, UnknownNameError
from senet.tasks import CLASSIFICATION
from senet.training.folder import reading, write_json
from senet.training.job import DataOptions, Job
from senet.training.recipe import RunOptions

__all__ = ["DECISIVE", "PLAN", "Comparison", "Run"]

PLAN = "plan.json"
"""File with the requested comparison."""
DECISIVE = ("precision", "accelerate", "tf32")
"""Options of the execution that change results. All trainings of a comparison share them."""


@dataclass(frozen=True)
class Run:
    """One training of the comparison.

    Attributes:
        variant: Name of the variant.
        seed: Seed of the run.
        job: The training.
        folder: Folder of the run, as `senet train` writes it.
    """

    variant: str
    seed: int
    job: Job
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison of variants on the same data and seeds.

    Attributes:
        source: The data.
        variants: The variants to compare.
        seeds: Seeds. Each variant is trained once with each.
        run: Options of the trainings' execution.
        sizes: Further image sizes for evaluation, in pixels.
        title: Title of the report.
        timing_seconds: Seconds for timing the networks in turns, in inference and training. 0 skips timing.
        command: The command line.
    """

    source: DataOptions
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    run: RunOptions = field(default_factory=RunOptions)
    sizes: tuple[int, ...] = ()
    title: str = ""
    timing_seconds: float = 10.0
    command: str = ""

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        double = {name for name in names if names.count(name) > 1}
        if double:
            raise SenetError(f"two variants have the name {min(double)!r}; names must be unique")
        for variant in self.variants:
            if variant.against and variant.against not in names:
                raise UnknownNameError("variant to compare with", variant.against, names)
        tasks = sorted({variant.init.task for variant in self.variants})
        if len(tasks) > 1:
            raise SenetError(f"networks for {tasks[0]} and for {tasks[1]} can't be compared")
        if self.sizes and tasks != [CLASSIFICATION]:
            raise SenetError(f"--test-sizes needs classification, not {tasks[0]}")
        if not self.seeds:
            raise SenetError("a comparison needs at least one seed")

    @property
    def task(self) -> str:
        """Task of all its networks."""
        return self.variants[0].init.task

    def training_runs(self, folder: Path) -> Iterator[Run]:
        """Yield all trainings, seed by seed, so that an interrupted comparison has complete pairs."""
        for seed in self.seeds:
            for variant in self.variants:
                yield Run(variant.name, seed, self.job(variant, seed), folder / f"{variant.name}-seed{seed}")

    def job(self, variant: Variant, seed: int) -> Job:
        """Return the training of a variant with a seed."""
        recipe = replace(variant.recipe, seed=seed)
        return Job(source=self.source, network=variant.init, recipe=recipe, run=self.run)

    def baseline(self, variant: Variant) -> Variant | None:
        """Return the variant to compare with, if any."""
        return next((other for other in self.variants if other.name == variant.against), None)

    def trains_as(self, other: Comparison) -> bool:
        """Whether both have the same trainings, apart from options of the execution."""
        return self._trainings() == other._trainings()

    def _trainings(self) -> str:
        # Through JSON, since a comparison from a file has lists instead of tuples.
        variants = [variant.to_dict() for variant in self.variants]
        return json.dumps([asdict(self.source), variants, self.seeds, *(getattr(self.run, name) for name in DECISIVE)])

    def write(self, folder: Path) -> None:
        """Write the plan to a folder.

        Raises:
            SenetError: The folder can't be written to.
        """
        variants = [variant.to_dict() for variant in self.variants]
        write_json(folder, PLAN, asdict(self) | {"variants": variants})

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """Read the plan from a folder.

        Raises:
            CheckpointError: The plan is missing or can't be read.
        """
        with reading(folder, PLAN, "comparison to resume") as values:
            given = {
                "source": DataOptions(**values["source"]),
                "variants": tuple(map(Variant.from_dict, values["variants"])),
                "run": RunOptions(**values["run"]),
            }
            tuples = {name: tuple(values[name]) for name in ("seeds", "sizes")}
            return cls(**values | given | tuples)
