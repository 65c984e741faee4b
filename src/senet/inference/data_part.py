"""Which images of a data set a trained network is evaluated on, and how many of them it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from senet.data import Data, Source, hold_out
from senet.data.listing import count_sampled
from senet.weights import DataRecord

__all__ = ["Part", "chosen_part"]

WORDS = {"train": "training part", "val": "validation part", "test": "test part"}

HELD_OUT = "validation images that didn't choose the best epoch"


@dataclass(frozen=True)
class Part:
    """Images to evaluate a network on.

    Attributes:
        source: The images.
        split: `"train"`, `"val"`, `"test"` or `"all"`.
        total: Images of the whole data set.
        of: What it is a part of, in words.
        trained_on: How many of them the network was trained on, by path and content; None where that isn't known.
        held_out: The test part is half of the validation part, held out from choosing the best epoch.
        changed: The run's data is another than when the network was trained.
    """

    source: Source
    split: str
    total: int
    of: str
    trained_on: int | None
    held_out: bool = False
    changed: bool = False

    @property
    def words(self) -> str:
        """`72 of 360 images: the validation part of this run`."""
        if self.split == "all":
            return f"all {self.total:,} images of {self.of}"
        part = HELD_OUT if self.held_out and self.split == "test" else WORDS[self.split]
        return f"{len(self.source):,} of {self.total:,} images: the {part} of {self.of}"

    @property
    def warnings(self) -> list[str]:
        """What makes the figures others than they seem, a sentence each."""
        found = []
        if self.changed:
            found.append("the data has changed since the training: its digest is another")
        if self.trained_on:
            found.append(
                f"the network was trained on {self.trained_on:,} of these {len(self.source):,} images (same path, "
                "same content): the figures are better than on new images"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for a report of the evaluation."""
        return {"split": self.split, "of_images": self.total, "part": self.words, "trained_on": self.trained_on,
                "warnings": self.warnings}  # fmt: skip


def chosen_part(data: Data, record: DataRecord | None, split: str | None = None) -> Part:
    """The images that say how good a network is on a data set.

    Data that comes divided is evaluated on its test part, else on its validation part. Undivided data of the run (the
    same place, or the same digest) is evaluated on the run's validation part; any other undivided data as a whole.

    Args:
        data: Divided with the fraction and the seed of the record, unless the user wants others.
        record: What the network was trained on; None where nobody knows.
        split: `"train"`, `"val"`, `"test"` or `"all"`; None chooses.

    Raises:
        DataError: There is no such part, or it has no images.
    """
    own = record is not None and (data.place == record.name or data.digest == record.digest)
    if own and record is not None and record.held_out:
        data = hold_out(data)
    if split is None:
        split = "test" if data.test is not None else "val" if own or data.split is None else "all"
    source = data.part(split)
    known = record is not None and bool(record.sample)
    return Part(
        source=source,
        split=split,
        total=sum(map(len, data.parts.values())),
        of="this run" if own and _as_trained(data, record) else data.name,
        held_out=data.held_out,
        trained_on=count_sampled(source, record.sample) if record is not None and known else None,
        changed=own and record is not None and data.digest != record.digest,
    )


def _as_trained(data: Data, record: DataRecord | None) -> bool:
    """Whether data is divided as when the network was trained."""
    assert record is not None
    return data.split == (None if record.val_fraction is None else (record.val_fraction, record.split_seed))
