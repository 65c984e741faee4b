"""Options of the commands `train`, `retrofit` and `compare`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from senet.cli import external
from senet.cli import options as shared
from senet.cli.config import add_config_options
from senet.cli.fields import add_field_options
from senet.cli.parser import add_subject, add_switch
from senet.cli.values import class_weights, statistics, white_level
from senet.data.augmentation import Augmentation
from senet.tasks import CLASSIFICATION, TASKS
from senet.training.recipe import Recipe, RunOptions
from senet.training.recipes import RECIPES

__all__ = ["add_job_options"]


def add_job_options(
    parser: argparse.ArgumentParser,
    *,
    pretrained: str,
    record: bool = False,
    output: Callable[[argparse._ArgumentGroup], None] | None = None,
) -> None:
    """Add the options of a training.

    Args:
        parser: The parser that gets them.
        pretrained: The help text's default of `--pretrained`.
        record: Whether `--config` takes the `run.json` of a run.
        output: Adds the options of output and configuration, where they aren't those of a run.
    """
    _add_network_options(parser, pretrained)
    shared.add_data_options(parser, required=False)
    group = parser.add_argument_group("training images")
    shared.add_limit_option(group, "train on")
    group.add_argument(
        "--white-level",
        type=white_level,
        metavar="LEVEL|auto",
        help="white of 16-bit grey images, such as 4095 for 12 bits, or auto for the bits of the largest value "
        "(default: the checkpoint's, else 65535)",
    )
    shared.add_channel_options(group)
    group.add_argument(
        "--statistics",
        type=statistics,
        metavar="auto|FILE",
        help="mean and deviation of each channel: auto computes them from the training images, FILE is the output of "
        "`senet doctor --statistics --json` (default: auto for other channels than 3 and for floating point, else the "
        "network's)",
    )
    group = parser.add_argument_group("output and configuration")
    if output is None:
        _add_output_options(group, record=record)
    else:
        output(group)
    group = parser.add_argument_group("recipe")
    group.add_argument("--recipe", metavar="NAME", help=f"{', '.join(RECIPES)} (default: by data and image size)")
    add_field_options(
        group,
        Recipe,
        default="the recipe's",
        leave_out=("augmentation", "expects"),
        parsers={"class_weights": class_weights},
    )
    add_field_options(parser.add_argument_group("augmentation"), Augmentation, default="the recipe's")
    add_field_options(parser.add_argument_group("running"), RunOptions)
    external.add_choice_options(parser, "the file of --checkpoint")


def _add_output_options(group: argparse._ArgumentGroup, *, record: bool) -> None:
    group.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the run (default: one in runs/, named after the options)"
    )
    group.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help="continue the run in DIR, or in --out, with its own options (default: a new run)",
    )
    add_config_options(group, record=record)
    add_switch(group, "--json", help="print the result as JSON")


def _add_network_options(parser: argparse.ArgumentParser, pretrained: str) -> None:
    group = parser.add_argument_group("network")
    add_subject(group, "model", required=False, help=f"the architecture: {shared.NETWORKS} (default: the checkpoint's)")
    group.add_argument(
        "--checkpoint",
        metavar="CHECKPOINT",
        help=f"start from {shared.CHECKPOINT}, or from another program's weight file, for --model (default: none)",
    )
    group.add_argument(
        "--pretrained",
        action=argparse.BooleanOptionalAction,
        help=f"start from the published weights of MODEL (default: {pretrained})",
    )
    shared.add_network_options(group)
    shared.add_size_option(group, "the weights', else the data's, else the network's")
    group.add_argument(
        "--task", metavar="NAME", help=f"{', '.join(TASKS)} (default: the checkpoint's, else {CLASSIFICATION})"
    )
    group.add_argument(
        "--head",
        metavar="SPEC",
        help="head on the network, with options such as fcos:channels=128: faster_rcnn, retinanet or fcos for "
        "detection, unet, deeplabv3plus or fpn for segmentation (default: faster_rcnn, unet)",
    )
    group.add_argument(
        "--head-attention", metavar="SPEC", help="attention in the head, written as --attention (default: none)"
    )
