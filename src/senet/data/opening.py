"""From the command line's `--data` to a data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from senet.data.digits import open_digits
from senet.data.folder import open_folder
from senet.data.published import PUBLISHED, open_imagenet
from senet.data.request import Request
from senet.data.sources import Data
from senet.errors import DataError, UnknownNameError

__all__ = ["KINDS", "open_data"]

KINDS: dict[str, Callable[[Request], Data]] = {
    "digits": open_digits,
    "folder": open_folder,
    "imagenet": open_imagenet,
    **PUBLISHED,
}


def open_data(
    text: str,
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    download: bool = False,
    root: str | os.PathLike[str] | None = None,
) -> Data:
    """Open a data set by its name on the command line.

    Args:
        text: `digits`, `folder:PATH`, or `cifar10`, `cifar100`, `fashion_mnist`, `imagenet` with an optional
            `:FOLDER` that holds it.
        val_fraction: The share of each class to validate on, for a folder that isn't divided itself; None
            means 0.2.
        seed: What the choice of these images depends on. Keep it, to evaluate on images not trained on.
        download: Whether a published data set may be fetched if it isn't there.
        root: Where published data sets are kept that name no folder; None means `~/.cache/senet/data`.

    Raises:
        UnknownNameError: No such kind of data.
        DataError: The data isn't there or can't be used, or an option would have no effect on it; the message says
            what to do.
    """
    kind, _, place = text.partition(":")
    if kind not in KINDS:
        if os.path.isdir(os.path.expanduser(text)):
            raise DataError(f"{text} is a folder; write folder:{text}")
        raise UnknownNameError("data", kind, KINDS)
    if kind in ("digits", "folder"):
        for option, given in (("download", download), ("data-root", root is not None)):
            if given:
                raise DataError(f"--{option} has no effect on {text}: it is for {', '.join(PUBLISHED)} and imagenet")
    return KINDS[kind](Request(kind, place, val_fraction, seed, download, None if root is None else Path(root)))
