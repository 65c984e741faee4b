"""Tables of images and labels that other libraries read: their options, splits and classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from senet.data.division import divide_requested
from senet.data.place import split_place
from senet.data.request import Request
from senet.data.sources import Data, Source, Subset, missing_classes
from senet.errors import DataError

__all__ = ["class_numbers", "divided", "pick_column", "pick_splits", "place_and_options"]

VALIDATION_NAMES = ("val", "valid", "validation", "dev", "test")
"""Names of validation splits, in order of preference."""

SPLITS = ("train", "val", "test")


def place_and_options(request: Request, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """Split `PLACE:NAME=VALUE,NAME=VALUE` into its place and its options. A name alone has an empty value.

    Raises:
        DataError: There is no place, or an option is unknown, empty or given twice.
    """
    place, text = split_place(request.path)
    if not place:
        raise DataError(f"{request.kind} needs a place: {request.kind}:PLACE")
    options: dict[str, str] = {}
    for part in filter(None, text.removeprefix(":").split(",")):
        name, given, value = part.partition("=")
        if name not in known or name in options or (given and not value):
            raise DataError(f"{request.name}: {part!r} must be one of {', '.join(known)}, once, as NAME=VALUE")
        options[name] = value
    return place, options


def pick_splits(name: str, available: Sequence[str], options: Mapping[str, str]) -> dict[str, str]:
    """Return the data's names of the splits `train`, `val` and `test`, the last two only if they exist.

    Args:
        name: The data's name, for messages.
        available: Names of the data's splits.
        options: Chosen names. By default training takes the split `train`, or the only one. Validation takes the first
            of `VALIDATION_NAMES`, and the test split is `test`, if it isn't that one.

    Raises:
        DataError: A chosen split doesn't exist, or the training split isn't clear.
    """
    listed = ", ".join(available)
    picked = {split: options[split] for split in SPLITS if split in options}
    for chosen in picked.values():
        if chosen not in available:
            raise DataError(f"{name} has no split {chosen!r}; it has {listed}")
    if "train" not in picked:
        if "train" not in available and len(available) != 1:
            raise DataError(f"{name} has the splits {listed}; choose by ':train=NAME,val=NAME'")
        picked["train"] = "train" if "train" in available else available[0]
    for split, names in (("val", VALIDATION_NAMES), ("test", ("test",))):
        found = next((one for one in names if one in available and one not in picked.values()), None)
        if split not in picked and found is not None:
            picked[split] = found
    return picked


def pick_column(name: str, role: str, given: str | None, likely: Sequence[str], columns: Collection[str]) -> str:
    """Return the column of a role (`image`, `label`): the given one, or the only likely one.

    Raises:
        DataError: There is no such column, or more than one.
    """
    if given is not None:
        if given not in columns:
            raise DataError(f"{name} has no column {given!r}; it has {', '.join(columns)}")
        return given
    if len(likely) != 1:
        found = f"several {role} columns ({', '.join(likely)})" if likely else f"no clear {role} column"
        raise DataError(f"{name} has {found} among {', '.join(columns)}; choose by '?{role}=COLUMN'")
    return likely[0]


def class_numbers(
    name: str, columns: Mapping[str, np.ndarray], classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return the class names, and the labels of each split as positions among them.

    Args:
        name: The data's name, for messages.
        columns: Labels of each split, with `train` among them: integers, truth values or text.
        classes: Class names, if the labels are class numbers already. Else the sorted training labels are the classes.

    Raises:
        DataError: The labels are of another type, missing, or unknown in training.
    """
    for split, values in columns.items():
        if values.ndim != 1 or values.dtype.kind not in "biuU":
            raise DataError(f"{name}: labels of {split!r} must be whole numbers or text, none of them empty")
    if classes is not None:
        for split, values in columns.items():
            if len(values) and not 0 <= values.min() <= values.max() < len(classes):
                raise DataError(f"{name}: {split!r} has images without a label; leave this split out, or choose others")
        return tuple(classes), {split: values.astype(np.int64) for split, values in columns.items()}
    known = np.unique(columns["train"])
    numbers = {}
    for split, values in columns.items():
        numbers[split] = np.searchsorted(known, values).clip(0, max(len(known) - 1, 0))
        unknown = np.unique(values[known[numbers[split]] != values]) if len(known) else np.unique(values)
        if len(unknown):
            raise DataError(f"{name}: label {unknown[0]!s} of {split!r} doesn't occur in training")
    return tuple(map(str, known.tolist())), numbers


def divided(request: Request, classes: tuple[str, ...], sources: Mapping[str, Source]) -> Data:
    """Return the data set, divided by its own splits, or else by a fraction or by folds.

    Raises:
        DataError: A split or a class would be empty, there is one class only, or groups were asked for.
    """
    train, val = sources["train"], sources.get("val")
    if request.training and len(classes) < 2:
        raise DataError(f"{request.name} has one class only; a classifier needs at least two")
    if val is not None:
        request.refuse_split("it has its own validation split")
        return Data(request.name, classes, train, val, sources.get("test"))
    if request.group is not None:
        raise DataError(f"--group {request.group} has no effect on {request.name}: its rows have no paths; use csv:")
    paths = [train.entry(index).path for index in range(len(train))]
    labels = train.labels if request.folds is not None else None
    stays, taken, spec = divide_requested(paths, request, labels, stratify=False)
    request.refuse_empty(train=len(stays), val=len(taken))
    missed = set(missing_classes(Subset(train, stays), classes)) - set(missing_classes(train, classes))
    if missed and request.training:
        raise DataError(f"{request.name}: no image is left to train on of {min(missed)!r}; choose another --split-seed")
    return Data(request.name, classes, Subset(train, stays), Subset(train, taken), sources.get("test"), split_spec=spec)
