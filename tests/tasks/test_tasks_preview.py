"""The contact sheet of `senet augment-preview`: the images of the training itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from senet.cli import main
from senet.data import Augmentation, Mixing, Normalise, open_data
from senet.data.images import CorruptImage
from senet.data.transforms import as_image
from senet.errors import DataError, SenetError
from senet.preprocessing import IMAGENET, IMAGENET_CAFFE
from senet.reports.contact_sheet import GAP, LINE, contact_sheet
from senet.tasks import task_named
from senet.training.recipe import Recipe

TASK = task_named("classification")
VARIED = Recipe(
    seed=3, repeated_augmentation=2, augmentation=Augmentation(crop="none", augment="rand", random_erasing=0.5)
)


def cell(sheet: Image.Image, column: int, row: int, *, lines: int) -> np.ndarray:
    """One training image of 16 x 16 pixels, which the sheet shows at six times its size."""
    side = 96
    left, top = GAP + column * (side + GAP), GAP + LINE + row * (side + lines * LINE + GAP)
    grey = sheet.crop((left, top, left + side, top + side)).convert("L")
    return np.asarray(grey)[::6, ::6]


def batches(recipe: Recipe, sheet_rows: int, columns: int) -> list[list[torch.Tensor]]:
    """Normalised images of each column, by hand."""
    data = open_data("digits")
    p = data.default_preprocessing
    samples, _ = TASK.datasets(data, p, recipe)
    first = list(dict.fromkeys((samples.order(recipe.seed, 0) % len(samples)).tolist()))[:sheet_rows]
    found = []
    for epoch, copy in [(0, 0), (0, 1), (1, 0), (1, 1)][:columns]:
        batch = samples.collate([samples[epoch, index + copy * len(samples)] for index in first])
        images = Normalise(p)(batch.images)
        if recipe.mixup:
            mixing = Mixing(10, mixup=recipe.mixup, cutmix=recipe.cutmix, seed=recipe.seed)
            images, _ = mixing(images, batch.labels, batch.key)
        found.append(list(images))
    return found


@pytest.mark.parametrize("mixes", [False, True])
def test_a_sheet_shows_the_images_of_the_training(mixes):
    recipe = replace(VARIED, mixup=0.8, cutmix=1.0) if mixes else VARIED
    data = open_data("digits")
    sheet = contact_sheet(data, data.default_preprocessing, recipe, images=3, draws=4)
    expected = batches(recipe, 3, 4)
    shown = set()
    for column, images in enumerate(expected, 1):
        for row, image in enumerate(images):
            there = cell(sheet, column, row, lines=1 + mixes)
            assert np.array_equal(there, np.asarray(as_image(image, data.default_preprocessing)))
            shown.add(there.tobytes())
    assert len(shown) == 12


@pytest.mark.parametrize(
    "p", [IMAGENET, IMAGENET_CAFFE, replace(IMAGENET, channel_order="BGR"), replace(IMAGENET, value_range=2.0)]
)
def test_an_image_is_the_inverse_of_its_normalisation(p):
    pixels = torch.randint(0, 256, (2, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for before, after in zip(pixels, Normalise(p)(pixels), strict=True):
        assert np.array_equal(np.asarray(as_image(after, p)), before.permute(1, 2, 0).numpy())


def test_unreadable_images_have_no_row(monkeypatch):
    data = open_data("digits")
    source, original = type(data.train), type(data.train).__getitem__
    whole = contact_sheet(data, data.default_preprocessing, VARIED, images=2, draws=1)

    def some(self, index):
        if broken == "all" or index == broken:
            raise CorruptImage("x.png", "not an image")
        return original(self, index)

    samples, _ = TASK.datasets(data, data.default_preprocessing, VARIED)
    broken = int(samples.order(VARIED.seed, 0)[0]) % len(samples)
    monkeypatch.setattr(source, "__getitem__", some)
    without = contact_sheet(data, data.default_preprocessing, VARIED, images=2, draws=1)
    assert np.array_equal(cell(without, 0, 0, lines=1), cell(whole, 0, 1, lines=1))
    broken = "all"
    with pytest.raises(DataError, match="no readable training image"):
        contact_sheet(data, data.default_preprocessing, VARIED)


def test_boxes_and_masks_are_drawn_and_move(voc: Path, masks: Path, tmp_path: Path):
    for request, more in ((f"voc:{voc}", ()), (f"masks:{masks}", ("--size", "64"))):
        sheets = []
        for flip in ("0", "1"):
            out = tmp_path / f"{flip}.png"
            crop = ("--crop", "none", "--images", "1", "--draws", "1", *more)
            assert main(["augment-preview", request, "--hflip", flip, *crop, "--out", str(out)]) == 0
            sheets.append(np.asarray(Image.open(out)).astype(int))
        plain, flipped = sheets
        middle = (plain.shape[1] - GAP) // 2
        body = slice(GAP + LINE, -GAP)
        assert np.array_equal(plain[body, :middle], flipped[body, :middle]), "the original"
        assert not np.array_equal(plain[body, middle:], flipped[body, middle:])
        colours = [np.abs(half - half.mean(-1, keepdims=True)).max() for half in (plain, flipped)]
        assert min(colours) > 50, "in the colours of classes"


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_options_of_classifiers_are_refused_elsewhere(name):
    task = task_named(name)
    plain = Augmentation(crop=task.crops[0])
    task.check_recipe(Recipe(augmentation=plain))
    with pytest.raises(SenetError, match="repeated_augmentation=3 has no effect"):
        task.check_recipe(Recipe(augmentation=plain, repeated_augmentation=3))
    with pytest.raises(SenetError, match="loss is for classification"):
        task.check_recipe(Recipe(augmentation=plain, loss="bce"))
    for field in ({"augment": "trivial"}, {"train_size": 64}, {"random_erasing": 0.5}):
        with pytest.raises(SenetError, match=f"{next(iter(field))}=.* has no effect"):
            task.check_recipe(Recipe(augmentation=replace(plain, **field)))


def test_mistakes_and_files(tmp_path: Path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["augment-preview", "digits", "--augment", "trivial", "--out", str(out)]) == 0
    assert "recipe digits, size 16 x 16, seed 0" in capsys.readouterr().out
    before = out.read_bytes()
    for words, message in (
        (["--augment", "trivail"], "'trivial'"), (["--erasing-value", "noise"], "random_erasing is 0"),
        (["--recipe", "digit"], "'digits'"), (["--crop", "scale-jitter"], "for detection and segmentation"),
    ):  # fmt: skip
        assert main(["augment-preview", "digits", *words, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert main(["augment-preview", "digits", "--out", str(tmp_path / "sheet.gif")]) == 2
    assert "end in .png or .jpg" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
