"""Render pages and lines of text with known orientation: labelled images for free.

    python benchmarks/rendered_pages.py --out DIR [--pages 1000] [--lines 2000]

Fonts are those that matplotlib brings, texts are sentences of this project's pages. DIR/pages and DIR/lines have the
folders train and test with one folder a class. A name such as `bad-0042.jpg` begins with the level of damage: `clean`,
`scan` (noise, blur, up to 2 degrees of skew, grey paper) or `bad` (more of it, low contrast, strong JPEG compression).
A page is rendered once and saved at all four orientations: `90` is a page that was turned clockwise by 90 degrees.
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFilter, ImageFont

ROOT = Path(__file__).parents[1]
LEVELS = {
    "clean": {"noise": 0, "blur": 0.0, "skew": 0.0, "ink": (0, 60), "paper": (235, 255), "quality": (85, 95)},
    "scan": {"noise": 16, "blur": 0.7, "skew": 2.0, "ink": (20, 90), "paper": (190, 240), "quality": (50, 90)},
    "bad": {"noise": 28, "blur": 1.0, "skew": 5.0, "ink": (50, 110), "paper": (150, 220), "quality": (20, 50)},
}
TURNS = {"0": None, "90": Image.Transpose.ROTATE_270, "180": Image.Transpose.ROTATE_180,
         "270": Image.Transpose.ROTATE_90}  # fmt: skip
"""Pillow counts counterclockwise."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pages", type=int, default=1000, help="test pages; a quarter as many are for calibration")
    parser.add_argument("--lines", type=int, default=2000, help="test lines; a quarter as many are for calibration")
    options = parser.parse_args()
    words, fonts = sentences(), font_files()
    for split, part, first in (("test", 1.0, 0), ("train", 0.25, 10**6)):
        for i in range(round(options.pages * part)):
            draw, level = random.Random(first + i), list(LEVELS)[i % len(LEVELS)]
            save(page(draw, words, fonts), draw, level, TURNS, options.out / "pages" / split, f"{level}-{i:04d}.jpg")
        for i in range(round(options.lines * part)):
            draw, level = random.Random(first + 10**7 + i), list(LEVELS)[i % len(LEVELS)]
            both = {name: TURNS[name] for name in ("0", "180")}
            save(line(draw, words, fonts), draw, level, both, options.out / "lines" / split, f"{level}-{i:04d}.jpg")


def sentences() -> list[str]:
    texts = [file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("docs/guides/*.md"))]
    plain = re.sub(r"```.*?```|[|`*#>\[\]()]|https?://\S+", " ", "\n".join(texts), flags=re.DOTALL)
    return [s.strip() for s in re.split(r"(?<=[.:?])\s+", re.sub(r"\s+", " ", plain)) if 20 < len(s) < 300]


def font_files() -> list[Path]:
    """All text fonts of matplotlib but those of symbols."""
    files = sorted(Path(get_data_path(), "fonts", "ttf").glob("*.ttf"))
    return [f for f in files if f.name.startswith(("DejaVu", "STIXGeneral", "cmr", "cmss", "cmtt"))
            and "Display" not in f.name]  # fmt: skip


def page(draw: random.Random, words: list[str], fonts: list[Path]) -> Image.Image:
    """A grey page of 480 x 680 pixels: a heading, one or two columns of paragraphs, sometimes a table or a picture."""
    width, height, margin = 480, 680, draw.randint(20, 60)
    image = Image.new("L", (width, height), 255)
    pen, file = ImageDraw.Draw(image), draw.choice(fonts)
    size, columns = draw.randint(9, 20), draw.choice((1, 1, 2))
    font, heading = ImageFont.truetype(file, size), ImageFont.truetype(file, round(size * 1.6))
    top = margin
    if draw.random() < 0.7:
        pen.text((margin, top), draw.choice(words)[:40], font=heading, fill=0)
        top += size * 3
    each = (width - 2 * margin - (columns - 1) * 16) // columns
    for column in range(columns):
        left, y = margin + column * (each + 16), top
        while y < height - margin - size:
            kind = draw.random()
            if kind < 0.06:
                pen.rectangle((left, y, left + each, y + 80), outline=0, fill=draw.randint(120, 220))
                y += 92
            elif kind < 0.12:
                for _ in range(4):
                    pen.rectangle((left, y, left + each, y + size + 4), outline=0)
                    pen.text((left + 3, y + 1), draw.choice(words)[: each // size], font=font, fill=0)
                    y += size + 4
                y += size
            else:
                for text in wrapped(draw.choice(words), font, each):
                    if y > height - margin - size:
                        break
                    pen.text((left, y), text, font=font, fill=0)
                    y += round(size * 1.35)
                y += size // 2
    return image


def line(draw: random.Random, words: list[str], fonts: list[Path]) -> Image.Image:
    """A line of text, 48 pixels high and 192 wide."""
    font = ImageFont.truetype(draw.choice(fonts), draw.randint(22, 34))
    text = draw.choice(words)
    start = draw.randrange(max(1, len(text) - 12))
    image = Image.new("L", (192, 48), 255)
    ImageDraw.Draw(image).text((draw.randint(2, 10), 24), text[start:].strip(), font=font, fill=0, anchor="lm")
    return image


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def save(image: Image.Image, draw: random.Random, level: str, turns: dict, folder: Path, name: str) -> None:
    """Damage an image, turn it, and save it as JPEG in the folder of each orientation."""
    how = LEVELS[level]
    ink, paper = draw.randint(*how["ink"]), draw.randint(*how["paper"])
    image = image.point(lambda value: round(ink + (paper - ink) * value / 255))
    if how["skew"]:
        angle = draw.uniform(-how["skew"], how["skew"])
        image = image.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor=paper)
    if how["blur"]:
        image = image.filter(ImageFilter.GaussianBlur(draw.uniform(0.5, 1.0) * how["blur"]))
    values = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(draw.randrange(2**32)).normal(0.0, how["noise"], values.shape)
    image = Image.fromarray(np.clip(values + noise, 0, 255).astype(np.uint8))
    quality = draw.randint(*how["quality"])
    for turn, operation in turns.items():
        there = folder / turn
        there.mkdir(parents=True, exist_ok=True)
        turned = image if operation is None else image.transpose(operation)
        turned.save(there / name, quality=quality)


if __name__ == "__main__":
    main()
