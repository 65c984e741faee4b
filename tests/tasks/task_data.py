"""Small pictures with coloured squares, as boxes in both forms and as masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("blue", "red")
COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}

Square = tuple[str, int, int, int, int]
"""Name and x1, y1, x2, y2 in pixels from 0, the last ones outside."""


def squares(number: int, size: tuple[int, int]) -> list[Square]:
    """Zero to two squares, each picture its own."""
    draw = np.random.RandomState(number)
    found = []
    for name in (NAMES[: number % 3] if number % 3 < 3 else NAMES)[::-1]:
        left, top = draw.randint(0, size[0] - 24), draw.randint(0, size[1] - 24)
        edge = int(draw.randint(16, 24))
        found.append((name, int(left), int(top), int(left) + edge, int(top) + edge))
    return found


def picture(number: int, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray, list[Square]]:
    """The picture, its mask, and the squares that can be seen whole or in part."""
    pixels = np.full((size[1], size[0], 3), 140 + 5 * number, dtype=np.uint8)  # no two pictures are equal
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    found = squares(number, size)
    for name, left, top, right, bottom in found:
        pixels[top:bottom, left:right] = COLOURS[name]
        mask[top:bottom, left:right] = NAMES.index(name) + 1
    return Image.fromarray(pixels), mask, found


def sizes(number: int) -> tuple[int, int]:
    return ((64, 48), (48, 64), (80, 48))[number % 3]


PARTS = {"train": range(8), "val": range(8, 12), "test": range(12, 15)}


def xml(objects: list[Square], *, difficult: int = 0) -> str:
    entries = "".join(
        f"<object><name>{n}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for n, x1, y1, x2, y2 in objects
    )
    return f"<annotation>{entries}</annotation>"


def write_voc(root: Path) -> Path:
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    for part, numbers in PARTS.items():
        (root / f"{part}.txt").write_text("".join(f"p{n:03d}\n" for n in numbers))
        for number in numbers:
            image, _, found = picture(number, sizes(number))
            image.save(root / "JPEGImages" / f"p{number:03d}.png")
            (root / "Annotations" / f"p{number:03d}.xml").write_text(xml(found))
    return root


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change what a JSON file says."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


def write_coco(root: Path) -> Path:
    """Categories are numbered 7 and 3, so that their order is another than their names'."""
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": 7, "name": "blue"}, {"id": 3, "name": "red"}]
    for part in ("train", "val"):
        (root / f"{part}2017").mkdir()
        images, annotations = [], []
        for number in PARTS[part]:
            image, _, found = picture(number, sizes(number))
            image.save(root / f"{part}2017" / f"{number:012d}.png")
            images.append(
                {"id": number, "file_name": f"{number:012d}.png", "width": image.width, "height": image.height}
            )
            for name, x1, y1, x2, y2 in found:
                category = {"blue": 7, "red": 3}[name]
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category,
                                    "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0})  # fmt: skip
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(content))
    return root


def write_masks(root: Path) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("background\nblue\nred\n")
    for part, numbers in PARTS.items():
        (root / f"{part}.txt").write_text("".join(f"p{n:03d}\n" for n in numbers))
        for number in numbers:
            image, mask, _ = picture(number, sizes(number))
            image.save(root / "images" / f"p{number:03d}.png")
            Image.fromarray(mask).save(root / "masks" / f"p{number:03d}.png")
    return root
