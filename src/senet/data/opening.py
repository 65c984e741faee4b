"""Opening a data set by its name on the command line (`--data`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from senet.data.coco import open_coco
from senet.data.csv_source import open_csv
from senet.data.depth import with_white_level
from senet.data.digits import open_digits
from senet.data.folder import open_folder
from senet.data.hugging_face import open_hf
from senet.data.lit_chunks import open_litdata
from senet.data.masks import open_masks
from senet.data.published import PUBLISHED, open_imagenet
from senet.data.request import DEFAULT_FRACTION, Request
from senet.data.shards import open_shards
from senet.data.sources import Data
from senet.data.voc import open_voc
from senet.errors import DataError, UnknownNameError

__all__ = ["KINDS", "open_data"]

KINDS: dict[str, Callable[[Request], Data]] = {
    "digits": open_digits,
    "folder": open_folder,
    "csv": open_csv,
    "imagenet": open_imagenet,
    "shards": open_shards,
    "hf": open_hf,
    "litdata": open_litdata,
    "voc": open_voc,
    "coco": open_coco,
    "masks": open_masks,
    **PUBLISHED,
}

DENSE = ("voc", "coco", "masks")
"""Kinds whose classes can be named by an option."""


def open_data(
    text: str,
    *,
    val_fraction: float | None = None,
    seed: int | None = None,
    folds: int | None = None,
    fold: int | None = None,
    group: str | None = None,
    download: bool = False,
    root: str | os.PathLike[str] | None = None,
    classes: Sequence[str] = (),
    instances: bool = False,
    default_fraction: float = DEFAULT_FRACTION,
    default_seed: int = 0,
    training: bool = True,
    white_level: int | str | None = None,
) -> Data:
    """Open a data set by its name on the command line.

    Args:
        text: `digits`, `folder:PATH`, `csv:FILE`, `shards:DIR`, `hf:PLACE`, `litdata:PLACE`, `voc:PATH`, `coco:PATH`,
            `masks:PATH`, or `cifar10`, `cifar100`, `fashion_mnist`, `imagenet` with an optional `:FOLDER` that holds
            it.
        val_fraction: Approximate fraction of validation images, for undivided data. None means `default_fraction`.
        seed: Seed of the choice of validation images. None means 0. Keep it, to evaluate on images not trained on.
        folds: Number of folds of undivided data, in place of `val_fraction`.
        fold: Fold of the validation images, in 1..folds. The other folds are trained on.
        group: Groups of images that are never divided: a column of `csv:`, or a regular expression of paths.
        download: Whether a missing published data set may be downloaded.
        root: Folder of published data sets given without a folder. None means `~/.cache/senet/data`.
        classes: Class names of `voc:`, `coco:` and `masks:`, if the data has none.
        instances: The masks of `masks:` number single objects, all of the second class.
        default_fraction: Like `val_fraction`, but ignored for divided data.
        default_seed: Like `seed`, but ignored for divided data.
        training: Whether the images are trained on. For evaluation a split may be empty, and one class is enough.
        white_level: White level of 16-bit images, or `"auto"`. None leaves it to the network. See `with_white_level`.

    Raises:
        UnknownNameError: Unknown kind of data.
        DataError: The data is missing or can't be used, or an option would have no effect. The message names a remedy.

    Example:
        >>> from senet.data import open_data
        >>> data = open_data("digits")
        >>> data.classes[:3], len(data.train), len(data.val)
        (('0', '1', '2'), 1438, 359)
    """
    kind, _, path = text.partition(":")
    if kind not in KINDS:
        if os.path.isdir(os.path.expanduser(text)):
            raise DataError(f"{text} is a folder; write folder:{text}")
        if os.path.isfile(os.path.expanduser(text)):
            raise DataError(f"{text} is a file; write csv:{text} for a list of images")
        raise UnknownNameError("data", kind, KINDS)
    if kind in ("digits", "folder", "csv", "shards", "hf", "litdata", *DENSE):
        for option, given in (("download", download and kind != "hf"), ("data-root", root is not None)):
            if given:
                raise DataError(f"--{option} has no effect on {text}: it is for {', '.join(PUBLISHED)} and imagenet")
    where = None if root is None else Path(root)
    request = Request(
        kind,
        path,
        val_fraction=val_fraction,
        seed=seed,
        folds=folds,
        fold=fold,
        group=group,
        download=download,
        root=where,
        classes=tuple(classes),
        instances=instances,
        default_fraction=default_fraction,
        default_seed=default_seed,
        training=training,
    )
    if kind not in DENSE:
        request.refuse_dense_options()
    elif instances and kind != "masks":
        raise DataError(f"--instances is about masks:PATH; {request.name} has no masks")
    data = KINDS[kind](request)
    return data if white_level is None else with_white_level(data, white_level)
