"""The name of a list of images on the command line: `csv:FILE:label=species,root=images`."""

from __future__ import annotations

import csv
from dataclasses import dataclass

from senet.errors import DataError, UnknownNameError

__all__ = ["KEYS", "CsvOptions", "parse_csv_options"]

KEYS = ("path", "label", "labels", "split", "group", "root", "suffix", "separator")
"""Options after the file's name."""


@dataclass(frozen=True)
class CsvOptions:
    """Columns of a list of images, and the rest of the options behind its name.

    Attributes:
        path: Column of the paths, or None to find it by its name.
        label: Column of the classes, or None to find it by its name.
        labels: Column of several classes, or columns of 0 and 1, or empty to find it by its name.
        split: Column of the splits, empty for none, or None to find it by its name.
        group: Column of the groups, empty for none, or None to find it by its name.
        root: Folder of relative paths, itself relative to the file's folder.
        suffix: Text that is added to each path, such as `.jpg`.
        separator: Text between several classes, or empty for `;` and `|`.
    """

    path: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = ()
    split: str | None = None
    group: str | None = None
    root: str = ""
    suffix: str = ""
    separator: str = ""


def parse_csv_options(text: str) -> CsvOptions:
    """Parse `:labels=cat,dog,root=images`. A word without `=` continues the list before it.

    Raises:
        UnknownNameError: There is no such option.
        DataError: An option is given twice, or has several values where it takes one.

    Example:
        >>> from senet.data.csv_name import parse_csv_options
        >>> parse_csv_options(":labels=cat,dog,root=images").labels
        ('cat', 'dog')
    """
    given: dict[str, list[str]] = {}
    key = ""
    for word in next(csv.reader([text.removeprefix(":")]), []):
        name, equals, value = word.partition("=")
        if equals:
            key = name.strip()
            if key not in KEYS:
                raise UnknownNameError("option of csv:", key, KEYS)
            if key in given:
                raise DataError(f"csv: {key}= is given twice")
            given[key] = [value]
        else:
            given[key].append(word)
    several = next((key for key, values in given.items() if len(values) > 1 and key != "labels"), None)
    if several is not None:
        raise DataError(f"csv: {several}= takes one value, not {', '.join(given[several])}; only labels= takes several")
    labels = tuple(given.pop("labels", ()))
    return CsvOptions(labels=labels, **{key: values[0] for key, values in given.items()})
