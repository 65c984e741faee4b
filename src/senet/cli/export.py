"""Write a trained network as an ONNX, OpenVINO or torch.export file.

The file holds the class names and the preprocessing. Before it appears, its outputs are compared with the network's on
images of --data, or on two included photographs. With --data, --precision bf16, fp16 and int8 also measure the
accuracy, mIoU or mAP.

`senet predict`, `evaluate` and `bench` take the file. docs/guides/deployment.md shows its use without this package.

Examples:
  senet export runs/flowers --format onnx --out flowers.onnx
  senet export --checkpoint runs/flowers --format openvino --out flowers.xml --size 224 --batch 1
  senet export runs/cells --format onnx --opset 18 --ir-version 8 --out cells.onnx
  senet export runs/flowers --format openvino --precision int8 --data folder:PATH --out flowers8.xml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet.cli import options as shared
from senet.cli.output import counting, print_json
from senet.cli.parser import add_subject
from senet.cli.values import positive
from senet.errors import SenetError

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet export CHECKPOINT --format FORMAT --out FILE [--precision PRECISION]
                    [--size PIXELS] [--data DATA] [options, see below]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    group = parser.add_argument_group("network")
    add_subject(group, "checkpoint", help=shared.CHECKPOINT)
    shared.add_function_option(group)
    group = parser.add_argument_group("file")
    group.add_argument("--format", required=True, metavar="FORMAT", help="onnx, openvino or torch")
    group.add_argument("--out", required=True, type=Path, metavar="FILE", help="ends in .onnx, .xml or .pt2")
    group.add_argument(
        "--precision", default="32", metavar="PRECISION", help="32, bf16, fp16 or int8 (default: %(default)s)"
    )
    group.add_argument(
        "--opset",
        type=positive,
        metavar="N",
        help="version of ONNX's operators, at least 18 (default: PyTorch's choice)",
    )
    group.add_argument(
        "--ir-version",
        type=positive,
        metavar="N",
        help="version of ONNX's file format, for older runtimes (default: the oldest for --opset, else by PyTorch)",
    )
    shared.add_size_option(group, "any size")
    group.add_argument(
        "--batch", type=positive, metavar="N", help="the only number of images at a time (default: any number)"
    )
    shared.add_data_options(parser, required=False)
    group = parser.add_argument_group("check")
    shared.add_split_option(group, "check on")
    shared.add_limit_option(group, "check on")
    group.add_argument(
        "--tolerance",
        type=float,
        metavar="FRACTION",
        help="largest difference of an output, as a fraction of the largest output (default: 1e-4)",
    )
    group.add_argument(
        "--max-drop",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="percentage points of accuracy that may be lost, at least one image (0 is none) (default: %(default)s)",
    )
    group.add_argument(
        "--calibration",
        type=positive,
        default=300,
        metavar="N",
        help="training images that int8 is calibrated on (default: %(default)s)",
    )
    group.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Export, check and print."""
    from senet.deploy import Check, export
    from senet.tasks import load_model

    if options.data is None:
        for name in ("split", "limit"):
            if getattr(options, name) is not None:
                raise SenetError(f"--{name} chooses images of --data, which is missing")
    loaded = load_model(options.checkpoint, factory=shared.user_function(options))
    data = None if options.data is None else shared.data_to_evaluate(options, loaded.metadata.data)
    if data is not None:
        shared.check_task(data, loaded, options)
    check = Check(
        data=data,
        split=options.split,
        limit=options.limit,
        calibration=options.calibration,
        tolerance=options.tolerance,
        max_drop=options.max_drop,
        progress=counting,
    )
    report = export(
        loaded,
        options.out,
        format=options.format,
        precision=options.precision,
        size=options.size,
        batch=options.batch,
        check=check,
        opset=options.opset,
        ir_version=options.ir_version,
    )
    if options.json:
        print_json({"checkpoint": options.checkpoint} | report.to_dict())
    else:
        print(report)
    return 0
