"""One epoch of CIFAR-10 with the compiled kernel, the reference, and the reference from weights moved by 1e-7.

    python benchmarks/kernel_curves.py CIFAR [--steps 391] [--out benchmarks/kernel_curves]

`CIFAR` is a folder with `train/`, one sub-folder a class. The three trainings see the same batches. Rounding grows from
step to step in any training, and the third training shows how fast. Writes `<out>.json` and `<out>.png`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

import senet
from senet.ops import using

RUNS = {"compiled": "compiled", "reference": "reference", "reference, moved by 1e-7": "reference"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=391)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/kernel_curves"))
    options = parser.parse_args()
    images = ImageFolder(str(options.folder / "train"))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    models, optimizers = {}, {}
    for name in RUNS:
        torch.manual_seed(0)
        models[name] = senet.create_model("se_cifar_resnet20", num_classes=10).to(memory_format=torch.channels_last)
        optimizers[name] = torch.optim.SGD(models[name].parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    with torch.no_grad():
        for parameter in models["reference, moved by 1e-7"].parameters():
            parameter.mul_(1 + 1e-7 * torch.randn_like(parameter))
    losses: dict[str, list[float]] = {name: [] for name in RUNS}
    for step in range(options.steps):
        batch = [images[i] for i in order[step * 128 : step * 128 + 128]]
        x = torch.stack([pil_to_tensor(image) for image, _ in batch]).float() / 64 - 2
        labels = torch.tensor([label for _, label in batch])
        for name, kernel in RUNS.items():
            with using(kernel):
                loss = F.cross_entropy(models[name](x.contiguous(memory_format=torch.channels_last)), labels)
                optimizers[name].zero_grad()
                loss.backward()
            optimizers[name].step()
            losses[name].append(loss.item())
        if step % 50 == 0 or step == options.steps - 1:
            print(step, {name: round(values[-1], 5) for name, values in losses.items()}, flush=True)
    options.out.with_suffix(".json").write_text(json.dumps({"torch": torch.__version__, "losses": losses}) + "\n")
    draw(losses, options.out.with_suffix(".png"))


def draw(losses: dict[str, list[float]], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    reference = np.array(losses["reference"])
    for name, values in losses.items():
        left.plot(np.convolve(values, np.ones(10) / 10, "valid"), label=name, lw=1)
        if name != "reference":
            right.semilogy(np.maximum(abs(np.array(values) - reference), 1e-8), label=name, lw=1)
    left.set(xlabel="step", ylabel="training loss (mean of 10 steps)")
    right.set(xlabel="step", ylabel="difference of the loss to the reference's")
    left.legend()
    right.legend()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
