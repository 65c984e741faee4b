"""List the networks there are.

senet list 'se_resnet*' --cost
"""

from __future__ import annotations

import argparse
from typing import Any

from senet.cli.output import print_json, print_table
from senet.errors import UnknownNameError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell-style, such as 'se_*'")
    parser.add_argument("--cost", action="store_true", help="with parameters and multiply-accumulates")
    parser.add_argument("--json", action="store_true", help="print them as JSON")


def run(options: argparse.Namespace) -> int:
    """List."""
    from senet.zoo import list_models

    names = list_models(options.pattern)
    if not names:
        raise UnknownNameError("model pattern", options.pattern, list_models())
    if not options.cost:
        if options.json:
            print_json(names)
        else:
            print("\n".join(names))
        return 0
    costs = {name: _cost(name) for name in names}
    if options.json:
        print_json(costs)
        return 0
    rows = [
        [name, "x".join(map(str, c["input_size"][1:])), f"{c['params']:,}", f"{c['macs'] / 1e6:,.1f}",
         f"{c['attention_params_share']:.2%}", f"{c['attention_macs_share']:.3%}"]
        for name, c in costs.items()
    ]  # fmt: skip
    print_table(("network", "pixels", "parameters", "MMACs", "attention's parameters", "attention's MACs"), rows)
    return 0


def _cost(name: str) -> dict[str, Any]:
    from senet.cost import cost
    from senet.zoo import create_model

    model = create_model(name, device="meta")
    return cost(model, (model.spec.in_channels, *model.spec.preprocessing.size)).to_dict()
