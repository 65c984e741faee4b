"""What an exported file says of itself: enough to use it with nothing but its runtime."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from senet.errors import CheckpointError, shown
from senet.preprocessing import Preprocessing
from senet.weights import DataRecord
from senet.weights.strict_json import parse

__all__ = ["INPUT", "OUTPUT", "PRECISIONS", "ExportMetadata"]

FORMAT = 1

INPUT, OUTPUT = "images", "logits"
"""Names of a file's input, (N, C, H, W) float32, and output, (N, classes) float32."""

PRECISIONS = {"32": "float32", "bf16": "bf16", "int8": "int8"}
"""As asked for, to what is told."""


@dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """What is embedded in each exported file, one JSON text a field.

    Attributes:
        model: A name of `list_models()`, or what else the checkpoint called it.
        classes: Class names, in the order of the logits.
        preprocessing: What an image must go through.
        size: Height and width in pixels that the file takes; None: any.
        batch: Images at a time that it takes; None: any number.
        precision: A key of `PRECISIONS`.
        metrics: As measured when it was written; accuracies in 0..1.
        data: What it was trained on; None where that isn't known.
    """

    model: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    size: tuple[int, int] | None = None
    batch: int | None = None
    precision: str = "32"
    metrics: dict[str, float] = field(default_factory=dict)
    data: DataRecord | None = None

    def to_texts(self) -> dict[str, str]:
        """Key to JSON; file formats hold texts only."""
        values = {
            "senet_format": FORMAT,
            "model": self.model,
            "classes": self.classes,
            "preprocessing": self.preprocessing.to_dict(),
            "size": self.size,
            "batch": self.batch,
            "precision": self.precision,
            "metrics": self.metrics,
            "data": self.data.to_dict() if self.data else None,
        }
        return {key: json.dumps(value) for key, value in values.items()}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], path: Path) -> ExportMetadata:
        """Read what `to_texts` wrote; `path` is told where it is none.

        Raises:
            CheckpointError: Another program wrote the file, or a newer release.
        """
        if "senet_format" not in texts:
            raise CheckpointError(
                f"{path}: no file of `senet export`: it doesn't say which classes and preprocessing it has"
            )
        try:
            values = {key: parse(text) for key, text in texts.items() if key in _KEYS}
            version = values.pop("senet_format")
            if type(version) is not int or version != FORMAT:
                raise CheckpointError(
                    f"{path}: format {shown(version)}, this release reads {FORMAT}; upgrade senet to use it"
                )
            for key, valid in _VALID.items():
                if key in values and not valid(values[key]):
                    raise TypeError(f"{key}={shown(values[key])}")
            values["classes"] = tuple(values["classes"])
            values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
            values["size"] = tuple(values["size"]) if values.get("size") else None
            values["data"] = DataRecord.from_dict(values["data"]) if values.get("data") is not None else None
            return cls(**values)
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: what it says of itself can't be read ({error})") from error

    def __str__(self) -> str:
        size = "any size" if self.size is None else f"{self.size[0]}x{self.size[1]} pixels"
        batch = "any batch" if self.batch is None else f"batch {self.batch}"
        return f"{PRECISIONS[self.precision]}, {size}, {batch}"


_KEYS = ("senet_format", "model", "classes", "preprocessing", "size", "batch", "precision", "metrics", "data")


def _count(value: Any) -> bool:
    return type(value) is int and value >= 1


_VALID: Final[Mapping[str, Callable[[Any], bool]]] = {
    "model": lambda value: isinstance(value, str),
    "classes": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "size": lambda value: value is None or (isinstance(value, list) and len(value) == 2 and all(map(_count, value))),
    "batch": lambda value: value is None or _count(value),
    "precision": lambda value: isinstance(value, str) and value in PRECISIONS,
    "metrics": lambda value: isinstance(value, dict) and all(type(v) in (int, float) for v in value.values()),
}
"""What each field may be, as JSON has it."""
