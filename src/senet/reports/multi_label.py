"""The report of a multi-label classifier's evaluation."""

from __future__ import annotations

import csv
import heapq
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, final

from torch import Tensor

from senet.data import CorruptImage, Source
from senet.data.images import to_8_bits
from senet.inference import MultiLabelEvaluation, evaluate_labels
from senet.inference.classes import output_names
from senet.inference.labels import labels_above, thresholds_of
from senet.pages import thumbnail
from senet.reports.classification import EDGE, MISTAKES
from senet.reports.predictions import MOST_COLUMNS
from senet.reports.writing import new_report, write_document, write_rows
from senet.spreadsheet import text_cell
from senet.zoo import LoadedModel

__all__ = ["report_multi_label"]


def report_multi_label(
    folder: str | os.PathLike[str],
    loaded: LoadedModel,
    source: Source,
    classes: Sequence[str],
    *,
    about: Mapping[str, Any],
    batch_size: int = 128,
    precision: str = "32",
    workers: int | None = None,
    tta: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[MultiLabelEvaluation, dict[str, Any]]:
    """Evaluate a multi-label classifier and write the report: a page, `report.json` and two CSV files.

    Args:
        folder: A new folder, or an earlier report, which is replaced.
        loaded: The network.
        source: The images.
        classes: Names of the labels.
        about: Further entries of the document: `checkpoint`, `model`, `data` and the split.
        batch_size: Images in a batch.
        precision: `"32"`, `"bf16"` or `"fp16"`.
        workers: Processes that decode. None chooses.
        tta: Test-time augmentation, as in `senet.inference.evaluate`.
        progress: Called with the numbers of images done and in all.

    Returns:
        The result, and the numbers of `report.json`.

    Raises:
        SenetError: The folder holds anything else, or a label is unknown to the network.

    Example:
        >>> import tempfile
        >>> import senet
        >>> from senet.data import MemorySource, sample_images
        >>> from senet.preprocessing import CIFAR
        >>> from senet.reports import report_multi_label
        >>> from senet.weights import CheckpointMetadata
        >>> from senet.zoo import LoadedModel
        >>> source = MemorySource([(image,) for image in sample_images(2)], [[1, 1], [1, 0]], name="photos")
        >>> metadata = CheckpointMetadata(
        ...     model="se_cifar_resnet20", classes=("sky", "person"), preprocessing=CIFAR, task="multi-label")
        >>> network = senet.create_model("se_cifar_resnet20", num_classes=2).eval()
        >>> loaded = LoadedModel(network, metadata.classes, CIFAR, metadata)  # or senet.load_model(PATH)
        >>> folder = tempfile.mkdtemp() + "/report"
        >>> about = {"checkpoint": "runs/photos", "model": "se_cifar_resnet20", "data": "photos"}
        >>> result, document = report_multi_label(folder, loaded, source, ["sky", "person"], about=about, workers=0)
        >>> document["map"] == result.map
        True
    """
    names = output_names(loaded, classes)
    with new_report(Path(folder)) as new:
        with (new / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
            writer = _Writer(file, source, names, thresholds_of(loaded))
            result = evaluate_labels(
                loaded, source, classes, batch_size=batch_size, precision=precision, workers=workers, corrupt="skip",
                tta=tta, observe=writer, progress=progress,
            )  # fmt: skip
        mistakes = writer.mistakes()
        document = {"task": "multi-label"} | dict(about) | result.to_dict() | {
            "confident_mistakes": [_described(mistake, source, names) for mistake in mistakes]
        }  # fmt: skip
        write_rows(new / "classes.csv", CLASS_COLUMNS, map(_class_row, result.classes.items()))
        write_document(new, document, {"confident_mistakes": _with_images(mistakes, source, names, loaded)})
    return result, document


CLASS_COLUMNS: Final = (
    "label", "images", "predicted", "right", "threshold", "average_precision", "precision", "precision_low",
    "precision_high", "recall", "recall_low", "recall_high", "f1",
)  # fmt: skip


def _class_row(item: tuple[str, Any]) -> list[Any]:
    name, c = item
    low_high = [interval or (None, None) for interval in (c.precision_interval, c.recall_interval)]
    shares = [c.threshold, c.average_precision, c.precision, *low_high[0], c.recall, *low_high[1], c.f1]
    return [name, c.images, c.predicted, c.right, *shares]


class _Mistake(NamedTuple):
    """A label that an image wrongly has, or wrongly lacks. The most confident one is the largest.

    Attributes:
        confidence: Probability of the wrong answer.
        image: Position in the source, negated, so that the first of equals is the largest.
        label: Number of the label, negated.
        probability: Probability of the label.
        present: Whether the image has the label in truth.
    """

    confidence: float
    image: int
    label: int
    probability: float
    present: bool


@final
class _Writer:
    """Write each batch's predictions, and keep the most confident mistakes.

    With up to 100 labels a row has all probabilities, else those of the predicted labels.
    """

    def __init__(self, file: IO[str], source: Source, classes: Sequence[str], thresholds: Sequence[float]) -> None:
        self._rows, self._source = csv.writer(file), source
        self._classes, self._thresholds = classes, thresholds
        self._all = len(classes) <= MOST_COLUMNS
        self._mistakes: list[_Mistake] = []
        more = [text_cell(f"p:{name}") for name in classes] if self._all else ["probabilities"]
        self._rows.writerow(("path", "truth", "predicted", "wrong", *more))

    def __call__(self, indices: Tensor, labels: Tensor, probabilities: Tensor) -> None:
        """Write one batch, see `senet.inference.evaluation.Observer`."""
        above = labels_above(probabilities, self._classes, self._thresholds)
        rows = zip(indices.tolist(), labels.tolist(), probabilities.tolist(), above, strict=True)
        for index, truth, shares, predicted in rows:
            wrong = [
                _Mistake(1 - p if present else p, -index, -number, p, present)
                for number, (p, present, least) in enumerate(zip(shares, truth, self._thresholds, strict=True))
                if (p >= least) != present
            ]
            self._mistakes = heapq.nlargest(MISTAKES, [*self._mistakes, *wrong])
            own = [name for name, present in zip(self._classes, truth, strict=True) if present]
            more = map(_short, shares) if self._all else [";".join(_short(p) for _, p in predicted)]
            self._rows.writerow((
                text_cell(self._source.locate(index)), text_cell(";".join(own)),
                text_cell(";".join(name for name, _ in predicted)), len(wrong), *more,
            ))  # fmt: skip

    def mistakes(self) -> list[_Mistake]:
        """Return the most confident mistakes so far, the most confident one first."""
        return self._mistakes


def _short(value: float) -> str:
    return f"{value:.6g}"


def _described(mistake: _Mistake, source: Source, names: Sequence[str]) -> dict[str, Any]:
    return {
        "path": source.locate(-mistake.image),
        "label": names[-mistake.label],
        "present": mistake.present,
        "probability": mistake.probability,
    }


def _with_images(
    mistakes: Sequence[_Mistake], source: Source, names: Sequence[str], loaded: LoadedModel
) -> list[dict[str, Any]]:
    @cache
    def small(index: int) -> str | None:
        try:
            return thumbnail(to_8_bits(source[index][0], loaded.preprocessing.white_level), EDGE)
        except CorruptImage:  # it was readable a moment ago
            return None

    return [_described(mistake, source, names) | {"image": small(-mistake.image)} for mistake in mistakes]
