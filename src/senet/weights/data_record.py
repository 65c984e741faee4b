"""The checkpoint's record of its training data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from senet.errors import shown

__all__ = ["DataRecord"]

FIELDS = ("name", "val_fraction", "split_seed", "digest", "train", "val", "held_out", "sample")
OPTIONAL: dict[str, object] = {"folds": 0, "fold": 0, "group": ""}
"""Fields that are written if they differ from these values."""


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The training data of a network. Evaluation uses it to avoid training images.

    Attributes:
        name: Name for `senet.data.open_data`, with an absolute path.
        val_fraction: Fraction of the images that went to the validation split. None where the data has its own split.
        split_seed: Seed of the split. None where the data has its own split.
        digest: `senet.data.Data.digest`.
        train: Number of training images.
        val: Number of validation images.
        held_out: Whether half of the validation split was held out, see `senet.data.hold_out`.
        sample: Sorted hashes of training images (path, then content): the 1,024 smallest.
        folds: Number of folds of the split, or 0 for a single division.
        fold: Fold of the validation images, in 1..folds.
        group: Column or regular expression of the groups that stay together, or empty without groups.

    Example:
        >>> from senet.weights import DataRecord
        >>> record = DataRecord(
        ...     name="folder:/data/pets", val_fraction=0.2, split_seed=0, digest="0" * 64, train=80, val=20
        ... )
        >>> DataRecord.from_dict(record.to_dict()) == record
        True
    """

    name: str
    val_fraction: float | None
    split_seed: int | None
    digest: str
    train: int
    val: int
    held_out: bool = False
    sample: tuple[str, ...] = ()
    folds: int = 0
    fold: int = 0
    group: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary for `from_dict`."""
        values = asdict(self) | {"sample": list(self.sample)}
        return {key: value for key, value in values.items() if key not in OPTIONAL or value != OPTIONAL[key]}

    @classmethod
    def from_dict(cls, values: Any) -> DataRecord:
        """Build a record from the result of `to_dict`.

        Raises:
            TypeError: A field is missing, unknown, or of another type.
            ValueError: A value is out of range.
        """
        if not isinstance(values, Mapping) or sorted(values.keys() - OPTIONAL.keys()) != sorted(FIELDS):
            raise TypeError(f"data must be an object of {', '.join(FIELDS)}, not {shown(values)}")
        values = OPTIONAL | dict(values)
        _check_folds(values)
        for key in ("train", "val", "split_seed"):
            undivided = key == "split_seed" and values[key] is None
            if not undivided and (type(values[key]) is not int or (key != "split_seed" and values[key] < 0)):
                raise TypeError(f"data: {key}={shown(values[key])} must be a whole number")
        if type(values["held_out"]) is not bool:
            raise TypeError(f"data: held_out={shown(values['held_out'])} must be true or false")
        fraction = values["val_fraction"]
        if (fraction is None) != (values["split_seed"] is None):
            raise ValueError("data: val_fraction and split_seed belong together")
        if fraction is not None and (type(fraction) not in (int, float) or not 0 < fraction < 1):
            raise ValueError(f"data: val_fraction={shown(fraction)} must lie between 0 and 1")
        if not isinstance(values["name"], str) or not _is_hex(values["digest"], 64):
            raise TypeError("data: name must be text, digest 64 hexadecimal digits")
        sample = values["sample"]
        if not isinstance(sample, list) or not all(_is_hex(one, 32) for one in sample):
            raise TypeError("data: sample must be a list of hashes, 32 hexadecimal digits each")
        if sorted(set(sample)) != sample:
            raise ValueError("data: sample must be ascending")
        return cls(**{**values, "sample": tuple(sample)})


def _check_folds(values: Mapping[str, Any]) -> None:
    folds, fold = values["folds"], values["fold"]
    if type(folds) is not int or type(fold) is not int or not isinstance(values["group"], str):
        raise TypeError("data: folds and fold must be whole numbers, group must be text")
    if folds < 0 or folds == 1 or not min(folds, 1) <= fold <= folds:
        raise ValueError(f"data: fold={fold} must lie in 1..folds={folds}")


def _is_hex(value: Any, digits: int) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value) is not None
