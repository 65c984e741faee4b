"""Detections in the formats of COCO's tools: a list of results, and the list of their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from senet.weights import CheckpointMetadata

__all__ = ["category_ids", "coco_images", "coco_results"]


def category_ids(description: CheckpointMetadata) -> tuple[int, ...]:
    """Return COCO's number of each class: of the training data, else 1 to N."""
    found = description.training.get("category_ids")
    count = len(description.classes)
    if isinstance(found, list) and all(type(number) is int for number in found) and len(set(found)) == count:
        return tuple(found)
    return tuple(range(1, count + 1))


def coco_results(found: Mapping[str, Tensor], image: int | str, categories: Sequence[int]) -> list[dict[str, Any]]:
    """Convert one image's boxes to COCO's results format, for `COCO.loadRes`.

    Args:
        found: `boxes` (n, 4), `scores` (n,), `labels` (n,) from 0.
        image: The image's number.
        categories: COCO's number of each class.

    Source: https://cocodataset.org/#format-results
    """
    rows = zip(found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
    return [
        {
            "image_id": image,
            "category_id": categories[label],
            "bbox": [round(value, 3) for value in (left, top, right - left, bottom - top)],
            "score": round(score, 6),
        }
        for (left, top, right, bottom), label, score in rows
    ]


def coco_images(
    images: Sequence[Mapping[str, Any]], classes: Sequence[str], categories: Sequence[int]
) -> dict[str, Any]:
    """List the images in the format of COCO's `image_info` files, without annotations.

    Args:
        images: `id`, `file_name`, `width` and `height` of each.
        classes: Names of the classes.
        categories: COCO's number of each class.
    """
    named = [{"id": number, "name": name} for number, name in zip(categories, classes, strict=True)]
    return {"images": list(images), "annotations": [], "categories": named}
