"""The model card of a published network: the page that the Hub shows, with metadata for its search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from torch import nn

from senet.gates import gated_layers
from senet.weights import CheckpointMetadata

__all__ = ["model_card", "without_path"]

PIPELINES: Final = {
    "classification": "image-classification",
    "multi-label": "image-classification",
    "detection": "object-detection",
    "segmentation": "image-segmentation",
}
"""Task to its name on the Hub."""

METRICS: Final = {
    "top1": ("top-1 accuracy", "accuracy"),
    "top5": ("top-5 accuracy", "accuracy"),
    "map": ("mAP", "mean_average_precision"),
    "map50": ("mAP at 0.5", "mean_average_precision"),
    "micro_f1": ("micro F1", "f1"),
    "macro_f1": ("macro F1", "f1"),
    "miou": ("mean IoU", "mean_iou"),
    "dice": ("Dice", "dice"),
    "loss": ("loss", "loss"),
}
"""Metric to its title and its name on the Hub."""

SHOWN: Final = ("top1", "top5", "map", "micro_f1", "loss")
"""Metrics of an evaluation of a classifier."""

COUNTED: Final = ("top1", "top5")
"""Metrics that are fractions of images."""

CLASSES_SHOWN: Final = 100

CARD: Final = """{front}
# {title}

{summary}

## Use

```python
import senet

loaded = senet.load_model("hf://{name}")
outputs = loaded.model(images)  # a batch that was prepared as below; loaded.classes names the outputs
```

On the command line:

```bash
senet predict IMAGE --checkpoint hf://{name}
```
{timm}
## Metrics

{metrics}

## Data

{data}

## Training

{training}

## Preprocessing

{preprocessing}

## Gates

{gates}

## Classes

{classes}

## Licence

{licence}
"""

TIMM: Final = """
With timm:

