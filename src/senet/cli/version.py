"""The text of `senet --version`."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

from senet import __version__

__all__ = ["ShowVersion", "git_version"]


class ShowVersion(argparse.Action):
    """Prints the versions of the package and of PyTorch, and the compiled kernel. Only then it imports PyTorch."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit."""
        import torch

        from senet.ops import choose

        commit = git_version(Path(__file__).parents[3])
        print(f"senet {__version__}" + (f" ({commit})" if commit else ""))
        print(f"torch {torch.__version__}")
        kernel = choose()
        print(f"kernel {'compiled' if kernel.library else 'missing'}: {kernel.reason}")
        parser.exit()


def git_version(checkout: Path) -> str:
    """Return `git describe` of a checkout. Empty for any other folder, or without git."""
    if not (checkout / ".git").exists():
        return ""
    command = ["git", "-C", str(checkout), "describe", "--tags", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
