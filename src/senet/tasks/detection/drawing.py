"""Drawing boxes over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from senet.console import printable
from senet.tasks.drawing import colour

__all__ = ["draw_boxes"]


def draw_boxes(
    image: Image.Image, found: Mapping[str, Tensor], classes: Sequence[str], *, score_threshold: float = 0.5
) -> Image.Image:
    """Draw boxes on a copy of the image, each with its class and score.

    Args:
        image: In any mode.
        found: `boxes` (n, 4), `labels` (n,) from 0, and optionally `scores` (n,).
        classes: Names of the classes.
        score_threshold: Boxes with a smaller score are left out.
    """
    drawn = image.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    edge = max(drawn.size)
    width, font = max(1, edge // 300), ImageFont.load_default(max(10, edge // 45))
    scores = found["scores"].tolist() if "scores" in found else [None] * len(found["labels"])
    for box, label, score in zip(found["boxes"].tolist(), found["labels"].tolist(), scores, strict=True):
        if score is not None and score < score_threshold:
            continue
        left, top, right, bottom = box
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour(label), width=width)
        text = printable(classes[label]) + (f" {score:.2f}" if score is not None else "")
        *_, right, bottom = pen.textbbox((0, 0), text, font=font)
        # A label at the border moves inwards, and keeps its beginning if it is wider than the image.
        left = max(0, min(left, drawn.width - right - 3))
        top = max(0, min(top, drawn.height - bottom - 3))
        pen.rectangle((left, top, left + right + 2, top + bottom + 2), fill=colour(label))
        pen.text((left + 1, top), text, fill="black", font=font)
    return drawn
