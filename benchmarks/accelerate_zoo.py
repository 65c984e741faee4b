"""Accelerate every network of timm and torchvision that has channel attention; are the numbers the same?

    python benchmarks/accelerate_zoo.py                   # all that `accelerate_zoo.jsonl` doesn't hold yet, the table
    python benchmarks/accelerate_zoo.py --only 'timm:eff*'
    python benchmarks/accelerate_zoo.py --report

Each network has random weights, statistics and gates. For two small images the outputs are compared in both modes, and
in evaluation mode the gradients of the image and of all parameters. The operator is used at any size. The network in
float64 is the truth: equal means an error of at most ten times that of the modules in float32, or 1e-5. Rounding may
move a number across the kink of a ReLU, for the modules as for the operator. A network that isn't equal gets other
images, at most three times. A worker process appends a line for each network, so that a crash costs one.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import zoo_networks
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import senet
from senet.fusion import deferred
from senet.gates import gated_layers

HERE = Path(__file__)
KEPT = HERE.with_suffix(".jsonl")
CHUNK = 8
SECONDS = 240
TOO_LARGE = 120_000_000
TOLERANCE = 1e-5
DRAWS = 4
LIKELY = (
    r"se|eca|eff|mobilenetv3|mobilenetv4|mobileone|regnet|ghost|hardcore|lcnet|mixnet|mnas|fbnet|rexnet|tinynet|repvit|fastvit|"
    r"shvit|gcvit|resnetrs|cs3|vovnet|hgnet|rdnet|csat|torchvision"
)
"""Names of networks that may have channel attention, which come first."""


def randomise(model: nn.Module) -> None:
    """No gain, bias, statistic or gate is zero; nothing is drawn at random while it runs."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.2, 1.0, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(generator=generator).mul_(0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
        for name in ("drop_prob", "drop_rate", "drop_path_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def outputs(model: nn.Module, x: Tensor, *, training: bool) -> list[Tensor]:
    """Outputs, and gradients in evaluation mode."""
    model.train(training)
    model.zero_grad(set_to_none=True)
    if training:
        with torch.no_grad():
            return [t for t in tree_leaves(model(x)) if isinstance(t, Tensor)]
    x = x.clone().requires_grad_()
    found = [t for t in tree_leaves(model(x)) if isinstance(t, Tensor)]
    torch.stack([(t * torch.linspace(-1, 1, t.numel()).view_as(t)).sum() for t in found]).sum().backward()
    assert x.grad is not None
    return [*(t.detach() for t in found), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


def errors(ours: list[Tensor], right: list[Tensor]) -> list[float]:
    """The error of each tensor, relative to its size; tiny tensors count against the median."""
    scales = torch.tensor([float(t.norm()) for t in right])
    floor = max(float(scales.median()) * 1e-3, 1e-30)
    return [float((a.double() - b).norm()) / max(float(s), floor) for a, b, s in zip(ours, right, scales, strict=True)]


def examined(name: str) -> dict[str, Any]:
    """Return the record of one network."""
    network = zoo_networks.find(name)
    with torch.device("meta"):
        try:
            layers = gated_layers(network.build())
        except Exception:
            layers = {"?": nn.Identity()}
    if not layers:
        return {"layers": 0}
    torch.manual_seed(0)
    model = network.build()
    layers = gated_layers(model)
    if not layers or network.detector:
        return {"layers": 0}
    if sum(p.numel() for p in model.parameters()) > TOO_LARGE:
        return {"layers": len(layers), "result": "too large"}
    randomise(model)
    plain, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    for size in network.sizes:
        try:
            x = torch.randn(2, network.channels, *size)
            outputs(plain, x, training=False)
            break
        except Exception as error:
            refused = error
    else:
        return {"layers": len(layers), "result": f"doesn't run: {refused}"[:200]}
    begun = time.perf_counter()
    report = senet.accelerate(model, x[:1])
    took = time.perf_counter() - begun
    found: dict[str, Any] = {"layers": len(layers), "fused": len(report.fused), "seconds": round(took, 2)}
    found["with_norm"] = sum(layer.norm is not None for layer in report.fused)
    found["left"] = Counter(report.left.values())
    for draw in range(DRAWS):
        figures: dict[str, list[tuple[float, float]]] = {}
        for mode in ("evaluation", "training"):
            truth, usual, ours = (
                outputs(net, x.to(next(net.parameters()).dtype), training=mode == "training")
                for net in (exact, plain, model)
            )
            figures[mode] = list(zip(errors(ours, truth), errors(usual, truth), strict=True))
        found["evaluation"], found["modules"] = (max(f[i] for f in figures["evaluation"]) for i in (0, 1))
        found["training"], found["draws"] = max(f[0] for f in figures["training"]), draw + 1
        pairs = [pair for found_in in figures.values() for pair in found_in]
        found["equal"] = all(ours <= max(10 * usual, TOLERANCE) for ours, usual in pairs)
        if found["equal"]:
            break
        x = torch.randn_like(x)
    return found


def work(names: list[str]) -> None:
    deferred.MIN_ELEMENTS.update(dict.fromkeys(deferred.MIN_ELEMENTS, 0))
    torch.set_num_threads(1)
    for name in names:
        print(json.dumps({"name": name, "begun": True}), flush=True)
        try:
            found = examined(name)
        except Exception as error:
            found = {"result": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps({"name": name} | found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="networks whose names match")
    parser.add_argument("--report", action="store_true", help="the table alone")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.worker)
        return
    kept = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    known = {row["name"] for row in kept}
    ends = time.monotonic() + 60 * options.minutes
    left = [
        name
        for name in zoo_networks.names()
        if not name.startswith("smp:") and fnmatch.fnmatch(name, options.only) and name not in known
    ]
    left.sort(
        key=lambda name: not re.search(LIKELY, name)
    )  # what the limit of minutes cuts off are networks without attention
    while left and not options.report and time.monotonic() < ends:
        chunk, left = left[:CHUNK], left[CHUNK:]
        command = [sys.executable, str(HERE), "--worker", *chunk]
        try:
            text = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=SECONDS * CHUNK
            ).stdout  # fmt: skip
        except subprocess.TimeoutExpired as error:
            text = (error.stdout or b"").decode()
        rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        begun = [row["name"] for row in rows if "begun" in row]
        rows = [row for row in rows if "begun" not in row]
        if len(rows) < len(begun):
            rows.append({"name": begun[-1], "result": "the process ended"})
        left = [name for name in chunk if name not in {row["name"] for row in rows}] + left
        kept += rows
        with KEPT.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(len(kept), chunk[0], flush=True)
    text = page([row for row in kept if row.get("layers") != 0])
    HERE.with_suffix(".md").write_text(text)
    print(text[:2000])


def page(rows: list[dict[str, Any]]) -> str:
    """Counts, then a line for each network."""
    ran = [row for row in rows if "fused" in row]
    some = [row for row in ran if row["fused"]]
    equal = [row for row in some if row["equal"]]
    reasons: Counter[str] = Counter()
    for row in ran:
        reasons.update(row["left"])
    lines = [
        "# `senet.accelerate` on the networks of timm and torchvision with channel attention",
        "",
        f"{len(rows)} networks with attention, {len(ran)} of them ran here; in {len(some)} something is fused, and "
        f"{len(equal)} of these give the same outputs and gradients.",
        "",
        *(f"- {count} layers left: {reason}" for reason, count in reasons.most_common()),
        "",
        "| network | attention layers | fused | s | error, evaluation | of the modules | error, training | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["name"]):
        figures = [f"{row[k]:.1e}" if k in row else "" for k in ("evaluation", "modules", "training")]
        cells = [row["name"], row.get("layers", ""), row.get("fused", ""), row.get("seconds", ""), *figures]
        lines.append(f"| {' | '.join(map(str, cells))} | {row.get('result', '')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
