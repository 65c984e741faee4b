"""Options of `evaluate` and `predict` for another image size and for test-time augmentation."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from senet.cli import options as shared

if TYPE_CHECKING:
    from senet.zoo import LoadedModel

__all__ = ["TTA", "add_image_options", "described", "in_words", "load_network"]

TTA = ("flip", "five-crop", "ten-crop")
"""Keys of `senet.inference.tta.TTA`, which needs torch."""


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a group of their own."""
    group = parser.add_argument_group("test images")
    shared.add_size_option(group, "the network's own")
    group.add_argument(
        "--crop-fraction",
        type=float,
        metavar="FRACTION",
        help="the shorter edge is resized to size / fraction, and the center is cropped (default: the network's own)",
    )
    group.add_argument(
        "--tta",
        choices=TTA,
        help="test-time augmentation: average the probabilities over mirrored images or crops (default: none)",
    )


def load_network(options: argparse.Namespace) -> LoadedModel:
    """Load `--checkpoint` for images of `--size` and `--crop-fraction`.

    Raises:
        SenetError: The network can't take this size, or an option has no effect on it.
    """
    from senet.inference import at_size

    return at_size(shared.load_network(options), options.size, crop_fraction=options.crop_fraction)


def described(options: argparse.Namespace, loaded: LoadedModel) -> dict[str, Any]:
    """Return the given test options as entries of a JSON document."""
    found: dict[str, Any] = {}
    if options.size is not None:
        found["size"] = list(loaded.preprocessing.size)
    for name in ("crop_fraction", "tta"):
        if getattr(options, name) is not None:
            found[name] = getattr(options, name)
    return found


def in_words(options: argparse.Namespace) -> str:
    """Return the given test options for the title of a table, empty without any."""
    size = f"{options.size[0]}x{options.size[1]} pixels" if options.size is not None else ""
    crop = f"crop fraction {options.crop_fraction:g}" if options.crop_fraction is not None else ""
    return "".join(f", {words}" for words in (size, crop, options.tta) if words)
