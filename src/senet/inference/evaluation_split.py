"""The split of a data set that a trained network is evaluated on, and its overlap with the training data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from senet.data import Data, Source, hold_out
from senet.data.listing import count_sampled
from senet.data.split import SplitSpec
from senet.weights import DataRecord

__all__ = ["EvaluationSplit", "choose_split"]

NAMES = {"train": "training split", "val": "validation split", "test": "test split"}

HELD_OUT = "validation images not used to choose the best epoch"


@dataclass(frozen=True)
class EvaluationSplit:
    """Images to evaluate a network on.

    Attributes:
        source: The images.
        split: `"train"`, `"val"`, `"test"` or `"all"`.
        total: Images of the whole data set.
        of: Name of the whole data set, in words.
        trained_on: Number of these images in the training data, by path and content, or None if unknown.
        held_out: The test split is half of the validation split, held out from choosing the best epoch.
        changed: The run's data differs from the time of training.

    Example:
        >>> from senet.data import open_data
        >>> from senet.inference import EvaluationSplit, choose_split
        >>> chosen: EvaluationSplit = choose_split(open_data("digits"), record=None)
        >>> chosen.split, chosen.description
        ('val', '359 of 1,797 images: the validation split of digits')
    """

    source: Source
    split: str
    total: int
    of: str
    trained_on: int | None
    held_out: bool = False
    changed: bool = False

    @property
    def description(self) -> str:
        """The images in words: `72 of 360 images: the validation split of this run`."""
        if self.split == "all":
            return f"all {self.total:,} images of {self.of}"
        which = HELD_OUT if self.held_out and self.split == "test" else NAMES[self.split]
        return f"{len(self.source):,} of {self.total:,} images: the {which} of {self.of}"

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the metrics, a sentence each."""
        found = []
        if self.changed:
            found.append("the data has changed since the training; its digest differs")
        if self.trained_on:
            found.append(
                f"the network was trained on {self.trained_on:,} of these {len(self.source):,} images (same path, "
                "same content); the metrics are better than on new images"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form, for a report of the evaluation."""
        return {"split": self.split, "of_images": self.total, "description": self.description,
                "trained_on": self.trained_on, "warnings": self.warnings}  # fmt: skip


def choose_split(data: Data, record: DataRecord | None, split: str | None = None) -> EvaluationSplit:
    """Choose the images that measure a network on a data set.

    Divided data is evaluated on its test split, else on its validation split. Undivided data of the run (the same path,
    or the same digest) is evaluated on the run's validation split. All of any other undivided data is evaluated.

    Args:
        data: Divided with the fraction and the seed of the record, unless the user wants others.
        record: The training data of the network, or None if unknown.
        split: `"train"`, `"val"`, `"test"` or `"all"`. None chooses.

    Raises:
        DataError: There is no such split, or it has no images.

    Example:
        >>> from senet.data import open_data
        >>> from senet.inference import choose_split
        >>> data = open_data("digits")
        >>> choose_split(data, data.record(), "train").warnings
        ['the network was trained on 1,438 of these 1,438 images ...']
    """
    own = record is not None and (data.absolute_name == record.name or data.digest == record.digest)
    if own and record is not None and record.held_out:
        data = hold_out(data)
    if split is None:
        split = "test" if data.test is not None else "val" if own or data.split_spec is None else "all"
    source = data.split(split)
    known = record is not None and bool(record.sample)
    return EvaluationSplit(
        source=source,
        split=split,
        total=sum(map(len, data.splits.values())),
        of="this run" if own and _as_trained(data, record) else data.name,
        held_out=data.held_out,
        trained_on=count_sampled(source, record.sample) if record is not None and known else None,
        changed=own and record is not None and data.digest != record.digest,
    )


def _as_trained(data: Data, record: DataRecord | None) -> bool:
    """Whether data is divided as in the training."""
    assert record is not None
    if record.val_fraction is None or record.split_seed is None:
        return data.split_spec is None
    own = SplitSpec(record.val_fraction, record.split_seed, record.folds, record.fold, record.group)
    return data.split_spec == own
