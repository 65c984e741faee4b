"""Write a trained network as a file for other programs, proven equal: ONNX, OpenVINO or torch.export.

  senet export --checkpoint runs/flowers --format onnx --out flowers.onnx
  senet export --checkpoint runs/flowers --format openvino --out flowers.xml --size 224 --batch 1
  senet export --checkpoint runs/flowers --format openvino --precision int8 --data folder:flowers --out flowers8.xml

The file says which classes it has and what an image must go through. It is compared with the network on images of
--data (else on two photographs) before it appears; --precision bf16 and int8 also measure the accuracy with --data.
`senet predict`, `evaluate` and `bench` take it; docs/deployment.md shows how to use it without this package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet.cli import options as shared
from senet.cli.output import counting, print_json
from senet.errors import SenetError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    parser.add_argument(
        "--checkpoint", required=True, metavar="X", help="a .safetensors file, or a training's folder (its best)"
    )
    parser.add_argument("--model", metavar="M:F", help="your own network's module:function, if it was trained with one")
    parser.add_argument("--format", required=True, metavar="F", help="onnx, openvino or torch")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="ends in .onnx, .xml or .pt2")
    parser.add_argument("--precision", default="32", metavar="P", help="32 (default), bf16 or int8")
    parser.add_argument(
        "--size", type=shared.parse_size, metavar="N", help="the only size: 224, or 256x192 (height x width); else any"
    )
    parser.add_argument("--batch", type=shared.positive, metavar="N", help="the only number of images at a time")
    shared.add_data_options(parser, required=False)
    group = parser.add_argument_group("check")
    group.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help="part of the data to check on (default: test, else val)",
    )
    group.add_argument("--limit", type=shared.positive, metavar="N", help="at most so many of its images")
    group.add_argument("--tolerance", type=float, metavar="T", help="of a logit, as a share of the largest (1e-4)")
    group.add_argument(
        "--max-drop",
        type=float,
        default=0.5,
        metavar="P",
        help="points of accuracy that may be lost, at least one image (default 0.5; 0: none)",
    )
    group.add_argument(
        "--calibration", type=shared.positive, default=300, metavar="N", help="training images for int8 (default 300)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Export, check and print."""
    from senet.deploy import Check, export
    from senet.zoo import load_model

    if options.data is None:
        for name in ("split", "limit"):
            if getattr(options, name) is not None:
                raise SenetError(f"--{name} chooses images of --data, which is missing")
    loaded = load_model(options.checkpoint, factory=options.model)
    check = Check(
        data=None if options.data is None else shared.data_to_evaluate(options, loaded.description.data),
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
    )
    if options.json:
        print_json({"checkpoint": options.checkpoint} | report.to_dict())
    else:
        print(report)
    return 0