```python
import timm
import senet.integrations.timm  # makes the network known to timm

model = timm.create_model("hf-hub:{name}", pretrained=True)
```
"""


def model_card(
    model: nn.Module,
    metadata: CheckpointMetadata,
    *,
    name: str,
    licence: str = "",
    timm: bool = False,
    evaluation: Mapping[str, Any] | None = None,
    inspection: Mapping[str, Any] | None = None,
) -> str:
    """Return the model card as Markdown with a YAML header.

    Args:
        model: The network.
        metadata: Its metadata.
        name: `user/name`.
        licence: SPDX identifier, or nothing.
        timm: Whether timm can load the network.
        evaluation: A result of `senet.inference.evaluate` as a dictionary, with `data` and `split`.
        inspection: `senet.inspection.Inspection.summary` of its gates.

    Example:
        >>> import senet
        >>> from senet.integrations.hub import described
        >>> from senet.integrations.model_card import model_card
        >>> model = senet.create_model("se_cifar_resnet20", num_classes=2)
        >>> card = model_card(model, described(model, ("cat", "dog")), name="user/pets", licence="mit")
        >>> "9 attention layers" in card, card.count("hf://user/pets")
        (True, 2)
    """
    params = sum(parameter.numel() for parameter in model.parameters())
    figures, how = _figures(metadata, evaluation)
    return CARD.format(
        front=_front(metadata, name, licence, timm, evaluation, figures),
        title=name.rpartition("/")[2],
        summary=f"`{_code(metadata.model)}` for {metadata.task}, {len(metadata.classes):,} classes, {params:,} "
        "parameters. Made with senet, Squeeze-and-Excitation networks for PyTorch.",
        name=name,
        timm=TIMM.format(name=name) if timm else "",
        metrics=_metrics(figures, how),
        data=_data(metadata),
        training=_training(metadata),
        preprocessing=_table(("", ""), [(key, _value(v)) for key, v in metadata.preprocessing.to_dict().items()]),
        gates=_gates(model, params, inspection),
        classes=_classes(metadata.classes),
        licence=f"`{_code(licence)}`" if licence else "The publisher states no licence.",
    )


Figures = dict[str, tuple[float, Sequence[float] | None]]
"""Metric to its value and its 95 % interval."""


def _figures(metadata: CheckpointMetadata, evaluation: Mapping[str, Any] | None) -> tuple[Figures, str]:
    """Return the metrics and how they were measured."""
    if evaluation is not None:
        intervals = evaluation.get("intervals", {})
        values = evaluation.get("metrics") or {key: evaluation.get(key) for key in SHOWN}
        found = {key: (value, intervals.get(key)) for key, value in values.items() if value is not None}
        data = evaluation.get("data")
        split = _text(evaluation.get("split", "all"))
        where = f" (split `{split}` of `{_code(without_path(data))}`)" if data else ""
        doubts = "".join(f"\n\n{_text(warning)}" for warning in evaluation.get("warnings", ()))
        return found, f"Measured on {evaluation['images']:,} images{where}, with 95 % intervals over images.{doubts}"
    count = metadata.data.val if metadata.data is not None else 0
    found = {key: (value, _interval(key, value, count)) for key, value in metadata.metrics.items() if value == value}
    return found, (
        "On the validation images during training"
        + (f" ({count:,} images), with 95 % intervals over images." if count else ".")
        + " They also chose the epoch, so they are slightly optimistic."
    )


def _interval(metric: str, value: float, count: int) -> Sequence[float] | None:
    """Return the 95 % interval of a fraction of images (Wilson 1927)."""
    if metric not in COUNTED or not count or not 0 <= value <= 1:
        return None
    from scipy.stats import binomtest

    found = binomtest(round(value * count), count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def _metrics(figures: Figures, how: str) -> str:
    if not figures:
        return "None are recorded."
    rows = []
    for key, (value, interval) in figures.items():
        form = ".4f" if key == "loss" else ".2%"
        span = f"{interval[0]:{form}} to {interval[1]:{form}}" if interval else ""
        rows.append((METRICS.get(key, (key, key))[0], f"{value:{form}}", span))
    return f"{_table(('metric', 'value', '95 % interval'), rows)}\n\n{how}"


def _data(metadata: CheckpointMetadata) -> str:
    record = metadata.data
    if record is None:
        name = metadata.training.get("data")
        return f"`{_code(name)}`" if name else "No data is recorded."
    split = "" if record.val_fraction is None else f" ({record.val_fraction:.0%} split off, seed {record.split_seed})"
    return f"`{_code(record.name)}`: {record.train:,} training and {record.val:,} validation images{split}."


def _training(metadata: CheckpointMetadata) -> str:
    if not metadata.training:
        return "No training is recorded."
    recipe = metadata.training.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    rows = [(key, _value(v)) for key, v in metadata.training.items() if key in ("epoch", "converted_from", "layout")]
    rows += [(key, _value(v)) for key, v in recipe.items() if key not in ("augmentation", "expects")]
    augmentation = recipe.get("augmentation")
    rows += [(f"augmentation: {key}", _value(v)) for key, v in dict(augmentation or {}).items() if v]
    options = [(f"network: {key}", _value(v)) for key, v in metadata.options.items()]
    return _table(("", ""), rows + options) if rows + options else "No recipe is recorded."


def _gates(model: nn.Module, params: int, inspection: Mapping[str, Any] | None) -> str:
    layers = gated_layers(model)
    if not layers:
        return "The network has no attention layer."
    own = sum(parameter.numel() for layer in layers.values() for parameter in layer.parameters())
    kinds = ", ".join(sorted({type(layer).__name__ for layer in layers.values()}))
    text = f"{len(layers)} attention layers ({kinds}) with {own:,} parameters, {own / params:.1%} of the network."
    if inspection is None:
        return text
    head = ("block", "channels", "mean", "spread", "off", "always on", "varies with the class")
    rows = [
        (
            f"`{_code(block['name'])}`", f"{block['channels']:,}", f"{block['mean']:.3f}", f"{block['spread']:.3f}",
            f"{block['dead']:.1%}", f"{block['saturated']:.1%}", f"{block['specificity']:.1%}",
        )
        for block in inspection["blocks"]
    ]  # fmt: skip
    notes = "\n".join(f"- {_text(finding['text'])}" for finding in inspection.get("findings", ()))
    measured = f"Over {inspection['images']:,} images ({_text(without_path(inspection['data']))}):"
    return "\n\n".join(part for part in (text, measured, _table(head, rows), notes) if part)


def _classes(classes: Sequence[str]) -> str:
    shown = ", ".join(f"`{_code(name)}`" for name in classes[:CLASSES_SHOWN])
    more = len(classes) - CLASSES_SHOWN
    return shown + (f" and {more:,} more, see `config.json`" if more > 0 else "")


def _front(
    metadata: CheckpointMetadata,
    name: str,
    licence: str,
    timm: bool,
    evaluation: Mapping[str, Any] | None,
    figures: Figures,
) -> str:
    """Return the header that the Hub's search reads."""
    from huggingface_hub import EvalResult, ModelCardData

    task = PIPELINES.get(metadata.task, metadata.task)
    data = without_path((evaluation or {}).get("data") or metadata.training.get("data") or "unknown")
    results = [
        EvalResult(
            task_type=task,
            dataset_type=data,
            dataset_name=data,
            metric_type=METRICS[key][1],
            metric_name=METRICS[key][0],
            metric_value=round(value, 6),
            dataset_split=(evaluation or {}).get("split"),
        )
        for key, (value, _) in figures.items()
        if key in METRICS
    ]
    header = ModelCardData(
        library_name="senet",
        license=licence or None,
        tags=["senet", "squeeze-and-excitation", *(["timm"] if timm else [])],
        pipeline_tag=task,
        model_name=name.rpartition("/")[2],
        eval_results=results or None,
    )
    return f"---\n{header.to_yaml()}\n---\n"


def without_path(name: object) -> str:
    """Return the name of a data set with only the last part of its path: `folder:/home/me/pets` is `folder:pets`."""
    kind, colon, path = str(name).partition(":")
    return f"{kind}:{PurePath(path).name}" if colon else kind


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items())
    return _text(f"{value:g}" if isinstance(value, float) else value)


def _text(value: object) -> str:
    """Return text of a file on one line, without the marks of Markdown and HTML."""
    text = _one_line(value)
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return text


def _code(value: object) -> str:
    """Return text of a file for between backticks, also in a table."""
    return _one_line(value).replace("`", "'").replace("|", "\\|")


def _one_line(value: object) -> str:
    return "".join(char if char.isprintable() else " " for char in str(value))
