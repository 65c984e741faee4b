"""Fine-tune a CIFAR-10 network on few photographs: head only, staged unfreezing, all parameters.

    python benchmarks/finetune_photos.py --photos imagenet-samples.tar --checkpoint cifar10_resnet20.th --work DIR

The photographs (one for each ImageNet class) are grouped into birds, dogs, reptiles and amphibians, and invertebrates,
and shrunk to 32 x 32 pixels. Within a group in the order of ImageNet's classes, four of ten photographs are for
training, one is for validation and five are for the test. The design was committed before the runs.
"""

from __future__ import annotations

import argparse
import statistics
import tarfile
from pathlib import Path

from arms import interval, run_arms
from PIL import Image

GROUPS = {
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "dog": [*range(151, 211)],
    "reptile": [*range(25, 69)],
    "invertebrate": [*range(69, 80), *range(107, 127), *range(300, 327)],
}
"""ImageNet's class numbers of each group."""
SPLITS = ("train", "test", "train", "test", "val", "test", "train", "test", "train", "test")
ARMS = {
    "head only": ["--freeze", "backbone"],
    "staged": ["--freeze", "backbone", "--unfreeze-after", "10"],
    "all": [],
}
SEEDS = (0, 1, 2)
TRAINING = ["--model", "cifar_resnet20", "--epochs", "30", "--batch-size", "16", "--lr", "3e-3", "--logger", "none",
            "--workers", "0"]  # fmt: skip
"""The same for all arms, with the default recipe `finetune`. The network of the last epoch is measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the data set and the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("finetune_photos.json"))
    options = parser.parse_args()
    data = make_data(options.photos, options.work / "photos")
    run_arms(
        ARMS, SEEDS, TRAINING, begin=["--checkpoint", options.checkpoint], data=data, work=options.work,
        out=options.out, row=row, summary=summary,
        about={"images": {s: len(list((data / s).rglob("*.png"))) for s in ("train", "val", "test")}},
    )  # fmt: skip


def row(result: dict, seconds: float, cpu: float) -> dict:
    return {"top1": result["top1"], "images": result["images"],
            "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}  # fmt: skip


def make_data(photos: Path, folder: Path) -> Path:
    if not folder.exists():
        with tarfile.open(photos) as archive:
            files = sorted((m for m in archive.getmembers() if m.isfile()), key=lambda member: member.name)
            assert len(files) == 1000
            for group, numbers in GROUPS.items():
                for place, number in enumerate(numbers):
                    split = SPLITS[place % len(SPLITS)]
                    there = folder / split / group
                    there.mkdir(parents=True, exist_ok=True)
                    image = Image.open(archive.extractfile(files[number])).convert("RGB")
                    side = min(image.size)
                    left, top = ((edge - side) // 2 for edge in image.size)
                    image.crop((left, top, left + side, top + side)).resize((32, 32), Image.Resampling.BOX).save(
                        there / f"{number:04d}.png"
                    )
    return folder.resolve()


def summary(runs: list[dict]) -> dict:
    """Mean, standard deviation and 95 % t interval over seeds, and the time of a training."""
    made = {}
    for arm in ARMS:
        rows = [kept for kept in runs if kept["arm"] == arm]
        if len(rows) > 1:
            found = interval([kept["top1"] for kept in rows])
            made[arm] = {"top1": found.pop("mean"), **found,
                         "cpu_seconds": statistics.median(kept["cpu_seconds"] for kept in rows)}  # fmt: skip
    return made


if __name__ == "__main__":
    main()
