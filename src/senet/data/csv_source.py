"""Lists of images (`csv:FILE`): paths with labels, and optionally splits and groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from senet.data.csv_name import CsvOptions, parse_csv_options
from senet.data.csv_rows import Rows, choose_columns, class_name, read_paths, read_rows, refuse_missing
from senet.data.csv_table import CsvTable
from senet.data.division import divide_requested
from senet.data.labels import MULTI_LABEL, class_totals
from senet.data.place import split_place
from senet.data.request import Request
from senet.data.sources import Data, FileSource, Subset
from senet.errors import DataError

__all__ = ["listed_paths", "open_csv"]

LAYOUT = "csv:FILE names a CSV file whose first line names the columns, such as path,label"


def open_csv(request: Request) -> Data:
    """Read `csv:FILE` or `csv:FILE:label=species,root=images`, see `senet.data.csv_name.CsvOptions`.

    A column `label` holds one class, a column `labels` any number of classes. A column `split` divides the images.
    Without it each class is divided, or with a column `group` the groups. Folds divide all but the test images.

    Raises:
        DataError: The file or one of its rows can't be used. The message names the line and a remedy.
    """
    table, options = _table(request.path)
    columns = choose_columns(table, options, request.group)
    rows = read_rows(table, columns, options)
    refuse_missing(rows)
    group = "" if columns.group is None else table.header[columns.group]
    splits = _positions(rows)
    folds = request.folds is not None or request.fold is not None
    known = np.concatenate([splits[name] for name in (("train", "val") if folds else ("train",))])
    classes = _classes(rows, known if request.training else np.arange(len(rows.paths)), request)
    if columns.multi_label and len(columns.labels) > 1:
        classes = tuple(sorted(class_name(table.header[column]) for column in columns.labels))
    labels = _labels(rows, classes, multi_label=columns.multi_label)
    if folds or not (len(splits["val"]) or len(splits["test"])):
        pool = np.sort(np.concatenate([splits["train"], splits["val"]]))
        _refuse_crossing_groups(rows, {"the folds": pool, "test": splits["test"]})
        data = _divide(rows, labels, classes, pool, request, group)
        test = _source(rows, labels, splits["test"]) if len(splits["test"]) else None
        data = replace(data, test=test)
    else:
        _refuse_crossing_groups(rows, splits)
        replace(request, group=None).refuse_split(f"its column {table.header[columns.split or 0]!r} divides it")
        if not len(splits["val"]):
            splits["val"], splits["test"] = splits["test"], splits["val"]
        sources = {name: _source(rows, labels, own) for name, own in splits.items()}
        test = sources["test"] if len(splits["test"]) else None
        data = Data(request.name, classes, sources["train"], sources["val"], test)
    if request.training:
        _refuse_empty_classes(data, table.file)
    return replace(data, task=MULTI_LABEL) if columns.multi_label else data


def listed_paths(name: str) -> list[str]:
    """Return the paths of `csv:FILE` in the order of the file. Other columns aren't read.

    Raises:
        DataError: The file can't be read, or has no column of paths.
    """
    table, options = _table(name.removeprefix("csv:"))
    return read_paths(table, options)


def _table(path: str) -> tuple[CsvTable, CsvOptions]:
    name, options = split_place(path)
    file = Path(name).expanduser()
    if not name or not file.is_file():
        wrong = "is a folder" if file.is_dir() and name else "doesn't exist"
        raise DataError(f"{file} {wrong}; {LAYOUT}" if name else f"csv needs a file: csv:FILE; {LAYOUT}")
    return CsvTable(file.absolute()), parse_csv_options(options)


def _positions(rows: Rows) -> dict[str, np.ndarray]:
    """Return the positions of each split's images. Without a column all are for training."""
    splits = np.array(rows.splits or ["train"] * len(rows.paths))
    return {name: np.flatnonzero(splits == name) for name in ("train", "val", "test")}


def _classes(rows: Rows, known: np.ndarray, request: Request) -> tuple[str, ...]:
    """Return the sorted classes of the given images. Training refuses other classes elsewhere."""
    if request.training and not len(known):
        raise DataError(f"{rows.file} has no training image: no row says train")
    classes = {name for index in known.tolist() for name in rows.labels[index]}
    for index, names in enumerate(rows.labels):
        unknown = next((name for name in names if name not in classes), None)
        if unknown is not None:
            raise DataError(f"{rows.at(index)}: no training image is of class {unknown!r}; add some, or remove the row")
    return tuple(sorted(classes))


def _labels(rows: Rows, classes: Sequence[str], *, multi_label: bool) -> np.ndarray:
    """Return (N,) class numbers, or (N, classes) uint8."""
    numbers = {name: number for number, name in enumerate(classes)}
    if not multi_label:
        return np.fromiter((numbers[names[0]] for names in rows.labels), dtype=np.int64, count=len(rows.labels))
    found = np.zeros((len(rows.labels), len(classes)), dtype=np.uint8)
    for index, names in enumerate(rows.labels):
        for name in names:
            found[index, numbers[name]] = 1
    return found


def _source(rows: Rows, labels: np.ndarray, positions: np.ndarray) -> FileSource:
    return FileSource((rows.paths[i] for i in positions), labels[positions], root=rows.root)


def _divide(
    rows: Rows, labels: np.ndarray, classes: tuple[str, ...], pool: np.ndarray, request: Request, group: str
) -> Data:
    source = _source(rows, labels, pool)
    groups = [rows.groups[i] for i in pool] if group else None
    names = [rows.names[i] for i in pool]
    train, val, spec = divide_requested(names, request, source.labels, groups=groups, group=group)
    request.refuse_empty(train=len(train), val=len(val))
    return Data(request.name, classes, Subset(source, train), Subset(source, val), split_spec=spec)


def _refuse_crossing_groups(rows: Rows, splits: dict[str, np.ndarray]) -> None:
    """Refuse a column of splits that divides a group."""
    if not rows.groups:
        return
    owner: dict[str, tuple[str, int]] = {}
    for name, positions in splits.items():
        for index in positions.tolist():
            split, first = owner.setdefault(rows.groups[index], (name, index))
            if split != name:
                raise DataError(
                    f"{rows.at(index)}: group {rows.groups[index]!r} is in {name} here and in {split} in line "
                    f"{rows.lines[first]}; keep it in one split, or write group= for no groups"
                )


def _refuse_empty_classes(data: Data, file: Path) -> None:
    if len(data.classes) < 2 - data.multi_label:
        raise DataError(f"{file} has {len(data.classes)} class; a classifier needs at least two")
    empty = np.flatnonzero(class_totals(data.train.labels, len(data.classes)) == 0)
    if len(empty):
        spec = data.split_spec
        names = ", ".join(repr(data.classes[i]) for i in empty[:5]) + (", ..." if len(empty) > 5 else "")
        why = f" ({spec.in_words})" if spec else ""
        raise DataError(
            f"{file}: no image is left to train on of {names}{why}; add images, or choose another --split-seed"
        )
