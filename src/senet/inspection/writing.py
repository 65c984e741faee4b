"""Writing an inspection as files: a page with charts, JSON and CSV."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from senet.inspection.curves import packed
from senet.inspection.inspection import Inspection
from senet.pages import assemble, in_script
from senet.spreadsheet import text_cell

__all__ = ["page", "write"]

BLOCK_COLUMNS: Final = (
    "path", "name", "kind", "stage", "channels", "mean", "spread", "channel_spread", "dead", "saturated",
    "specificity", "specificity_corrected", "role", "params", "macs", "latency_share", "drift",
)  # fmt: skip


def write(inspection: Inspection, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `index.html`, `report.json`, `blocks.csv` and `channels.csv` into a folder, which is made if missing.

    Example:
        >>> import senet, tempfile, torch
        >>> from senet.inspection import inspect, write
        >>> model = senet.create_model("se_cifar_resnet20", num_classes=2)
        >>> batches = [(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]))]
        >>> paths = write(inspect(model, batches, ["cat", "dog"], examples=0), tempfile.mkdtemp())
        >>> [path.name for path in paths]
        ['index.html', 'report.json', 'blocks.csv', 'channels.csv']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"index.html": page(inspection), "report.json": json.dumps(_document(inspection), allow_nan=False)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    with open(folder / "blocks.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, BLOCK_COLUMNS, extrasaction="ignore")
        rows.writeheader()
        rows.writerows({key: _cell(value) for key, value in row.items()} for row in inspection.summary()["blocks"])
    with open(folder / "channels.csv", "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(("path", "channel", "mean", "variance_within_classes", "variance_between_classes"))
        for path, columns in inspection.channels.items():
            for number, values in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
                lines.writerow((text_cell(path), number, *(f"{value:.6g}" for value in values)))
    return [folder / name for name in (*texts, "blocks.csv", "channels.csv")]


def _cell(value: Any) -> Any:
    return text_cell(value) if isinstance(value, str) else value


def _document(inspection: Inspection) -> dict[str, Any]:
    """Return the whole inspection without images and heat maps, which are for display."""
    return inspection.summary() | {
        "curves": {path: curves.to_dict() for path, curves in inspection.curves.items()},
        "examples": [_without_images(asdict(example)) for example in inspection.examples],
    }


def _without_images(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_images(v) for k, v in value.items() if k not in ("image", "heat", "spatial")}
    return [_without_images(v) for v in value] if isinstance(value, list | tuple) else value


def page(inspection: Inspection) -> str:
    """Return one HTML page with style, script and data inside, which needs no other file.

    Example:
        >>> import senet, torch
        >>> from senet.inspection import inspect, page
        >>> model = senet.create_model("se_cifar_resnet20", num_classes=2)
        >>> batches = [(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]))]
        >>> page(inspect(model, batches, ["cat", "dog"], examples=0))[:15]
        '<!doctype html>'
    """
    some = next(iter(inspection.curves.values()))
    curves, plain = packed(inspection.curves)
    data = inspection.summary() | {
        "curves": {
            path: {"channels": c.channels, "mean": c.mean.tolist(), "spread": c.spread.tolist()}
            for path, c in inspection.curves.items()
        },
        "shown": some.classes,
        "plain_curves": plain,
        "examples": [asdict(example) for example in inspection.examples],
    }
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return assemble(
        _part("page.html"), STYLE=_part("page.css"), SCRIPT=_part("page.js"), DATA=in_script(text), CURVES=curves
    )


def _part(name: str) -> str:
    """Return a file of the page."""
    return (files("senet.inspection") / "page" / name).read_text(encoding="utf-8")
