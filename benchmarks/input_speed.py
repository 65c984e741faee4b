"""Measure images per second of one core, from files on disk to normalised batches of 224 x 224, beside torchvision.

    taskset -c 0 python benchmarks/input_speed.py PHOTOS [--out benchmarks/input_speed.json]

A is torchvision's `ImageFolder` with Pillow and RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize. B is
the loading of `senet train`. Both deliver float32 batches of 64 in this process, with one thread, from files that are
in the page cache. Time is the process's own CPU time, without other processes. They take turns (A B A B ...), and the
figure is the median round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from senet.data import Augmentation, FileSource, ImageDataset, Normalise, train_loader, train_transform
from senet.data.randomness import seeded_rng
from senet.preprocessing import IMAGENET

BATCH = 64


def by_torchvision(folder: Path) -> Any:
    steps = [
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET.mean, IMAGENET.std),
    ]
    data = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    return DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)


def by_senet(folder: Path) -> Any:
    samples = datasets.ImageFolder(str(folder)).samples
    source = FileSource([path for path, _ in samples], [label for _, label in samples])
    loader = train_loader(ImageDataset(source, train_transform(IMAGENET, Augmentation())), batch_size=BATCH, workers=0)
    normalise = Normalise(IMAGENET)
    return (normalise(batch.images) for batch in loader)


def speed(batches: Any, limit: int) -> float:
    started, count = time.process_time(), 0
    for batch in batches:
        count += BATCH
        assert (batch[0] if isinstance(batch, list) else batch).dtype == torch.float32
        if count >= limit:
            break
    return count / (time.process_time() - started)


def likeness(folder: Path, count: int) -> dict[str, float]:
    """Return the differences in grey levels of the same crops, decoded and resized both ways."""
    paths = sorted(folder.glob("*/*.jpg"))[:count]
    source = FileSource(paths, [0] * len(paths))
    transform = train_transform(IMAGENET, Augmentation(hflip=0))
    reference = transforms.Compose([transforms.RandomResizedCrop(224), transforms.PILToTensor()])
    differences = []
    for index, path in enumerate(paths):
        with seeded_rng(index):
            fast = transform.decoded(source.stored(index)).numpy().astype(int)
        with seeded_rng(index):
            slow = reference(Image.open(path).convert("RGB")).numpy().astype(int)
        differences.append(np.abs(fast - slow))
    squares = np.mean([np.square(d).mean() for d in differences])
    return {
        "images": len(paths),
        "largest difference": int(max(d.max() for d in differences)),
        "mean difference": round(float(np.mean([d.mean() for d in differences])), 4),
        "psnr_db": round(float(10 * np.log10(255**2 / max(squares, 1e-12))), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="one sub-folder a class")
    parser.add_argument("--images", type=int, default=960, help="a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = {"torchvision": by_torchvision, "senet": by_senet}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        speed(way(options.photos), 2 * BATCH)
    for _ in range(options.rounds):
        for name, way in ways.items():
            found[name].append(round(speed(way(options.photos), options.images), 1))
    ratios = [b / a for a, b in zip(found["torchvision"], found["senet"], strict=True)]
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, one core, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__},
        "images_per_second": {name: {"median": statistics.median(v), "rounds": v} for name, v in found.items()},
        "ratio": {
            "median": round(statistics.median(ratios), 2),
            "min": round(min(ratios), 2),
            "max": round(max(ratios), 2),
        },
        "likeness": likeness(options.photos, 300),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
