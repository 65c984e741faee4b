"""Export every network of `senet list` to ONNX and OpenVINO, and compare with eager PyTorch on two photographs.

    python benchmarks/export_all.py [--only 'se_*'] [--out benchmarks/export]

Weights are random and nowhere zero. The files take any size and batch, and are also compared at another size and batch
than in the trace. An interrupted command continues: networks in `<out>.json` aren't exported again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

import senet
from senet.deploy import Check, export, load_exported
from senet.deploy.bench import machine, randomise
from senet.weights import CheckpointMetadata
from senet.zoo import LoadedModel

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
LIMIT = 1e-4


def small(name: str) -> LoadedModel:
    """Build the network with random weights, for images of at most 96x96 pixels."""
    torch.manual_seed(0)
    model = randomise(senet.create_model(name, num_classes=10)).eval()
    edge = min(96, *model.spec.preprocessing.size)
    images = replace(model.spec.preprocessing, size=(edge, edge))
    classes = tuple(map(str, range(10)))
    return LoadedModel(model, classes, images, CheckpointMetadata(model=name, classes=classes, preprocessing=images))


def tried(network: LoadedModel, kind: str) -> dict[str, Any]:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{FORMATS[kind]}"
        report = export(network, path, format=kind, check=Check(images=2, tolerance=float("inf")))
        height, width = network.preprocessing.size
        shape = (3, network.preprocessing.in_channels, height if report.metadata.size else height + 32, width)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected, found = network.model(x), load_exported(path).model(x)
    return {
        "photographs": report.drift,
        "other size and batch": float((found - expected).abs().max() / expected.abs().max()),
        "takes": str(report.metadata),
        "MB": report.bytes / 1e6,
        "seconds": time.perf_counter() - started,
    }


def markdown(result: dict[str, Any]) -> str:
    rows = result["networks"]
    drifts = [max(r["photographs"], r["other size and batch"]) for made in rows.values() for r in made.values()]
    lines = [
        "# Exported networks against eager PyTorch",
        "",
        f"`python benchmarks/export_all.py`, {', '.join(f'{k} {v}' for k, v in result['machine'].items())}.",
        "",
        "Random weights, nowhere zero. A figure is the largest difference of a logit as a share of the largest logit.",
        "It is measured on two photographs (at most 96x96 pixels), and on random images of another size and batch",
        "than in the trace.",
        f"{len(rows)} networks, {len(drifts)} files, the largest difference {max(drifts):.1e}, "
        f"{sum(not d <= LIMIT for d in drifts)} above {LIMIT:g}.",
        "",
        "| network | ONNX, photographs | ONNX, other size | OpenVINO, photographs | OpenVINO, other size |",
        "|---|---|---|---|---|",
    ]
    for name in sorted(rows):
        cells = [f"{rows[name][f][k]:.1e}" if f in rows[name] else "" for f in FORMATS for k in _FIGURES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_FIGURES = ("photographs", "other size and batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="networks whose names match")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start none after this many")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/export"))
    options = parser.parse_args()
    kept, started = options.out.with_suffix(".json"), time.perf_counter()
    result: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"networks": {}}
    result["machine"] = machine() | {"date": datetime.now(timezone.utc).date().isoformat()}
    for name in senet.list_models():
        done = result["networks"].setdefault(name, {})
        missing = [kind for kind in FORMATS if kind not in done]
        if not missing or not fnmatch(name, options.only) or time.perf_counter() - started > options.seconds:
            continue
        network = small(name)
        for kind in missing:
            done[kind] = tried(network, kind)
            print(name, kind, json.dumps(done[kind]), flush=True)
        shown = {k: v for k, v in sorted(result["networks"].items()) if v}
        kept.write_text(json.dumps(result | {"networks": shown}, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(markdown(result | {"networks": shown}))


if __name__ == "__main__":
    main()
