"""The rows of a list of images: paths, labels, splits and groups of a CSV file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from senet.data.csv_name import CsvOptions
from senet.data.csv_table import CsvTable
from senet.errors import DataError

__all__ = [
    "Columns",
    "Rows",
    "choose_columns",
    "class_name",
    "path_column",
    "read_paths",
    "read_rows",
    "refuse_missing",
]

T = TypeVar("T")

PATHS = ("path", "filepath", "imagepath", "filename", "file", "image", "img")
CLASSES = ("label", "class", "classname")
"""Names of columns in order of preference, without blanks, `_` and `-`."""

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip

FLAGS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}


@dataclass(frozen=True)
class Columns:
    """Positions of the columns of a list.

    Attributes:
        path: Column of the paths.
        labels: Column of one class or of several classes, or columns of 0 and 1.
        multi_label: Whether an image may have several classes.
        split: Column of the splits, or None.
        group: Column of the groups, or None.
    """

    path: int
    labels: tuple[int, ...]
    multi_label: bool
    split: int | None
    group: int | None


@dataclass
class Rows:
    """The rows of a list, one entry of each attribute for each image, in the order of their names.

    Attributes:
        file: The list.
        root: Folder of relative paths.
        lines: Number of each row's last line.
        paths: Paths of the images.
        names: Paths below the root, with `/` between folders. Other paths stay whole.
        labels: Classes of each image.
        splits: `"train"`, `"val"` or `"test"`, empty without a column.
        groups: Names of groups, empty without a column.
    """

    file: Path
    root: str
    lines: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[tuple[str, ...]] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def at(self, index: int) -> str:
        """Return the place of a row, for messages."""
        return f"{self.file}, line {self.lines[index]}"


def choose_columns(table: CsvTable, options: CsvOptions, group: str | None) -> Columns:
    """Choose the columns by the options, else by their names.

    Args:
        table: The list.
        options: Of the list's name.
        group: Column of the groups, which replaces the one of the options. None leaves it to them.

    Raises:
        DataError: There is no column for paths or labels, or two could be meant.
    """
    path = path_column(table, options)
    single = None if options.label is None else table.find(options.label)
    several = tuple(map(table.find, options.labels))
    if single is not None and several:
        raise DataError(f"{table.file}: label= is one class an image, labels= any number of classes; give one of them")
    if single is None and not several:
        single, found = table.find_any(CLASSES), table.find_any(("labels",))
        several = () if found is None else (found,)
        if single is not None and several:
            raise DataError(
                f"{table.file} has the columns {table.header[single]!r} and {table.header[several[0]]!r}; choose with "
                f"csv:{table.file}:label={table.header[single]} or labels={table.header[several[0]]}"
            )
    if single is None and not several:
        raise DataError(
            f"{table.file} has no column for the class ({', '.join(CLASSES)} or labels); its columns are "
            f"{table.names}; name one: csv:{table.file}:label=COLUMN"
        )
    return Columns(
        path=path,
        labels=several or (single or 0,),
        multi_label=bool(several),
        split=_optional(table, options.split, "split"),
        group=_optional(table, options.group if group is None else group, "group"),
    )


def path_column(table: CsvTable, options: CsvOptions) -> int:
    """Return the position of the column of paths.

    Raises:
        DataError: There is none.
    """
    found = table.find_any(PATHS) if options.path is None else table.find(options.path)
    if found is None:
        raise DataError(
            f"{table.file} has no column for the path ({', '.join(PATHS)}); the columns in its first line are "
            f"{table.names}; name one: csv:{table.file}:path=COLUMN"
        )
    return found


def _optional(table: CsvTable, name: str | None, usual: str) -> int | None:
    """Return the position of a named column, else of the usual one. An empty name means none."""
    if name is None:
        return table.find_any((usual,))
    return table.find(name) if name else None


def read_rows(table: CsvTable, columns: Columns, options: CsvOptions) -> Rows:
    """Read the rows. A repeated row counts once.

    Raises:
        DataError: A cell is empty or unknown, or two rows of one image differ. The message names file and line.
    """
    found = Rows(table.file, str(_root(table, options)))
    to_path = _path_reader(found.root, options.suffix)
    labels = _label_reader(table, columns, options.separator)
    seen: dict[str, int] = {}
    texts: dict[str, str] = {}  # one object for equal cells
    for line, row in table.rows():
        where = (table.file, line)
        cell = row[columns.path].strip()
        if not cell:
            raise DataError(_about(where, f"column {table.header[columns.path]!r} is empty"))
        path = to_path(cell)
        split = group = ""
        if columns.split is not None:
            text = row[columns.split].strip().lower()
            if text not in SPLITS:
                raise DataError(
                    _about(
                        where, f"split {row[columns.split]!r} is unknown; use train, val or test, or split= for none"
                    )
                )
            split = SPLITS[text]
        if columns.group is not None:
            text = row[columns.group].strip()
            if not text:
                raise DataError(_about(where, f"column {table.header[columns.group]!r} names no group"))
            group = texts.setdefault(text, text)
        own = labels(where, row)
        index = seen.setdefault(path, len(found.paths))
        if index < len(found.paths):
            before = found.labels[index], *(values[index] for values in (found.splits, found.groups) if values)
            if before != (own, *([split] if found.splits else []), *([group] if found.groups else [])):
                advice = "" if columns.multi_label else "; for several classes name them in one cell of a column labels"
                raise DataError(_about(where, f"{path} was in line {found.lines[index]} with other values{advice}"))
            continue
        found.lines.append(line)
        found.paths.append(path)
        found.labels.append(own)
        if columns.split is not None:
            found.splits.append(split)
        if columns.group is not None:
            found.groups.append(group)
    if not found.paths:
        raise DataError(f"{table.file} names no image")
    return _arranged(found)


def read_paths(table: CsvTable, options: CsvOptions) -> list[str]:
    """Read the paths only, in the order of the file."""
    column, to_path = path_column(table, options), _path_reader(str(_root(table, options)), options.suffix)
    return [to_path(row[column].strip()) for _, row in table.rows()]


def _about(where: tuple[Path, int], wrong: str) -> str:
    return f"{where[0]}, line {where[1]}: {wrong}"


def _root(table: CsvTable, options: CsvOptions) -> Path:
    return table.file.parent / Path(options.root).expanduser()


def _path_reader(root: str, suffix: str) -> Callable[[str], str]:
    """Return a function from a cell to the path of its image. Backslashes separate folders on every system."""
    start = os.path.join(root, "")
    backslash, plain = os.sep == "/", re.compile(r"(?:^|/)\.{0,2}(?:/|$)")

    def to_path(cell: str) -> str:
        if backslash and "\\" in cell:
            cell = cell.replace("\\", "/")
        path = (cell if os.path.isabs(cell) else start + cell) + suffix
        return os.path.normpath(path) if plain.search(cell) or not backslash else path

    return to_path


def _label_reader(
    table: CsvTable, columns: Columns, separator: str
) -> Callable[[tuple[Path, int], list[str]], tuple[str, ...]]:
    """Return a function from a row to the sorted names of its classes."""
    known: dict[str | tuple[str, ...], tuple[str, ...]] = {}
    names = [class_name(table.header[column]) for column in columns.labels]
    between = re.compile(re.escape(separator) if separator else "[;|]")
    first = columns.labels[0]

    def one(where: tuple[Path, int], row: list[str]) -> tuple[str, ...]:
        cell = row[first]
        if cell not in known:
            known[cell] = (class_name(cell),)
            if not known[cell][0]:
                raise DataError(_about(where, f"column {table.header[first]!r} names no class"))
        return known[cell]

    def several(_: tuple[Path, int], row: list[str]) -> tuple[str, ...]:
        cell = row[first]
        if cell not in known:
            known[cell] = tuple(sorted({name for part in between.split(cell) if (name := class_name(part))}))
        return known[cell]

    def flags(where: tuple[Path, int], row: list[str]) -> tuple[str, ...]:
        cells = tuple([row[column] for column in columns.labels])
        if cells not in known:
            for name, cell in zip(names, cells, strict=True):
                if cell.strip().lower() not in FLAGS:
                    raise DataError(
                        _about(where, f"column {name!r} is {cell!r}; several columns in labels= hold 0 or 1")
                    )
            known[cells] = tuple(n for n, cell in zip(names, cells, strict=True) if FLAGS[cell.strip().lower()])
        return known[cells]

    if not columns.multi_label:
        return one
    return several if len(columns.labels) == 1 else flags


def class_name(cell: str) -> str:
    """Return the name of a class. It is text: 007 stays 007."""
    return unicodedata.normalize("NFC", cell.strip())


def _arranged(rows: Rows) -> Rows:
    """Put the rows in the order of their names, so that their order in the file has no effect."""
    start = os.path.join(rows.root, "")
    names = [path[len(start) :] if path.startswith(start) else path for path in rows.paths]
    if os.sep != "/":
        names = [name.replace(os.sep, "/") for name in names]
    order = sorted(range(len(names)), key=names.__getitem__)

    def arranged(values: Sequence[T]) -> list[T]:
        return [values[i] for i in order] if values else []

    return Rows(
        rows.file, rows.root, arranged(rows.lines), arranged(rows.paths), arranged(names), arranged(rows.labels),
        arranged(rows.splits), arranged(rows.groups),
    )  # fmt: skip


def refuse_missing(rows: Rows) -> None:
    """Refuse paths without a file. Each folder is listed once, which is faster than asking for each file.

    Raises:
        DataError: Names the first one with its line, and the number of others.
    """
    folders: dict[str, set[str]] = {}
    missing = []
    for index, path in enumerate(rows.paths):
        folder, name = os.path.split(path)
        if folder not in folders:
            try:
                folders[folder] = set(os.listdir(folder))
            except (OSError, ValueError):
                folders[folder] = set()
        if name not in folders[folder] and not os.path.isfile(path):  # such as another case on macOS and Windows
            missing.append(index)
    if missing:
        first = min(missing, key=rows.lines.__getitem__)
        more = f", and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise DataError(
            f"{rows.at(first)}: no file {rows.paths[first]}{more}; paths are relative to {rows.root} (root=DIR names "
            "another folder, suffix=.jpg adds an ending)"
        )
