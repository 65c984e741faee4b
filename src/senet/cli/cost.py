"""Count the parameters and multiply-accumulates of a network.

The table has a row for each part: the stem, each stage and the head.

Examples:
  senet cost se_resnet50
  senet cost --model se_resnet50 --attention se:reduction=8
  senet cost timm:resnet50 --size 256 --json
"""

from __future__ import annotations

import argparse

from senet.cli import options as shared
from senet.cli.output import print_json
from senet.cli.parser import add_subject

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet cost MODEL [--attention SPEC] [--stages N,N] [--size PIXELS]
                  [--num-classes N] [--json] [options, see below]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    group = parser.add_argument_group("network")
    add_subject(group, "model", help=shared.NETWORKS)
    shared.add_network_options(group)
    shared.add_size_option(parser, "the network's")
    parser.add_argument("--num-classes", type=int, metavar="N", help="outputs (default: the network's)")
    parser.add_argument(
        "--in-channels", type=int, default=3, metavar="N", help="channels of the image (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Count and print."""
    import torch

    from senet.profiling import cost
    from senet.zoo import build_model, model_defaults

    shared.refuse_checkpoint(options.model, "give the name of its network")
    changes = shared.network_options(options)
    classes, preprocessing = model_defaults(options.model)
    if options.num_classes is not None:
        classes = options.num_classes
    with torch.device("meta"):
        model = build_model(options.model, num_classes=classes, in_channels=options.in_channels, options=changes)
    size = options.size or preprocessing.size
    result = cost(model, (options.in_channels, *size))
    if options.json:
        print_json({"model": options.model} | result.to_dict())
    else:
        print(f"{options.model} at {size[0]}x{size[1]} pixels\n{result}")
    return 0
