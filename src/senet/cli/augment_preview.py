"""Write a contact sheet of training images, as a training draws them.

Each row is an image, and each column one of its random draws, with crops, flips, all other augmentation, mixup and
CutMix. The draws are those of the first epochs of `senet train` with the same recipe, size and seed. Boxes and masks
are drawn over the images.

Mixup and CutMix blend the images of a column. A training blends the images of its batch.

Examples:
  senet augment-preview folder:PATH --out sheet.png
  senet augment-preview folder:PATH --augment trivial --random-erasing 0.25 --out sheet.png
  senet augment-preview coco:PATH --color-jitter 0.3 --size 800 --out sheet.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet.cli import options as shared
from senet.cli.fields import add_field_options
from senet.cli.jobs import overridden
from senet.cli.parser import add_subject
from senet.cli.values import positive
from senet.data.augmentation import Augmentation
from senet.errors import SenetError
from senet.tasks import CLASSIFICATION
from senet.training.recipe import Recipe
from senet.training.recipes import RECIPES, recipe_for, recipe_named

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet augment-preview DATA --out FILE [--recipe NAME] [--seed SEED]
                   [--images N] [--draws N] [options, see below]"""

READ = ("mixup", "cutmix", "repeated_augmentation", "sampler", "seed")
"""Fields of a recipe that change an image or its draws."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    group = parser.add_argument_group("data")
    add_subject(group, "data", help=shared.DATA)
    shared.add_split_options(group)
    group = parser.add_argument_group("sheet")
    group.add_argument("--out", type=Path, required=True, metavar="FILE", help="the contact sheet, a .png or .jpg file")
    for flag, count, what in (("--images", 4, "images, one a row"), ("--draws", 6, "draws of each image")):
        group.add_argument(flag, type=positive, default=count, metavar="N", help=f"{what} (default: %(default)s)")
    shared.add_size_option(group, "the data's, else the task's, such as 224")
    group = parser.add_argument_group("recipe")
    group.add_argument("--recipe", metavar="NAME", help=f"{', '.join(RECIPES)} (default: by data and image size)")
    others = [name for name in Recipe.__dataclass_fields__ if name not in READ]
    add_field_options(group, Recipe, default="the recipe's", leave_out=others)
    add_field_options(parser.add_argument_group("augmentation"), Augmentation, default="the recipe's")


def run(options: argparse.Namespace) -> int:
    """Draw and write."""
    from dataclasses import replace

    from senet.preprocessing import Preprocessing
    from senet.reports.contact_sheet import contact_sheet
    from senet.tasks import task_named
    from senet.weights.files import write_atomically

    if options.out.suffix.lower() not in (".png", ".jpg"):
        raise SenetError(f"--out {options.out}: the name must end in .png or .jpg")
    data = shared.data_options(options).open()
    own = data.default_preprocessing or task_named(data.task).adapted(Preprocessing())
    preprocessing = replace(own, size=options.size or own.size, white_level=data.white_level or own.white_level)
    name = options.recipe or recipe_for(options.data, preprocessing.size)
    recipe = overridden(recipe_named(name), options)
    if data.task != CLASSIFICATION and options.sampler is not None:
        raise SenetError(f"--sampler is for classification; {data.name} is for {data.task}")
    sheet = contact_sheet(data, preprocessing, recipe, images=options.images, draws=options.draws)
    write_atomically(options.out, lambda path: sheet.save(path, optimize=True, quality=90))
    height, width = preprocessing.size
    pixels = f"{sheet.width} x {sheet.height} pixels"
    print(f"{options.out}: {pixels}; recipe {name}, size {height} x {width}, seed {recipe.seed}")
    return 0
