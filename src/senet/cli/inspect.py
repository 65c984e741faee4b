"""Report the gates of a trained network over a data set.

The report is an HTML page, a JSON file and two CSV files. The page shows the gates of each block by class, as in the
paper's Figures 6 and 7. It also has a table of the blocks, single images, and the savings of frozen gates. It is
--out's index.html and needs no network connection.

Examples:
  senet inspect runs/flowers --data folder:PATH --out report
  senet inspect --checkpoint runs/flowers --data folder:PATH --class-names rose,tulip --out report
  senet inspect runs/flowers --data folder:PATH --limit 2000 --json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_table
from senet.cli.values import class_names
from senet.errors import SenetError

if TYPE_CHECKING:
    from torch import Tensor, device

    from senet.data import Source
    from senet.inspection import Inspection
    from senet.zoo import LoadedModel

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet inspect CHECKPOINT --data DATA [--out DIR] [--class-names A,B,C]
                     [--limit N] [--json] [options, see below]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    shared.add_use_options(parser, positional=True, exported=False)
    shared.add_data_options(parser, required=True, dense=False)
    group = parser.add_argument_group("report")
    shared.add_split_option(group, "inspect")
    shared.add_limit_option(group, "inspect")
    group.add_argument(
        "--class-names",
        dest="chosen",
        type=class_names,
        metavar=shared.CLASS_NAMES,
        help="classes that are shown first, or a file with one name a line (default: four, evenly spaced)",
    )
    group.add_argument("--examples", type=int, default=8, metavar="N", help="single images (default: %(default)s)")
    group.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for index.html, report.json and two CSV files (default: none)"
    )
    group.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(options: argparse.Namespace) -> int:
    """Inspect, write and print."""
    from senet.data import subsample
    from senet.inference import choose_split
    from senet.inference.device import running
    from senet.inspection import inspect, write
    from senet.zoo import load_model

    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise SenetError(f"--out {options.out} is a file; name a folder")
    if options.examples < 0:
        raise SenetError(f"--examples {options.examples} must be 0 or more")
    loaded = load_model(options.checkpoint, factory=shared.user_function(options))
    record = loaded.metadata.data
    data = shared.data_to_evaluate(options, record)
    shared.check_task(data, loaded, options)
    chosen = choose_split(data, record, options.split)
    source = chosen.source if options.limit is None else subsample(chosen.source, options.limit)
    with counting("inspecting") as progress, running(loaded.model, options.precision) as device:
        inspection = inspect(
            loaded.model,
            _batches(loaded, source, options, device, progress),
            data.classes,
            network=loaded.metadata.model,
            data=f"{data.name}, {chosen.split}",
            outputs=loaded.classes,
            preprocessing=loaded.preprocessing,
            chosen=options.chosen or (),
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
