"""Write the man page of the command line to a file, from its parser: `make man`."""

from __future__ import annotations

import sys
from pathlib import Path

from argparse_manpage.manpage import Manpage

from senet.cli import make_parser


def manpage() -> str:
    """Return the page of all commands in the format of man."""
    return str(Manpage(make_parser()[0]))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(manpage(), encoding="utf-8")
