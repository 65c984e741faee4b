"""`senet evaluate` and `senet predict` for detection and segmentation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from senet.cli import image_options
from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_split, print_table, print_unreadable, span
from senet.cli.output_names import output_names, refuse_images, relative_paths
from senet.cli.predictions import ENDINGS, write_boxes, write_masks
from senet.console import printable
from senet.errors import SenetError

if TYPE_CHECKING:
    from senet.data import DenseSource
    from senet.inference import DensePrediction
    from senet.zoo import LoadedModel

__all__ = ["evaluate", "percent", "predict"]

BATCH = 8

SURE = 0.5
"""Smallest score of a drawn box."""


def evaluate(options: argparse.Namespace, loaded: LoadedModel) -> int:
    """Evaluate and print."""
    from senet.data.checks import check_masks
    from senet.inference import choose_split, evaluate_dense
    from senet.reports import report_dense
    from senet.tasks import task_named
    from senet.training.fit import check_annotations

    description = loaded.metadata
    data = shared.data_to_evaluate(options, description.data)
    shared.check_task(data, loaded, options)
    check_annotations(data, lambda line: print(printable(line), file=sys.stderr))
    chosen = choose_split(data, description.data, options.split)
    check_masks(data, data.splits if chosen.split == "all" else [chosen.split], training=False)
    about = {"checkpoint": options.checkpoint, "model": description.model, "task": description.task,
             "data": data.name} | chosen.to_dict() | image_options.described(options, loaded)  # fmt: skip
    source: DenseSource = chosen.source  # type: ignore[assignment]
    settings: dict[str, Any] = {
        "batch_size": options.batch_size or BATCH,
        "precision": options.precision,
        "workers": options.workers,
        "tta": options.tta or "",
    }
    with counting("evaluating") as progress:
        if options.report is None:
            result = evaluate_dense(loaded, source, data.classes, progress=progress, **settings)
            document = about | result.to_dict()
        else:
            result, document = report_dense(
                options.report, loaded, source, data.classes, about=about, progress=progress, **settings
            )
    if options.json:
        print_json(document)
        return 0
    metrics = task_named(description.task).metrics
    row = [f"{result.images:,}", *(f"{result.metrics[s.key]:.2%}" for s in metrics), f"{result.seconds:.1f}"]
    head = ("images", *(s.title for s in metrics), "seconds")
    spans = ["95 % of images", *(span(result.intervals.get(s.key)) for s in metrics), ""]
    print_table(
        head, [row, spans], title=f"{description.model} on {data.name}{image_options.in_words(options)}", left=0
    )
    print_split(chosen)
    print_unreadable(result.unreadable)
    if result.per_class and (options.per_class or description.task == "segmentation"):
        keys = list(next(iter(result.per_class.values())))
        rows = [[name, *map(percent, values.values())] for name, values in result.per_class.items()]
        print_table(("class", *(FIGURES.get(key, key) for key in keys)), rows)
    if options.report is not None:
        print(f"open {options.report / 'index.html'}")
    return 0


FIGURES = {"iou": "IoU", "dice": "Dice", "map": "mAP"}
"""Return the column heads of the metrics of a class."""


def percent(value: float | None) -> str:
    """Format a fraction, or a dash for None."""
    return "-" if value is None else f"{value:.2%}"


def predict(options: argparse.Namespace, loaded: LoadedModel, paths: list[str]) -> int:
    """Write images with boxes and COCO's JSON, or masks and overlays."""
    from senet.inference import predict_dense

    task = loaded.metadata.task
    _check(options, task)
    write = _writer(options, loaded, paths)
    options.out.mkdir(parents=True, exist_ok=True)
    with counting("predicting") as progress:
        rows = predict_dense(
            loaded,
            paths,
            batch_size=options.batch_size or BATCH,
            precision=options.precision,
            tta=options.tta or "",
            progress=progress,
        )
        bad = write(rows)
    unread = f", {bad} of them can't be read" if bad else ""
    print(f"{len(paths)} images{unread}; in {options.out}: {WRITTEN[task]}")
    return 0 if bad < len(paths) else 1


def _writer(
    options: argparse.Namespace, loaded: LoadedModel, paths: list[str]
) -> Callable[[Iterator[DensePrediction]], int]:
    """Return a function that writes predictions and counts unreadable images. Invalid options raise at once."""
    task = loaded.metadata.task
    places = [options.out / name for name in output_names(options.paths, paths)]
    outputs = [place.with_name(place.name + ending) for place in places for ending in ENDINGS[task]]
    refuse_images([*outputs, *(options.out / name for name in JSON_FILES)], paths)
    if task != "detection":
        return partial(write_masks, places, loaded=loaded)
    entries, categories = _numbers(options, loaded, paths)
    least = SURE if options.score_threshold is None else options.score_threshold
    return partial(
        write_boxes, places, loaded=loaded, folder=options.out, entries=entries, categories=categories, least=least
    )


WRITTEN = {
    "detection": "NAME.boxes.jpg, predictions.json (COCO's results), images.json (their images and categories)",
    "segmentation": "NAME.mask.png with class numbers, NAME.overlay.jpg",
}
"""Describe the written files."""

JSON_FILES = ("predictions.json", "images.json")


def _check(options: argparse.Namespace, task: str) -> None:
    """Raise a `SenetError` for options that are missing or have no effect on this task."""
    if options.out is None:
        raise SenetError(f"--out DIR is missing: where the images of this {task} network go")
    if options.topk is not None or options.json:
        raise SenetError(f"--{'json' if options.json else 'topk'} is for classifiers; boxes and masks go into --out")
    if options.workers is not None:
        raise SenetError(f"--workers {options.workers} has no effect on a {task} network")
    if task != "detection":
        for name in ("score_threshold", "annotations"):
            if getattr(options, name) is not None:
                raise SenetError(f"--{name.replace('_', '-')} is for detectors; each pixel of a mask has one class")
    if options.out.is_file():
        raise SenetError(f"--out {options.out} is a file; boxes and masks go into a folder")


def _numbers(
    options: argparse.Namespace, loaded: LoadedModel, paths: list[str]
) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """Return `id` and `file_name` of each image, and COCO's number of each class."""
    from senet.data.coco_file import category_numbers, listed_images, read_coco_file
    from senet.tasks.detection.results import category_ids

    if options.annotations is None:
        relative = relative_paths(options.paths, paths)
        return [{"id": n, "file_name": name} for n, name in enumerate(relative, 1)], category_ids(loaded.metadata)
    listed = read_coco_file(options.annotations, annotated=False)
    return listed_images(listed, paths), category_numbers(listed, loaded.classes)
