"""Look at what a trained network's gates do, in a page, JSON and CSV.

  senet inspect --checkpoint runs/flowers --data folder:PATH --out report/

Then open report/index.html: the gates of each block by class (the paper's Figures 6 and 7), a table of the blocks,
single images, and what freezing would save. It needs no network connection.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_table
from senet.errors import SenetError

if TYPE_CHECKING:
    from torch import Tensor, device

    from senet.data import Source
    from senet.inspection import Inspection
    from senet.zoo import LoadedModel

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    shared.add_use_options(parser)
    shared.add_data_options(parser, required=True)
    parser.add_argument(
        "--split", choices=("train", "val", "test", "all"), help="part of the data (default: as `senet evaluate`)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many images, drawn at random")
    parser.add_argument("--classes", metavar="A,B", help="classes to show first (default: four, evenly spaced)")
    parser.add_argument("--examples", type=int, default=8, metavar="N", help="single images to look at (default 8)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write index.html, report.json and two .csv there")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(options: argparse.Namespace) -> int:
    """Inspect, write and print."""
    from senet.inference import chosen_part
    from senet.inference.device import running
    from senet.inspection import inspect, write
    from senet.zoo import load_model

    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise SenetError(f"--out {options.out} is a file; name a folder")
    if options.examples < 0:
        raise SenetError(f"--examples {options.examples} must be 0 or more")
    loaded = load_model(options.checkpoint, factory=options.model)
    record = loaded.description.data
    data = shared.data_to_evaluate(options, record)
    part = chosen_part(data, record, options.split)
    source = _limited(part.source, options.limit)
    with counting("inspecting") as progress, running(loaded.model, options.precision) as device:
        inspection = inspect(
            loaded.model,
            _batches(loaded, source, options, device, progress),
            data.classes,
            network=loaded.description.model,
            data=f"{data.name}, {part.split}",
            outputs=loaded.classes,
            preprocessing=loaded.preprocessing,
            chosen=options.classes.split(",") if options.classes else (),
            examples=options.examples,
        )
    written = write(inspection, options.out) if options.out is not None else []
    if options.json:
        print_json(inspection.summary() | {"checkpoint": options.checkpoint, "files": [str(path) for path in written]})
        return 0
    _print(inspection)
    if written:
        print(f"open {written[0]}")
    return 0


def _limited(source: Source, limit: int | None) -> Source:
    from senet.data import subsample

    if limit is not None and limit < 1:
        raise SenetError(f"--limit {limit} must be at least 1")
    return source if limit is None else subsample(source, limit)


def _batches(
    loaded: LoadedModel,
    source: Source,
    options: argparse.Namespace,
    device: device,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[Tensor, Tensor]]:
    import torch

    from senet.data import ImageDataset, eval_loader, eval_transform

    dataset = ImageDataset(source, eval_transform(loaded.preprocessing), corrupt="raise")
    done = 0
    for batch in eval_loader(dataset, batch_size=options.batch_size or shared.BATCH, workers=options.workers):
        yield batch.images.to(device, memory_format=torch.channels_last), batch.labels
        done += len(batch.labels)
        progress(done, len(dataset))


def _print(inspection: Inspection) -> None:
    head = (
        "block",
        "channels",
        "mean",
        "spread",
        "dead",
        "saturated",
        "class-specific",
        "role",
        "params",
        "drift alone",
    )
    rows = [
        [
            b.name, str(b.channels), f"{b.mean:.3f}", f"{b.spread:.3f}", f"{b.dead:.1%}", f"{b.saturated:.1%}",
            f"{b.specificity:.1%}", b.role, f"{b.params:,}", "-" if b.drift is None else f"{b.drift:.2%}",
        ]
        for b in inspection.blocks
    ]  # fmt: skip
    print_table(head, rows, title=f"{inspection.network} on {inspection.images:,} images of {inspection.data}")
    for finding in inspection.findings:
        print(f"{'!' if finding.level == 'alarm' else '-'} {finding.text}")
