"""Checks and notes about a data set before a training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from senet.data.augmentation import Augmentation
from senet.data.band_transform import left_out_of_bands
from senet.data.bands import TIFF_MAGIC
from senet.data.dense import AnnotationIssue
from senet.data.depth import depth_at, depth_note, evenly
from senet.data.image_errors import CorruptImage
from senet.data.masks import MaskSource
from senet.data.sources import Data, Source, Subset
from senet.errors import DataError
from senet.preprocessing import Preprocessing

__all__ = ["check_masks", "left_out_note", "mask_issues", "report_data"]

SAMPLED = 32
"""Training images that are checked for 16-bit values."""

NAMED = 3
"""Files that one line names."""


def check_masks(data: Data, splits: Iterable[str], *, training: bool) -> None:
    """Refuse masks that allow no training or no evaluation.

    Args:
        data: Any data set. Data without masks passes.
        splits: Names of the splits to check, of `data.splits`.
        training: Whether the masks are trained on, so that each class must occur.

    Raises:
        DataError: A split's masks hold 0 and 255 alone, or a class is in no training mask.
    """
    for issue in mask_issues(data, splits, training=training):
        raise DataError(f"{issue.path}: {issue.reason}")


def mask_issues(data: Data, splits: Iterable[str], *, training: bool = True) -> list[AnnotationIssue]:
    """List the issues of a split's masks as a whole, see `check_masks`."""
    found = []
    for name in splits:
        source = _whole(data.splits[name])
        if not isinstance(source, MaskSource) or not len(source):
            continue
        folder = str(Path(source.masks[0]).parent)
        present = np.atleast_1d(source.present.any(axis=0))
        missing = [data.classes[number] for number in np.flatnonzero(~present[:-1])]
        if present[-1] and present[:-1].sum() == 1 and present[0]:
            found.append(AnnotationIssue(folder, _about_two_values(name, data.classes)))
        elif training and present.any() and name == "train" and missing:
            found.append(AnnotationIssue(folder, _about_missing(missing, data.classes, instances=source.instances)))
    return found


def _whole(source: Source) -> Source:
    """Undo `--limit`: a subset needn't contain all classes."""
    return _whole(source.source) if isinstance(source, Subset) else source


def _about_two_values(split: str, classes: Sequence[str]) -> str:
    remedy = (
        "--instances makes any number above 0 the second class" if len(classes) == 2 else "number classes 0, 1, ..."
    )
    return (
        f"all {split} masks hold 0 and 255 alone, and 255 means no class, so the only class is {classes[0]}; {remedy}, "
        f"or save {classes[1]} as 1"
    )


def _about_missing(missing: Sequence[str], classes: Sequence[str], *, instances: bool) -> str:
    if instances:
        return f"no training mask contains {missing[0]}; with --instances {classes[0]} is 0, {classes[1]} any other"
    names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    numbers = f"{classes.index(missing[0])} of 0..{len(classes) - 1}"
    return (
        f"no training mask contains {names} (number {numbers}); correct the numbers in the masks, name other classes "
        "(classes.txt, --class-names), or move images with this class to the training split"
    )


def report_data(
    data: Data,
    preprocessing: Preprocessing,
    report: Callable[[str], object],
    *,
    augmentation: Augmentation | None = None,
) -> None:
    """Report how a training handles unusual files.

    Args:
        data: The training data.
        preprocessing: Of the network. It has the white level of 16-bit images.
        report: Called with each line.
        augmentation: Of the training.
    """
    sample = evenly(len(data.train), SAMPLED)
    if preprocessing.reads_bands:
        notes = [_colour_note(augmentation) if augmentation else ""]
    else:
        depths = filter(None, [depth_at(data.train, index) for index in sample])
        notes = [depth_note(depths, preprocessing.white_level), _pages_note(data.train, sample)]
    lines = (
        left_out_note(data.left_out),
        *notes,
        _ignore_index_note(data.train),
    )
    for line in filter(None, lines):
        report(line)


def _colour_note(augmentation: Augmentation) -> str:
    names = left_out_of_bands(augmentation)
    flags = " and ".join(f"--{name.replace('_', '-')}" for name in names)
    return f"left out of the augmentation, since it is for 8-bit RGB or grey: {flags}" if names else ""


def _pages_note(source: Source, sample: Sequence[int]) -> str:
    """Warn of TIFF files with several pages, of which the first is read."""
    for index in sample:
        try:
            stored = source.stored(index)
            pages = source.info(index).pages if stored and bytes(stored.content[:4]) in TIFF_MAGIC else 1
        except CorruptImage:
            continue
        if pages > 1:
            return f"{source.locate(index)} has {pages} pages, of which the first is read; --channels {pages} reads all"
    return ""


def left_out_note(paths: Sequence[str]) -> str:
    """`3 files left out: a.heic, ...`, empty if there are none."""
    if not paths:
        return ""
    more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
    plural = "s" * (len(paths) != 1)
    return f"{len(paths):,} file{plural} left out (unsupported format): {', '.join(paths[:NAMED])}{more}"


def _ignore_index_note(source: Source) -> str:
    source = _whole(source)
    if not isinstance(source, MaskSource) or source.instances:
        return ""
    present = source.present
    empty = present[:, -1] & ~present[:, 1:-1].any(axis=1)
    if not empty.any():
        return ""
    example = source.masks[int(np.flatnonzero(empty)[0])]
    return f"{empty.sum():,} of {len(source):,} training masks hold 0 and 255 (no class) alone, such as {example}"
