"""A whole comparison as it was asked for: which networks, which seeds, on what; written down, so that it goes on."""

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

__all__ = ["PLAN", "Comparison", "Run"]

PLAN = "plan.json"
"""What was asked for."""


@dataclass(frozen=True)
class Run:
    """One training of the comparison.

    Attributes:
        variant: Name of what is trained.
        seed: Of this run.
        job: The training.
        folder: Where it goes: an ordinary run's folder.
    """

    variant: str
    seed: int
    job: Job
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Which networks are trained, on what, with which seeds.

    Attributes:
        source: The data.
        variants: What is compared.
        seeds: Each variant is trained once with each.
        run: How the trainings run.
        sizes: Other image sizes to evaluate at, pixels.
        title: What this is, in words.
        timing_seconds: How long the networks are timed in turns, for inference and for training; 0 leaves it out.
        command: As it was called.
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
            raise SenetError(f"two variants are called {min(double)!r}; give each its own name")
        for variant in self.variants:
            if variant.against and variant.against not in names:
                raise UnknownNameError("variant to compare with", variant.against, names)
        tasks = sorted({variant.start.task for variant in self.variants})
        if len(tasks) > 1:
            raise SenetError(f"networks for {tasks[0]} and for {tasks[1]} can't be compared")
        if self.sizes and tasks != [CLASSIFICATION]:
            raise SenetError(f"--test-sizes is for classification; here it is {tasks[0]}")
        if not self.seeds:
            raise SenetError("a comparison needs at least one seed")

    @property
    def task(self) -> str:
        """What all its networks are trained for."""
        return self.variants[0].start.task

    def training_runs(self, folder: Path) -> Iterator[Run]:
        """All trainings, seed by seed, so that one that was stopped early holds whole pairs."""
        for seed in self.seeds:
            for variant in self.variants:
                yield Run(variant.name, seed, self.job(variant, seed), folder / f"{variant.name}-seed{seed}")

    def job(self, variant: Variant, seed: int) -> Job:
        """One training."""
        recipe = replace(variant.recipe, seed=seed)
        return Job(source=self.source, network=variant.start, recipe=recipe, run=self.run)

    def baseline(self, variant: Variant) -> Variant | None:
        """What it is compared with."""
        return next((other for other in self.variants if other.name == variant.against), None)

    def trains_as(self, other: Comparison) -> bool:
        """Whether both ask for the same trainings, however these run."""
        return self._trainings() == other._trainings()

    def _trainings(self) -> str:
        # Through JSON, as what was read from a file has been: a tuple has become a list.
        variants = [variant.to_dict() for variant in self.variants]
        return json.dumps([asdict(self.source), variants, self.seeds, self.run.precision])

    def write(self, folder: Path) -> None:
        """Write it down.

        Raises:
            SenetError: The folder can't be written to.
        """
        variants = [variant.to_dict() for variant in self.variants]
        write_json(folder, PLAN, asdict(self) | {"variants": variants})

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """What `write` wrote.

        Raises:
            CheckpointError: There is none, or it can't be read.
        """
        with reading(folder, PLAN, "comparison to go on with") as values:
            given = {
                "source": DataOptions(**values["source"]),
                "variants": tuple(map(Variant.from_dict, values["variants"])),
                "run": RunOptions(**values["run"]),
            }
            tuples = {name: tuple(values[name]) for name in ("seeds", "sizes")}
            return cls(**values | given | tuples)
