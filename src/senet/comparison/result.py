"""The results of a comparison so far: each run's last epoch, by variant, with differences and verdicts."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from senet.comparison.measuring import TrainingCost
from senet.comparison.plan import Comparison
from senet.comparison.running import finished_rows
from senet.comparison.statistics import Difference, paired, spread, verdict
from senet.tasks import task_named
from senet.training.folder import LAST

__all__ = ["RESULT", "collect"]

RESULT = "compare.json"
"""File with all results of the comparison."""


def collect(
    comparison: Comparison,
    folder: Path,
    *,
    training_costs: dict[str, TrainingCost] | None = None,
    sizes: dict[str, dict[int, dict[str, Any]]] | None = None,
    failed: Sequence[str] = (),
    machine: str = "",
) -> dict[str, Any]:
    """Collect all results, JSON-ready.

    The last epoch counts, since the best one would be chosen on the images that it is measured on.

    Args:
        comparison: The comparison.
        folder: Folder of its runs.
        training_costs: Result of `measuring.training_costs`.
        sizes: Variant to seed to the result of `sizes.at_sizes`.
        failed: A sentence for each run whose loss became non-finite.
        machine: Description of the machine.
    """
    metric = task_named(comparison.task).metrics[0]
    column = f"val_{metric.key}"
    runs: dict[str, dict[int, list[dict[str, float]]]] = {variant.name: {} for variant in comparison.variants}
    for training_run in comparison.training_runs(folder):
        rows = finished_rows(training_run.folder)
        if rows:
            runs[training_run.variant][training_run.seed] = rows
    images = _validated_on(comparison, folder)
    found = {}
    for variant in comparison.variants:
        own, others = _last(runs[variant.name], column), _last(runs.get(variant.against, {}), column)
        cost = (training_costs or {}).get(variant.name)
        difference = paired(own, others, images=images) if variant.against else None
        found[variant.name] = {
            "model": variant.init.model,
            "options": variant.init.all_options(),
            "weights": variant.init.weights,
            "recipe": variant.recipe.to_dict(),
            "against": variant.against or None,
            "published": variant.published or None,
            "note": variant.note or None,
            "runs": {str(seed): _run(rows, column) for seed, rows in runs[variant.name].items()},
            "metric_percent": asdict(spread(list(own.values()))) if own else None,
            "difference_points": asdict(difference) if difference else None,
            "verdict": _verdict(difference, cost),
            "training_seconds": asdict(spread(list(_seconds(runs[variant.name]).values()))) if own else None,
            "cost": cost.to_dict() if cost else None,
            "sizes": _sizes((sizes or {}).get(variant.name, {}), (sizes or {}).get(variant.against, {}), images=images),
        }
    return {
        "format": 3,
        "title": comparison.title,
        "task": comparison.task,
        "metric": asdict(metric),
        "data": comparison.source.data,
        "validation_images": images,
        "training_image_limit": comparison.source.limit,
        "seeds": list(comparison.seeds),
        "precision": comparison.run.precision,
        "accelerate": comparison.run.accelerate,
        "tf32": comparison.run.tf32,
        "finished_runs": sum(map(len, runs.values())),
        "runs": len(comparison.variants) * len(comparison.seeds),
        "failed": list(failed),
        "variants": found,
        "machine": machine,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": _versions(),
    }


def _validated_on(comparison: Comparison, folder: Path) -> int | None:
    """Return the number of validation images from the checkpoints, the smallest one if they differ."""
    found = []
    for training_run in comparison.training_runs(folder):
        file = (training_run.folder / LAST).with_suffix(".json")
        if file.is_file():
            record = json.loads(file.read_text(encoding="utf-8")).get("data")
            found += [record["val"]] if record else []
    return min(found, default=None)


def _last(runs: dict[int, list[dict[str, float]]], column: str) -> dict[int, float]:
    """Return the metric of the last epoch in percent, by seed."""
    return {seed: 100 * rows[-1][column] for seed, rows in runs.items()}


def _seconds(runs: dict[int, list[dict[str, float]]]) -> dict[int, float]:
    return {seed: sum(row["seconds"] for row in rows) for seed, rows in runs.items()}


def _run(rows: list[dict[str, float]], column: str) -> dict[str, Any]:
    best = max(rows, key=lambda row: row[column])
    return {
        "metric": rows[-1][column],
        "best_metric": best[column],
        "best_epoch": best["epoch"],
        "epochs": rows[-1]["epoch"],
        "seconds": sum(row["seconds"] for row in rows),
        "curve": [row[column] for row in rows],
        "last_epoch": rows[-1],
    }


def _verdict(difference: Difference | None, cost: TrainingCost | None) -> str | None:
    return None if difference is None else verdict(difference, cost.step_ratio if cost else None)


def _sizes(
    own: dict[int, dict[str, Any]], others: dict[int, dict[str, Any]], *, images: int | None
) -> dict[str, Any] | None:
    """Return accuracy, difference and the shift of each block for each size, averaged over the seeds."""
    if not own:
        return None
    first = next(iter(own.values()))
    found = {}
    for size in first["top1"]:
        here = {seed: 100 * values["top1"][size] for seed, values in own.items()}
        there = {seed: 100 * values["top1"][size] for seed, values in others.items() if size in values["top1"]}
        difference = paired(here, there, images=images)
        shifts = [values["shift"].get(size, {}) for values in own.values()]
        found[size] = {
            "metric_percent": asdict(spread(list(here.values()))),
            "difference_points": asdict(difference) if difference else None,
            "shift": {block: sum(s[block] for s in shifts) / len(shifts) for block in shifts[0]},
            "training_size": size == first["train_size"],
        }
    return found


def _versions() -> dict[str, str]:
    import lightning
    import torch
    import torchvision

    from senet import __version__

    libraries = {module.__name__: str(module.__version__) for module in (torch, torchvision, lightning)}
    return {"senet": __version__, "python": platform.python_version(), **libraries}
