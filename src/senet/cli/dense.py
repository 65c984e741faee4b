"""What `evaluate` and `predict` do with networks whose answers lie in the picture."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_table, span, tell_part
from senet.errors import SenetError

if TYPE_CHECKING:
    from senet.inference import Seen
    from senet.zoo import LoadedModel

__all__ = ["evaluate", "predict"]

BATCH = 8

SURE = 0.5
"""Least score of a box that is drawn."""


def evaluate(options: argparse.Namespace, loaded: LoadedModel) -> int:
    """Evaluate and print."""
    from senet.data.checks import check_masks
    from senet.inference import chosen_part, evaluate_dense
    from senet.tasks import task_named
    from senet.training.fit import check_annotations

    description = loaded.description
    data = shared.data_to_evaluate(options, description.data)
    if data.task != description.task:
        raise SenetError(f"{data.name} is for {data.task}; {options.checkpoint} is for {description.task}")
    check_annotations(data, lambda line: print(line, file=sys.stderr))
    part = chosen_part(data, description.data, options.split)
    check_masks(data, data.parts if part.split == "all" else [part.split], training=False)
    with counting("evaluating") as progress:
        result = evaluate_dense(
            loaded,
            part.source,  # type: ignore[arg-type]
            data.classes,
            batch_size=options.batch_size or BATCH,
            precision=options.precision,
            workers=options.workers,
            progress=progress,
        )
    if options.json:
        what = {"checkpoint": options.checkpoint, "model": description.model, "task": description.task,
                "data": data.name}  # fmt: skip
        print_json(what | part.to_dict() | result.to_dict())
        return 0
    scores = task_named(description.task).scores
    row = [f"{result.images:,}", *(f"{result.scores[s.key]:.2%}" for s in scores), f"{result.seconds:.1f}"]
    head = ("images", *(s.title for s in scores), "seconds")
    spans = ["95 % of images", *(span(result.intervals.get(s.key)) for s in scores), ""]
    print_table(head, [row, spans], title=f"{description.model} on {data.name}", left=0)
    tell_part(part)
    if result.per_class and (options.per_class or description.task == "segmentation"):
        keys = list(next(iter(result.per_class.values())))
        rows = [[name, *map(_percent, values.values())] for name, values in result.per_class.items()]
        print_table(("class", *(FIGURES.get(key, key) for key in keys)), rows)
    return 0


FIGURES = {"iou": "IoU", "dice": "Dice", "map": "mAP"}
"""Figures of a class, in a table's head."""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def predict(options: argparse.Namespace, loaded: LoadedModel, paths: list[str]) -> int:
    """Write pictures with boxes and COCO's JSON, or masks and pictures with them."""
    from senet.inference import look

    if options.out is None:
        raise SenetError(f"--out DIR is missing: where the pictures of this {loaded.description.task} network go")
    if options.top is not None or options.json:
        raise SenetError(f"--{'json' if options.json else 'top'} is for classifiers; boxes and masks go into --out")
    if options.score is not None and loaded.description.task != "detection":
        raise SenetError("--score is for detectors: each pixel of a mask has one class")
    if options.out.is_file():
        raise SenetError(f"--out {options.out} is a file; boxes and masks go into a folder")
    options.out.mkdir(parents=True, exist_ok=True)
    names = _names(paths)
    write = {"detection": _write_boxes, "segmentation": _write_mask}[loaded.description.task]
    kept: list[Any] = []
    bad = 0
    with counting("predicting") as progress:
        batch_size = options.batch_size or BATCH
        seen_all = look(loaded, paths, batch_size=batch_size, precision=options.precision, progress=progress)
        for name, seen in zip(names, seen_all, strict=True):
            if seen.error:
                bad += 1
                print(f"{seen.path}: {seen.error}")
            else:
                kept.append(write(options.out / name, seen, loaded, SURE if options.score is None else options.score))
    if loaded.description.task == "detection":
        from senet.tasks.detection.drawing import coco_document
        from senet.weights import write_atomically

        text = json.dumps(coco_document(kept, loaded.classes), ensure_ascii=False, indent=1) + "\n"
        write_atomically(options.out / "predictions.json", lambda path: path.write_text(text, encoding="utf-8"))
    unread = f", {bad} of them can't be read" if bad else ""
    print(f"{len(paths)} pictures{unread}; in {options.out}: {WRITTEN[loaded.description.task]}")
    return 0 if kept else 1


WRITTEN = {
    "detection": "NAME.boxes.jpg, and predictions.json in COCO's form",
    "segmentation": "NAME.mask.png with class numbers, NAME.overlay.jpg",
}
"""What is in the folder, in words."""


def _names(paths: list[str]) -> list[str]:
    """A name for each file's answers, numbered where files of different folders share one."""
    used: dict[str, int] = {}
    names = []
    for path in paths:
        stem = Path(path).stem
        used[stem] = used.get(stem, 0) + 1
        names.append(stem if used[stem] == 1 else f"{stem}-{used[stem]}")
    return names


def _write_boxes(start: Path, seen: Seen, loaded: LoadedModel, least: float) -> Any:
    from senet.tasks.detection.drawing import draw_boxes

    assert seen.image is not None
    drawn = draw_boxes(seen.image, seen.answer, loaded.classes, least=least)
    drawn.save(start.with_name(f"{start.name}.boxes.jpg"), quality=90)
    return Path(seen.path).name, seen.image.size, seen.answer


def _write_mask(start: Path, seen: Seen, loaded: LoadedModel, least: float) -> Any:  # noqa: ARG001
    from senet.tasks.segmentation.drawing import draw_mask, mask_image

    assert seen.image is not None
    mask, classes = seen.answer.numpy(), len(loaded.classes)
    mask_image(mask, classes).save(start.with_name(f"{start.name}.mask.png"))
    draw_mask(seen.image, mask, classes).save(start.with_name(f"{start.name}.overlay.jpg"), quality=90)
    return seen.path
