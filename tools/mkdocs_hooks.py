"""Hooks of `mkdocs build`: the command-line reference, and the pages that lie outside docs/."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tools")]  # mkdocs takes this back when the hooks are loaded

from cli_reference import cli_markdown  # noqa: E402

OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/**/*.*")
"""Files of the repository that are part of the site under their own paths."""

COMMANDS = "<!-- commands -->"
"""Replaced by the reference of all commands."""


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages outside docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts and "cache" not in path.stem:
                uri = path.relative_to(ROOT).as_posix()
                files.append(File(uri, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Insert the command-line reference, and move links over the border of docs/."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, cli_markdown())
    uri = PurePosixPath(page.file.src_uri)
    source = uri if page.file.src_dir == str(ROOT) else "docs" / uri
    return re.sub(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)", lambda link: _moved(link[1], source, uri, files), markdown)


def _moved(link: str, source: PurePosixPath, uri: PurePosixPath, files: Files) -> str:
    """The link from `uri` in the site for a link of the file `source` in the repository."""
    target = os.path.normpath(source.parent / link)
    inside = target.removeprefix("docs/")
    if source.parts[0] == "docs" and inside != target:
        return link  # both in docs/
    if files.get_file_from_path(inside) is None:
        return link
    return os.path.relpath(inside, uri.parent)
