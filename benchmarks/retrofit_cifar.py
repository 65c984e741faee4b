"""Fine-tune trained CIFAR-10 networks with and without inserted SE, with several seeds.

    python benchmarks/retrofit_cifar.py --data CIFAR --weights WEIGHTS --depth 20 --epochs 3 --seeds 0 1 2

CIFAR holds train/ and test/, with one sub-folder per class. WEIGHTS holds the checkpoints `cifar10_resnet20-*.th`, ...
Both variants see the same images in the same order with the same crops. Finished runs are in the result file and are
not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.datasets import ImageFolder

import senet
from senet.training.optim import make_optimizer, make_schedule
from senet.training.recipe import Recipe

# The checkpoints were trained with ImageNet's normalisation.
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
PAD = 2


def images(folder: Path) -> tuple[Tensor, Tensor]:
    found = ImageFolder(str(folder))
    pixels = np.stack([np.asarray(image) for image, _ in found])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(found.targets)


def batch(x: Tensor) -> Tensor:
    return ((x.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def logits(model: nn.Module, x: Tensor, bf16: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return model(batch(x)).float()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        right = sum(
            int((logits(model, x[i : i + 500], False).argmax(1) == y[i : i + 500]).sum()) for i in range(0, len(y), 500)
        )
    return right / len(y)


def augmented(padded: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    x, size = padded[index], padded.shape[-1] - 2 * PAD
    left, top = torch.randint(0, 2 * PAD + 1, (2, len(index)), generator=generator)
    rows, columns = top[:, None] + torch.arange(size), left[:, None] + torch.arange(size)
    picture, channel = torch.arange(len(index))[:, None, None, None], torch.arange(3)[None, :, None, None]
    x = x[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]
    flipped = torch.rand(len(index), generator=generator) < 0.5
    x[flipped] = x[flipped].flip(3)
    return x


def fine_tune(model: nn.Module, data: tuple[Tensor, Tensor], recipe: Recipe) -> None:
    padded, y = F.pad(data[0], [PAD] * 4), data[1]
    steps = len(y) // recipe.batch_size
    optimizer = make_optimizer(model, recipe)
    schedule = make_schedule(optimizer, recipe, steps * recipe.epochs)
    generator = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        model.train()
        order = torch.randperm(len(y), generator=generator)
        for index in order[: steps * recipe.batch_size].split(recipe.batch_size):
            loss = F.cross_entropy(logits(model, augmented(padded, index, generator), True), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=50_000, help="training images, the first of a fixed shuffle")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("retrofit_cifar.json"))
    options = parser.parse_args()
    [weights] = options.weights.glob(f"cifar10_resnet{options.depth}-*.th")
    train, test = images(options.data / "train"), images(options.data / "test")
    kept = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(0))[: options.images]
    train = (train[0][kept], train[1][kept])
    runs = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in options.seeds:
        for arm in ("plain", "se"):
            what = {"depth": options.depth, "arm": arm, "seed": seed, "epochs": options.epochs, "lr": options.lr,
                    "images": len(kept)}  # fmt: skip
            if any(what.items() <= run.items() for run in runs):
                continue
            torch.manual_seed(seed)
            model = senet.create_model(f"cifar_resnet{options.depth}").to(memory_format=torch.channels_last)
            senet.load_weights(model, weights)
            before, started = accuracy(model, *test), time.monotonic()
            if arm == "se":
                senet.retrofit(model)
                assert accuracy(model, *test) == before, "surgery must not change the network"
            recipe = Recipe(epochs=options.epochs, batch_size=128, lr=options.lr, weight_decay=1e-4, seed=seed,
                            schedule="one-cycle", warmup_epochs=options.epochs * 0.2)  # fmt: skip
            fine_tune(model, train, recipe)
            runs.append(
                what | {"before": before, "after": accuracy(model, *test), "seconds": time.monotonic() - started}
            )
            options.out.write_text(json.dumps(runs, indent=1) + "\n")
            print(runs[-1], flush=True)
    for arm in ("plain", "se"):
        after = [100 * r["after"] for r in runs if r["arm"] == arm and r["depth"] == options.depth]
        spread = statistics.stdev(after) if len(after) > 1 else float("nan")
        print(f"resnet{options.depth} {arm}: {statistics.mean(after):.2f} +- {spread:.2f} % ({len(after)} seeds)")


if __name__ == "__main__":
    main()
