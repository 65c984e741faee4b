"""Measure the loss of a trained SE network when its gates become constants.

    python benchmarks/freeze_cifar.py --checkpoint runs/se_cifar_resnet20 --data folder:CIFAR

The gates are measured on training images. Accuracy is measured on all test images, before and after.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path

import torch

import senet
from senet.data import eval_transform, open_data
from senet.gates.measuring import gates
from senet.inference import evaluate
from senet.zoo import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=1000, help="training images that the gates are measured on")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("freeze_cifar.json"))
    options = parser.parse_args()
    torch.manual_seed(0)
    loaded, data = load_model(options.checkpoint), open_data(options.data)
    prepare, chosen = eval_transform(loaded.preprocessing), torch.randperm(len(data.train))[: options.images]
    batches = torch.stack([prepare(data.train[int(i)][0]) for i in chosen]).split(250)
    test = data.test if data.test is not None else data.val

    def accuracy(model: torch.nn.Module) -> float:
        return evaluate(replace(loaded, model=model), test, data.classes).top1

    results = {"before": accuracy(loaded.model), "params": sum(p.numel() for p in loaded.model.parameters())}
    attention = sum(p.numel() for layer in gates(loaded.model).values() for p in layer.parameters())
    budgets = {"freeze": None, "drift 5%": {"drift": 0.05}, "half the parameters": {"params": attention // 2}}
    for name, budget in budgets.items():
        model = copy.deepcopy(loaded.model)
        report = senet.prune(model, batches, budget) if budget else senet.freeze(model, batches)
        results[name] = {"top1": accuracy(model), **report.to_dict()}
        print(f"{name}: {results['before']:.2%} -> {results[name]['top1']:.2%}\n{report}\n", flush=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
