"""List the networks, or the recipes.

Examples:
  senet list
  senet list 'se_resnet*' --cost
  senet list --recipes
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from senet.cli.output import print_json, print_table
from senet.errors import SenetError, UnknownNameError

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet list [PATTERN] [--cost] [--json]
       senet list --recipes [--json]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN", help="as in a shell, such as 'se_*' (default: all)"
    )
    parser.add_argument(
        "--cost", action="store_true", help="show parameters, multiply-accumulates (MACs) and published figures"
    )
    parser.add_argument("--recipes", action="store_true", help="list the recipes and the tables of the paper")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """List."""
    if options.recipes:
        return _recipes(options)
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
        print_json({name: c | {"published": _published(name, c["macs"])} for name, c in costs.items()})
        return 0
    head = ("network", "pixels", "parameters", "MMACs", "attention's parameters", "attention's MACs",
            "published MACs", "ours", "published error %")  # fmt: skip
    print_table(head, [_row(name, c) for name, c in costs.items()])
    for note in _notes(costs):
        print(note)
    return 0


def _recipes(options: argparse.Namespace) -> int:
    """Print the recipes of `senet train`, then the tables of `senet compare` with their trainable rows."""
    from senet.training.paper_tables import TABLES
    from senet.training.recipes import RECIPES

    if options.cost or options.pattern != "*":
        raise SenetError("--recipes goes with no pattern and without --cost")
    if options.json:
        tables = {name: dataclasses.asdict(table) for name, table in TABLES.items()}
        print_json({"recipes": {name: recipe.to_dict() for name, recipe in RECIPES.items()}, "tables": tables})
        return 0
    rows = [
        [name, str(r.epochs), str(r.batch_size), f"{r.lr:g}", r.schedule, r.expects or "-"]
        for name, r in RECIPES.items()
    ]
    head = ("recipe", "epochs", "batch", "lr", "schedule", "should reach")
    print_table(head, rows, title="senet train --recipe", left=len(head))
    body = [
        [name, row.name, row.model, row.data, str(row.recipe.epochs), f"{row.metric} {row.published}"]
        for name, table in TABLES.items() for row in table.rows
    ]  # fmt: skip
    head = ("table", "row", "network", "data", "epochs", "published, %")
    print_table(head, body, title="senet compare --recipe", left=4)
    unstated: dict[str, list[str]] = {}
    for name, table in TABLES.items():
        for choice in dict.fromkeys(choice for row in table.rows for choice in row.unstated):
            unstated.setdefault(choice, []).append(name)
    for choice, names in unstated.items():
        print(f"not stated in the paper, {', '.join(names)}: {choice}")
    for name, table in TABLES.items():
        if table.quoted:
            print(f"{name}: not trained: {', '.join(q.name for q in table.quoted)} ({table.quoted[0].why})")
    return 0


def _cost(name: str) -> dict[str, Any]:
    from senet.profiling import cost
    from senet.zoo import create_model

    model = create_model(name, device="meta")
    return cost(model, (model.spec.in_channels, *model.spec.preprocessing.size)).to_dict()


def _published(name: str, macs: int) -> list[dict[str, Any]]:
    from senet.models import PUBLISHED

    return [row.to_dict(macs) for row in PUBLISHED.get(name, ())]


def _row(name: str, cost: dict[str, Any]) -> list[str]:
    from senet.models import PUBLISHED

    row = [name, "x".join(map(str, cost["input_size"][1:])), f"{cost['params']:,}", f"{cost['macs'] / 1e6:,.1f}",
           f"{cost['attention_params_share']:.2%}", f"{cost['attention_macs_share']:.3%}"]  # fmt: skip
    if name not in PUBLISHED:
        return [*row, "", "", ""]
    first = PUBLISHED[name][0]
    mark = "*" if first.agreement(cost["macs"]) == "differs" else ""
    return [*row, first.macs, first.like_printed(cost["macs"]) + mark, first.errors]


def _notes(costs: dict[str, dict[str, Any]]) -> list[str]:
    """Return notes on the published columns, and on known differences from them."""
    from senet.models import PUBLISHED

    shown = {name: PUBLISHED[name][0] for name in costs if name in PUBLISHED}
    if not shown:
        return []
    notes = [
        "published: Hu et al. 2018 (arXiv 1709.01507 v4), Tables 2 to 5 and 8, top-1/top-5 (its FLOPs are MACs); "
        "else public checkpoints. CIFAR-10 for CIFAR networks with both. --json has all figures and their sources."
    ]
    agreement = {name: row.agreement(costs[name]["macs"]) for name, row in shown.items()}
    if "last digit" in agreement.values():
        notes.append(
            "last digits: these count convolutions and fully connected layers; the paper doesn't define its count."
        )
    notes += [f"* {name}: {row.discrepancy or 'not reproduced'}" for name, row in shown.items()
              if agreement[name] == "differs"]  # fmt: skip
    return notes
