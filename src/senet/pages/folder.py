"""A folder of report files that appears whole, or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from senet.errors import SenetError

__all__ = ["check_report_folder", "report_folder"]

REPORT = "report.json"


def check_report_folder(folder: Path, kind: str, names: Collection[str]) -> None:
    """Raise a `SenetError` unless a folder is missing, empty, or an earlier report and nothing else.

    Args:
        folder: The folder.
        kind: Value of `kind` in the report's JSON.
        names: Names of its files.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise SenetError(f"{folder} is a file; name a folder for the report")
    present = sorted(os.listdir(folder))
    if not present:
        return
    stranger = next((name for name in present if name not in names), None)
    if stranger is None and not _is_report(folder / REPORT, kind):
        stranger = present[0]
    if stranger is not None:
        raise SenetError(f"{folder} holds {stranger}, which is no part of an earlier report; name a new folder")


def _is_report(path: Path, kind: str) -> bool:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("kind") == kind


@contextmanager
def report_folder(folder: Path, kind: str, names: Collection[str]) -> Iterator[Path]:
    """Yield a new folder beside the report's, and rename it to the report's at the end of the block.

    An earlier report is replaced. After an error there is the earlier report, or nothing.

    Args:
        folder: The folder, see `check_report_folder`.
        kind: Value of `kind` in the report's JSON.
        names: Names of its files.

    Raises:
        SenetError: The folder holds anything else, or can't be made.
    """
    check_report_folder(folder, kind, names)
    folder = Path(os.path.realpath(folder))
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise SenetError(f"can't write the report {folder}: {error.strerror}") from error
    try:
        yield temporary
        check_report_folder(folder, kind, names)  # it may have changed meanwhile
        if folder.exists():
            old = temporary.with_suffix(".old")
            folder.rename(old)
            try:
                temporary.rename(folder)
            except OSError:
                old.rename(folder)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
