"""Count a network's parameters and multiply-accumulates, part by part.

senet cost se_resnet50 --attention se:reduction=8
"""

from __future__ import annotations

import argparse

from senet.cli import options as shared
from senet.cli.output import print_json

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    parser.add_argument("model", metavar="MODEL", help=shared.NETWORKS)
    shared.add_network_options(parser)
    parser.add_argument("--size", type=shared.parse_size, metavar="N", help="pixels: 224, or 256x192 (height x width)")
    parser.add_argument("--num-classes", type=int, metavar="N", help="outputs (default: the network's own)")
    parser.add_argument("--in-channels", type=int, default=3, metavar="N", help="channels of the image (default 3)")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(options: argparse.Namespace) -> int:
    """Count and print."""
    import torch

    from senet.profiling import cost
    from senet.zoo import build_model, model_defaults

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
