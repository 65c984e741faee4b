"""Publish a trained network on the Hugging Face Hub.

The repository gets the weights (safetensors), a configuration that senet and timm read, and a model card. `senet
evaluate --json` and `senet inspect --json` print metrics with intervals and gates for the card. Log in first with `hf
auth login`, or set HF_TOKEN.

Examples:
  senet push runs/flowers user/flowers --private
  senet push runs/flowers user/flowers --dry-run folder
  senet push runs/flowers user/flowers --evaluation metrics.json --inspection gates.json --licence mit
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from senet.cli import options as shared
from senet.cli.output import print_json
from senet.cli.parser import add_subject
from senet.errors import SenetError

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet push CHECKPOINT USER/NAME [--private] [--revision BRANCH] [--dry-run DIR]
                  [--evaluation FILE] [--inspection FILE] [--licence SPDX] [--json]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    group = parser.add_argument_group("network")
    add_subject(group, "checkpoint", help=shared.CHECKPOINT)
    shared.add_function_option(group)
    group = parser.add_argument_group("repository")
    group.add_argument("repo", metavar="USER/NAME", help="repository on the Hub, made if it is missing")
    group.add_argument("--private", action="store_true", help="make a new repository private")
    group.add_argument("--revision", metavar="BRANCH", help="branch to write to, made if it is missing (default: main)")
    group.add_argument(
        "--dry-run", type=Path, metavar="DIR", help="new folder for the files, in place of an upload (default: none)"
    )
    group = parser.add_argument_group("model card")
    group.add_argument(
        "--evaluation", type=Path, metavar="FILE", help="output of `senet evaluate --json` (default: the run's metrics)"
    )
    group.add_argument(
        "--inspection", type=Path, metavar="FILE", help="output of `senet inspect --json` (default: none)"
    )
    group.add_argument(
        "--licence", default="", metavar="SPDX", help="licence of the weights, such as mit (default: none)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Push and print the address."""
    from senet.integrations.hub import push, write_folder
    from senet.tasks import load_model
    from senet.weights.repository import HubAddress

    address = HubAddress.parse(options.repo)
    if address.revision is not None or str(address) == options.repo:
        raise SenetError(f"{options.repo}: write user/name, and the branch as --revision")
    folder = options.dry_run
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SenetError(f"--dry-run {folder} exists; name a new folder")
    if folder is not None and (options.private or options.revision):
        raise SenetError("--dry-run uploads nothing; leave out --private and --revision")
    loaded = load_model(options.checkpoint, factory=shared.user_function(options))
    card: dict[str, Any] = {
        "licence": options.licence,
        "evaluation": _result(options.evaluation, "evaluate", ("images", "intervals"), loaded.metadata.model),
        "inspection": _result(options.inspection, "inspect", ("images", "blocks", "findings"), loaded.metadata.model),
    }
    if folder is None:
        url = push(
            loaded.model, loaded.metadata, address.repo, private=options.private, revision=options.revision, **card
        )
    else:
        write_folder(folder, loaded.model, loaded.metadata, name=address.repo, **card)
        url = None
    if options.json:
        print_json({"checkpoint": options.checkpoint, "repo": address.repo, "url": url,
                    "folder": None if folder is None else str(folder)})  # fmt: skip
    elif folder is None:
        print(f"{options.checkpoint} -> {url}")
        print(f'load it with: senet.load_model("{address}")')
    else:
        print(f"{options.checkpoint} -> {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return 0


def _result(path: Path | None, command: str, keys: tuple[str, ...], model: str) -> Mapping[str, Any] | None:
    """Read the JSON that another command printed.

    Raises:
        SenetError: It is another file, or of another network.
    """
    if path is None:
        return None
    from senet.weights.strict_json import parse_object

    try:
        found = parse_object(path.read_bytes())
    except ValueError as error:
        raise SenetError(f"{path} can't be read: {error}; write it with `senet {command} CHECKPOINT --json`") from error
    if not all(key in found for key in keys):
        raise SenetError(f"{path} is no output of `senet {command} CHECKPOINT --json`: {keys[-1]} is missing")
    own = found.get("model", found.get("network"))
    if own != model:
        raise SenetError(f"{path} is of the network {own}, not of {model}")
    return found
