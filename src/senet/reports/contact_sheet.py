"""A contact sheet of training images: each row an image, each column one of its random draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from senet.data import Data
from senet.data.images import CorruptImage, to_8_bits
from senet.data.inputs import preview
from senet.data.labels import target_of
from senet.data.sampler import random_order
from senet.errors import DataError
from senet.preprocessing import Preprocessing
from senet.tasks import task_named
from senet.tasks.dense import DRAWN
from senet.tasks.task import Drawn, RecipeView

__all__ = ["contact_sheet"]

SMALLEST, LARGEST = 96, 224
"""Sides of a cell in pixels. Smaller images are enlarged, larger ones reduced."""
GAP = 4
FONT = 12
LINE = 16


def contact_sheet(
    data: Data, preprocessing: Preprocessing, recipe: RecipeView, *, images: int = 4, draws: int = 6
) -> Image.Image:
    """Draw training images as a training with this recipe, seed and preprocessing draws them.

    The rows are the first images of the training. A column is an epoch, or one of the copies in an epoch with repeated
    augmentation. Mixup and CutMix blend the images of a column, where a training blends the images of its batch.

    Args:
        data: The data.
        preprocessing: Of the network.
        recipe: Recipe of the training.
        images: Largest number of rows.
        draws: Number of columns, besides the original image.

    Raises:
        DataError: No image can be read.
        SenetError: The recipe doesn't suit the data's task.

    Example:
        >>> from senet.data import open_data
        >>> from senet.reports.contact_sheet import contact_sheet
        >>> from senet.training import recipe_named
        >>> data = open_data("digits")
        >>> contact_sheet(data, data.default_preprocessing, recipe_named("digits"), images=2, draws=3).size
        (404, 252)
    """
    task, classes = task_named(data.task), data.classes
    task.check_recipe(recipe)
    samples, _ = task.datasets(data, preprocessing, recipe)
    order = (samples.order or random_order(len(samples)))(recipe.seed, 0)
    positions, originals = [], []
    for position, image, target in _readable(data, (order % len(samples)).unique_consecutive().tolist(), preprocessing):
        positions.append(position)
        originals.append(task.draw_source(image, target, classes))
        if len(positions) == images:
            break
    if not positions:
        raise DataError(f"{data.name} has no readable training image")
    columns, titles = [originals], ["original"]
    for number in range(draws):
        epoch, copy = divmod(number, recipe.repeated_augmentation)
        keys = [(epoch, position + copy * len(samples)) for position in positions]
        columns.append(task.draw_samples(samples, keys, classes, preprocessing, recipe))
        titles.append(f"epoch {epoch + 1}" + (f", copy {copy + 1}" if recipe.repeated_augmentation > 1 else ""))
    side = max(max(drawn.image.size) for column in columns[1:] for drawn in column)
    return _assembled(columns, titles, DRAWN if side > LARGEST else max(SMALLEST, side))


def _readable(
    data: Data, positions: Sequence[int], preprocessing: Preprocessing
) -> Iterator[tuple[int, Image.Image, object]]:
    """Yield position, image and target of each readable training image."""
    seen = set()
    for position in positions:
        if position not in seen:
            seen.add(position)
            try:
                if preprocessing.reads_bands:
                    shown = preview(data.train, position, preprocessing)
                    yield position, shown, target_of(data.train.labels, position)
                else:
                    image, target = data.train[position]
                    yield position, to_8_bits(image, preprocessing.white_level), target
            except CorruptImage:
                continue


def _assembled(columns: Sequence[Sequence[Drawn]], titles: Sequence[str], side: int) -> Image.Image:
    """Arrange the images in cells with captions."""
    cells = [[_cell(drawn.image, side) for drawn in column] for column in columns]
    tallest = max(cell.height for column in cells for cell in column)
    height = tallest + LINE * max(len(drawn.caption.splitlines()) for column in columns for drawn in column)
    size = (GAP + len(columns) * (side + GAP), GAP + LINE + len(columns[0]) * (height + GAP))
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for number, (title, column) in enumerate(zip(titles, columns, strict=True)):
        left = GAP + number * (side + GAP)
        pen.text((left, GAP), title, fill="black", font=font)
        for row, drawn in enumerate(column):
            top, cell = GAP + LINE + row * (height + GAP), cells[number][row]
            sheet.paste(cell, (left + (side - cell.width) // 2, top + (tallest - cell.height) // 2))
            for line, text in enumerate(drawn.caption.splitlines()):
                pen.text((left, top + tallest + 1 + line * LINE), _fitting(text, side, font), fill="black", font=font)
    return sheet


def _cell(image: Image.Image, side: int) -> Image.Image:
    """Resize an image so that its longer edge has `side` pixels. Enlarged pixels stay sharp."""
    enlarges = max(image.size) < side
    resample = Image.Resampling.NEAREST if enlarges else Image.Resampling.LANCZOS
    return ImageOps.contain(image.convert("RGB"), (side, side), resample)


def _fitting(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Shorten a text to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..." if text else ""
