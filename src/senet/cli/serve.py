"""Serve a page on which a trained network can be tried.

The page takes an image and shows the likeliest classes, a class activation map and the gates of each block. For a
detector or a segmentation network it shows boxes or masks and the gates. It needs `pip install 'senet[serve]'`.

The page is reachable from this machine alone and needs no network connection. Ctrl-C ends it.

Examples:
  senet serve runs/flowers
  senet serve --checkpoint runs/flowers --port 8000 --topk 3
"""

from __future__ import annotations

import argparse
import sys

from senet.cli import options as shared
from senet.cli.parser import add_subject
from senet.cli.values import positive
from senet.errors import SenetError

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = "senet serve CHECKPOINT [--host ADDRESS] [--port N] [--topk N] [options, see below]"

LARGEST_PORT = 65_535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    group = parser.add_argument_group("network")
    add_subject(group, "checkpoint", help=shared.CHECKPOINT)
    shared.add_function_option(group)
    group = parser.add_argument_group("page")
    group.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at (default: %(default)s)"
    )
    group.add_argument("--port", type=int, default=7860, metavar="N", help="port, 0 for a free one (default: 7860)")
    group.add_argument("--topk", type=positive, default=5, metavar="N", help="shown classes (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    if not 0 <= options.port <= LARGEST_PORT:
        raise SenetError(f"--port {options.port} must be in 0..{LARGEST_PORT}")
    from senet.deploy.extras import need
    from senet.deploy.loading import is_exported

    if is_exported(options.checkpoint):
        raise SenetError(f"{options.checkpoint} is an exported file, whose gates can't be read; use its checkpoint")
    need("gradio", "senet serve", "serve")
    from senet.deploy.serving.server import is_loopback, serve
    from senet.tasks import load_model

    loaded = load_model(options.checkpoint, factory=shared.user_function(options))
    if not is_loopback(options.host):
        print(f"warning: --host {options.host} lets other machines use this page, without a password", file=sys.stderr)
    serve(loaded, host=options.host, port=options.port, topk=options.topk, started=_say)
    return 0


def _say(url: str) -> None:
    print(f"open {url} (Ctrl-C ends it)", flush=True)
