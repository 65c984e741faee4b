"""What a checkpoint says of the data that it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from senet.errors import shown

__all__ = ["DataRecord"]

FIELDS = ("name", "val_fraction", "split_seed", "digest", "train", "val", "held_out", "sample")


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The data that a network was trained on, so that it is evaluated on other images.

    Attributes:
        name: As `senet.data.open_data` takes it, with an absolute path.
        val_fraction: Share that was validated on, of images that came undivided; None where they came divided.
        split_seed: What the choice of these images depended on; None where they came divided.
        digest: `senet.data.Data.digest`.
        train: Number of images that were trained on.
        val: Number of images that were validated on.
        held_out: Whether half of the validation part was held out, see `senet.data.hold_out`.
        sample: Hashes of training images (path, then content), ascending: all of up to 1,024, else the smallest.
    """

    name: str
    val_fraction: float | None
    split_seed: int | None
    digest: str
    train: int
    val: int
    held_out: bool = False
    sample: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return asdict(self) | {"sample": list(self.sample)}

    @classmethod
    def from_dict(cls, values: Any) -> DataRecord:
        """Read what `to_dict` wrote.

        Raises:
            TypeError: A field is missing, unknown, or of another type.
            ValueError: A value is impossible.
        """
        if not isinstance(values, Mapping) or sorted(values) != sorted(FIELDS):
            raise TypeError(f"data must be an object of {', '.join(FIELDS)}, not {shown(values)}")
        for key in ("train", "val", "split_seed"):
            undivided = key == "split_seed" and values[key] is None
            if not undivided and (type(values[key]) is not int or (key != "split_seed" and values[key] < 0)):
                raise TypeError(f"data: {key}={shown(values[key])} must be a whole number")
        if type(values["held_out"]) is not bool:
            raise TypeError(f"data: held_out={shown(values['held_out'])} must be a truth value")
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


def _is_hex(value: Any, digits: int) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value) is not None
