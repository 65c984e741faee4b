"""Every attention layer: cost, time beside SE, identity start, and insertion into a pretrained network.

    python benchmarks/attention_layers.py --process 0            # times of one fresh process; five of them
    python benchmarks/attention_layers.py --weights WEIGHTS      # costs, insertion, and the page

Each process measures each layer and SE in turns, on a feature map (2, 256, 28, 28). The layers are too small to disturb
each other as whole networks do. `attention_layers.json` keeps all figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from turns import in_turns, machine, randomised, ratio

import senet
from senet.nn import ATTENTIONS, Attention, AttentionSpec
from senet.profiling.layer import layer_cost

SHAPE = (2, 256, 28, 28)
SOURCES = {
    "se": ("Hu et al. 2018", "timm, torchvision"),
    "eca": ("Wang et al. 2020", "timm"),
    "ese": ("Lee and Park 2020", "timm"),
    "ge": ("Hu et al. 2018b", "the equations; timm for the average"),
    "sse": ("Roy et al. 2018", "the equations (in scSE)"),
    "scse": ("Roy et al. 2018", "the equations"),
    "cbam": ("Woo et al. 2018", "timm"),
    "bam": ("Park et al. 2018", "the equations"),
    "sk": ("Li et al. 2019", "timm"),
    "channel": ("composition", "its rows: SE, ECA and eSE of this package"),
    "ceca": ("timm", "timm"),
    "srm": ("Lee et al. 2019", "the equations"),
    "gct": ("Yang et al. 2020", "the equations"),
    "fca": ("Qin et al. 2021", "the equations"),
    "lc0": ("Leela Chess Zero", "the equation"),
    "coord": ("Hou et al. 2021", "timm"),
    "ela": ("Xu and Wan 2024", "timm without its SiLU"),
    "simam": ("Yang et al. 2021", "the equations"),
    "ema": ("Ouyang et al. 2023", "the figure, written out"),
    "triplet": ("Misra et al. 2021", "the equations"),
    "shuffle": ("Zhang and Yang 2021", "the equations"),
    "sge": ("Li et al. 2019b", "the equations"),
    "gc": ("Cao et al. 2019", "timm"),
    "grn": ("Woo et al. 2023", "timm"),
    "strip": ("Hou et al. 2020", "the equations; timm for the minimal form"),
    "split": ("Zhang et al. 2020", "timm"),
}
"""Source of each layer, and the independent implementation of its parity test (float64, 1e-9)."""
COLUMNS = (
    "layer", "source", "params", "MACs", "training, x SE", "inference, x SE", "identity start", "retrofit",
    "parity with",
)  # fmt: skip


def step(layer: Attention, x: torch.Tensor, *, training: bool) -> Callable[[], Any]:
    if not training:

        def evaluate() -> None:
            with torch.no_grad():
                layer(x)

        return evaluate
    leaf = x.clone().requires_grad_()

    def train() -> None:
        leaf.grad = None
        layer.zero_grad()
        layer(leaf).sum().backward()

    return train


def times(seconds: float, process: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return the figures of this process: kind, mode, `in_turns`."""
    torch.manual_seed(process)
    x = torch.randn(SHAPE).to(memory_format=torch.channels_last)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, spec in ATTENTIONS.items():
        found[kind] = {}
        for mode in ("training", "inference"):
            pair = [randomised(s().build(SHAPE[1])).train(mode == "training") for s in (spec, senet.SE)]
            first, second = (step(layer, x, training=mode == "training") for layer in pair)
            found[kind][mode] = in_turns(first, second, seconds=seconds, least=3, swapped=process % 2 == 1)
    return found


def inserted(spec: AttentionSpec, weights: Path) -> str:
    """Insert the layer into the pretrained ResNet-20, and compare the outputs bit for bit."""
    model = senet.create_model("cifar_resnet20").eval()
    senet.load_weights(model, weights)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        try:
            report = senet.retrofit(model, spec, example_inputs=images)
        except senet.SenetError:
            return "refused"
        for training in (False, True):
            twin = senet.create_model("cifar_resnet20")
            senet.load_weights(twin, weights)
            if not torch.equal(model.train(training)(images), twin.train(training)(images)):
                return "differs"
    return f"{len(report.inserted)} blocks, equal"


def identity(kind: str) -> str:
    """Whether the layer starts as the identity, in training and evaluation."""
    if "init" not in ATTENTIONS[kind]().options():
        return "none"
    options = {"shuffle": False} if kind == "shuffle" else {}
    layer: nn.Module = ATTENTIONS[kind](init="identity", **options).build(SHAPE[1])
    x = torch.randn(SHAPE)
    exact = all(torch.equal(layer.train(training)(x), x) for training in (False, True))
    return ("exact" if exact else "not exact") + (", without the shuffle" if options else "")


def facts(weights: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for kind, spec in ATTENTIONS.items():
        params, macs = layer_cost(spec().build(SHAPE[1]), SHAPE)
        insertion = inserted(spec(**({"shuffle": False} if kind == "shuffle" else {})), weights)
        found[kind] = {"params": params, "macs": macs, "identity": identity(kind), "retrofit": insertion}
    return found


def page(kept: dict[str, Any]) -> str:
    lines = [
        "# Attention layers",
        "",
        "One layer of each kind with default options, for a feature map (2, 256, 28, 28) in channels_last.",
        "Times are ratios to SE, measured in turns: the median of five fresh processes, with least and greatest.",
        "A training step is forward and backward. MACs are those of convolutions and matrix products for one image.",
        "Products of single elements, such as SimAM's, don't count.",
        "Retrofit inserts the layer into the pretrained CIFAR ResNet-20 and compares the outputs bit for bit, in",
        "training and in evaluation. Parity is with random weights in float64 to 1e-9",
        "(tests/nn/test_attention_parity.py and tests/nn/test_attention_relatives.py).",
        "`sk` and `split` replace a 3x3 convolution and compute new features.",
        "",
        *(f"- {name}: {value}" for name, value in kept["machine"].items()),
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for kind, fact in kept["facts"].items():
        figures = [ratio([run[kind][mode] for run in kept["runs"].values()]) for mode in ("training", "inference")]
        ratios = [f"{f['ratio']:.2f} ({f['least']:.2f} to {f['greatest']:.2f})" for f in figures]
        source, peer = SOURCES[kind]
        cells = (f"`{kind}`", source, f"{fact['params']:,}", f"{fact['macs']:,}", *ratios)
        lines.append("| " + " | ".join((*cells, fact["identity"], fact["retrofit"], peer)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--process", type=int)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    path = Path(__file__).with_suffix(".json")
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    if options.process is not None:
        kept["machine"] = machine(torch.get_num_threads())
        kept["runs"][str(options.process)] = times(options.seconds, options.process)
    if options.weights is not None:
        kept["facts"] = facts(options.weights)
    path.write_text(json.dumps(kept, indent=0) + "\n")
    if "facts" in kept and kept["runs"]:
        path.with_suffix(".md").write_text(page(kept))


if __name__ == "__main__":
    main()
