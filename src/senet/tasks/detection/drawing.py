"""Boxes for people, and as COCO's JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from senet.tasks.drawing import colour

__all__ = ["coco_document", "draw_boxes"]


def draw_boxes(
    picture: Image.Image, found: Mapping[str, Tensor], classes: Sequence[str], *, least: float = 0.5
) -> Image.Image:
    """A copy of the picture with boxes, each with its class and, where there are scores, its score.

    Args:
        picture: Any mode.
        found: `boxes` (n, 4), `labels` (n,) from 0, and `scores` (n,) or none.
        classes: Names.
        least: Boxes with a smaller score are left out.
    """
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    edge = max(drawn.size)
    width, font = max(1, edge // 300), ImageFont.load_default(max(10, edge // 45))
    scores = found["scores"].tolist() if "scores" in found else [None] * len(found["labels"])
    for box, label, score in zip(found["boxes"].tolist(), found["labels"].tolist(), scores, strict=True):
        if score is not None and score < least:
            continue
        left, top, right, bottom = box
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour(label), width=width)
        text = classes[label] + (f" {score:.2f}" if score is not None else "")
        corner = pen.textbbox((left, top), text, font=font)
        pen.rectangle((left, top, corner[2] + 2, corner[3] + 2), fill=colour(label))
        pen.text((left + 1, top), text, fill="black", font=font)
    return drawn


def coco_document(
    rows: Iterable[tuple[str, tuple[int, int], Mapping[str, Tensor]]], classes: Sequence[str]
) -> dict[str, Any]:
    """Boxes in COCO's form, which `coco:` and annotation tools read; scores stand beside them.

    Args:
        rows: File name, (width, height), and `boxes`, `labels`, `scores` of each picture.
        classes: Names; categories are numbered from 1.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, (width, height), found) in enumerate(rows, 1):
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        values = zip(found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
        for (left, top, right, bottom), label, score in values:
            box = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": box,
                                "area": round(box[2] * box[3], 2), "iscrowd": 0, "score": round(score, 5)})  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
