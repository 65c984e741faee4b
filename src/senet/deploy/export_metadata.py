"""The metadata embedded in an exported file: its classes, preprocessing and input size."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from senet.errors import CheckpointError, shown
from senet.preprocessing import Preprocessing
from senet.weights import DataRecord
from senet.weights.checkpoint import checked_thresholds
from senet.weights.strict_json import parse

__all__ = ["INPUT", "OUTPUTS", "PRECISIONS", "ExportMetadata"]

FORMATS: Final[Mapping[str, int]] = {"classification": 1, "multi-label": 2, "segmentation": 2, "detection": 2}
"""Task to the version of its files. Releases that know version 1 alone would take any file for a classifier's."""

INPUT = "images"
"""Name of a file's input, (N, C, H, W) float32: normalised, or in 0..1 for a detector, which normalises itself."""

OUTPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "classification": ("logits",),
    "multi-label": ("logits",),
    "segmentation": ("logits",),
    "detection": ("boxes", "scores", "labels"),
}
"""Task to the names of a file's outputs.

A classifier has logits (N, classes), a segmenter (N, classes, H, W), both float32. A detector has, for its one image,
boxes (n, 4) float32 as x1, y1, x2, y2 in the input's pixels, scores (n,) float32 descending, and labels (n,) int64 that
count classes from 0.
"""

PRECISIONS = {"32": "float32", "bf16": "bf16", "fp16": "fp16", "int8": "int8"}
"""Value of `precision` to its name in reports."""


@dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """The metadata embedded in an exported file, one JSON text per field.

    Attributes:
        model: A name of `list_models()`, or the checkpoint's own name for the network.
        classes: Class names, in the order of the logits.
        preprocessing: Preprocessing of the images.
        size: Fixed height and width in pixels; None: any.
        batch: Fixed batch size; None: any.
        precision: `"32"`, `"bf16"`, `"fp16"` or `"int8"`.
        metrics: Metrics at the time of writing. Accuracies lie in 0..1.
        data: Training data; None where unknown.
        task: `"classification"`, `"multi-label"`, `"segmentation"` or `"detection"`.
        thresholds: Smallest probability of each label of a multi-label classifier; empty: 0.5, or another task.
        score_threshold: Smallest score of a detector's boxes; None: unknown, or another task.
        category_ids: COCO's number of each class of a detector; empty: 1 to N, or another task.

    Example:
        >>> from senet.deploy import ExportMetadata
        >>> from senet.preprocessing import IMAGENET
        >>> metadata = ExportMetadata(model="se_resnet50", classes=("cat", "dog"), preprocessing=IMAGENET, batch=1)
        >>> print(metadata)
        float32, any size, batch 1
        >>> ExportMetadata.from_texts(metadata.to_texts(), "pets.onnx") == metadata
        True
    """

    model: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    size: tuple[int, int] | None = None
    batch: int | None = None
    precision: str = "32"
    metrics: dict[str, float] = field(default_factory=dict)
    data: DataRecord | None = None
    task: str = "classification"
    thresholds: tuple[float, ...] = ()
    score_threshold: float | None = None
    category_ids: tuple[int, ...] = ()

    @property
    def activation(self) -> str:
        """The function that turns the logits into probabilities: `"softmax"` or `"sigmoid"`."""
        return "sigmoid" if self.task == "multi-label" else "softmax"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the file's outputs."""
        return OUTPUTS[self.task]

    def to_texts(self) -> dict[str, str]:
        """Return the fields as JSON texts, since file formats store texts only."""
        values: dict[str, Any] = {
            "senet_format": FORMATS[self.task],
            "model": self.model,
            "classes": self.classes,
            "preprocessing": self.preprocessing.to_dict(),
            "size": self.size,
            "batch": self.batch,
            "precision": self.precision,
            "metrics": self.metrics,
            "data": self.data.to_dict() if self.data else None,
        }
        if self.task != "classification":
            values["task"] = self.task
        if self.task == "multi-label":
            values |= {"thresholds": self.thresholds, "activation": self.activation}
        if self.task == "detection":
            values |= {"score_threshold": self.score_threshold, "category_ids": self.category_ids}
        return {key: json.dumps(value) for key, value in values.items()}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], path: str | os.PathLike[str]) -> ExportMetadata:
        """Build metadata from the result of `to_texts`.

        Args:
            texts: Field name to JSON text.
            path: The file, for messages.

        Raises:
            CheckpointError: The file is from another program or a newer release.
        """
        if "senet_format" not in texts:
            raise CheckpointError(
                f"{path}: not a file of `senet export`: it has no metadata about classes and preprocessing"
            )
        try:
            values = {key: parse(text) for key, text in texts.items() if key in _KEYS}
            version = values.pop("senet_format")
            newest = max(FORMATS.values())
            if type(version) is not int or not 1 <= version <= newest:
                raise CheckpointError(
                    f"{path}: format {shown(version)}, this release reads {newest}; upgrade senet to use it"
                )
            for key, valid in _VALID.items():
                if key in values and not valid(values[key]):
                    raise TypeError(f"{key}={shown(values[key])}")
            values["classes"] = tuple(values["classes"])
            values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
            values["size"] = tuple(values["size"]) if values.get("size") else None
            values["thresholds"] = checked_thresholds(values.get("thresholds", []), len(values["classes"]))
            values["category_ids"] = tuple(values.get("category_ids", ()))
            values["data"] = DataRecord.from_dict(values["data"]) if values.get("data") is not None else None
            return cls(**values)
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: its metadata can't be read ({error})") from error

    def __str__(self) -> str:
        size = "any size" if self.size is None else f"{self.size[0]}x{self.size[1]} pixels"
        batch = "any batch" if self.batch is None else f"batch {self.batch}"
        return f"{PRECISIONS[self.precision]}, {size}, {batch}"


_KEYS = ("senet_format", "model", "classes", "preprocessing", "size", "batch", "precision", "metrics", "data",
         "task", "thresholds", "score_threshold", "category_ids")  # fmt: skip


def _count(value: Any) -> bool:
    return type(value) is int and value >= 1


_VALID: Final[Mapping[str, Callable[[Any], bool]]] = {
    "model": lambda value: isinstance(value, str),
    "classes": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "size": lambda value: value is None or (isinstance(value, list) and len(value) == 2 and all(map(_count, value))),
    "batch": lambda value: value is None or _count(value),
    "precision": lambda value: isinstance(value, str) and value in PRECISIONS,
    "task": lambda value: isinstance(value, str) and value in FORMATS,
    "score_threshold": lambda value: value is None or type(value) in (int, float),
    "category_ids": lambda value: isinstance(value, list) and all(type(number) is int for number in value),
    "metrics": lambda value: isinstance(value, dict) and all(type(v) in (int, float) for v in value.values()),
}
"""Field to the check of its JSON value."""
