"""Write boxes and masks to files. Each file appears complete, and no prediction stays in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from senet.console import printable

if TYPE_CHECKING:
    from PIL import Image

    from senet.inference import DensePrediction
    from senet.zoo import LoadedModel

__all__ = ["ENDINGS", "write_boxes", "write_masks"]

ENDINGS = {"detection": (".boxes.jpg",), "segmentation": (".mask.png", ".overlay.jpg")}
"""Task to the endings of an image's files."""

LONGEST_EDGE = 65_500
"""Largest side of a JPEG, in pixels."""


def write_boxes(
    places: Sequence[Path],
    seen_all: Iterator[DensePrediction],
    loaded: LoadedModel,
    folder: Path,
    *,
    entries: Sequence[Mapping[str, Any]],
    categories: Sequence[int],
    least: float,
) -> int:
    """Write images with boxes, `predictions.json` in COCO's results format, and `images.json` with images and
    categories.

    Args:
        places: Path of each image's files, without ending.
        seen_all: The predictions.
        loaded: The network.
        folder: Folder of the JSON files.
        entries: `id` and `file_name` of each image.
        categories: COCO's number of each class.
        least: Smallest score of a drawn box. The JSON has all boxes.

    Returns:
        Number of unreadable images.
    """
    from senet.tasks.detection.drawing import draw_boxes
    from senet.tasks.detection.results import coco_images, coco_results
    from senet.weights.files import write_atomically
    from senet.weights.strict_json import dump

    images: list[dict[str, Any]] = []

    def write_all(file: TextIO) -> None:
        separator = "["
        for place, entry, seen in zip(places, entries, seen_all, strict=True):
            if not _readable(seen):
                continue
            assert seen.image is not None
            images.append({**entry, "width": seen.image.width, "height": seen.image.height})
            _save(draw_boxes(seen.image, seen.prediction, loaded.classes, score_threshold=least), place, ".boxes.jpg")
            for row in coco_results(seen.prediction, entry["id"], categories):
                file.write(f"{separator}\n{dump(row, indent=None).rstrip()}")
                separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")

    def write_results(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            write_all(file)

    write_atomically(folder / "predictions.json", write_results)
    text = dump(coco_images(images, loaded.classes, categories))
    write_atomically(folder / "images.json", lambda path: path.write_text(text, encoding="utf-8"))
    return len(places) - len(images)


def write_masks(places: Sequence[Path], seen_all: Iterator[DensePrediction], loaded: LoadedModel) -> int:
    """Write masks of class numbers and overlays. Returns the number of unreadable images."""
    from senet.tasks.segmentation.drawing import draw_mask, mask_image

    unread = 0
    for place, seen in zip(places, seen_all, strict=True):
        if not _readable(seen):
            unread += 1
            continue
        assert seen.image is not None
        mask, classes = seen.prediction.numpy(), len(loaded.classes)
        _save(mask_image(mask, classes), place, ".mask.png")
        _save(draw_mask(seen.image, mask, classes), place, ".overlay.jpg")
    return unread


def _readable(seen: DensePrediction) -> bool:
    if seen.error:
        print(f"{printable(seen.path)}: {printable(seen.error)}")
    return not seen.error


def _save(image: Image.Image, place: Path, ending: str) -> None:
    from senet.weights.files import write_atomically

    place.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {}
    if ending.endswith(".jpg"):
        image.thumbnail((LONGEST_EDGE, LONGEST_EDGE))
        options["quality"] = 90
    write_atomically(place.with_name(place.name + ending), lambda path: image.save(path, **options))
