"""Train on an imbalanced choice of CIFAR-10 in three ways: plain, with class weights, with balanced sampling.

    python benchmarks/imbalance_cifar.py --images CIFAR --work DIR

CIFAR has the folders train/CLASS and test/CLASS with JPEG files. The design below was committed before the runs. The
arms take turns within each seed. A run that is in the JSON file already is not repeated.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path

from arms import interval, run_arms

COUNTS = {"airplane": 500, "automobile": 100, "bird": 20, "cat": 500, "deer": 100, "dog": 20, "frog": 500, "horse": 100,
          "ship": 20, "truck": 500}  # fmt: skip
"""Training images: the first files of each class."""
VALIDATION = 20
"""Validation images of each class: the last files of the training folder. They choose nothing here."""
ARMS: dict[str, list[str]] = {
    "plain": [],
    "class weights": ["--class-weights", "balanced"],
    "balanced sampler": ["--sampler", "balanced"],
}
SEEDS = (0, 1, 2)
TRAINING = ["se_cifar_resnet20", "--recipe", "cifar", "--epochs", "50", "--batch-size", "64", "--precision", "bf16",
            "--metric", "balanced-accuracy", "--logger", "none", "--workers", "0"]  # fmt: skip
"""The same for all arms. The network of the last epoch is measured on the test images.

An earlier design had a network with a third of the blocks and half of the channels and 12 epochs, for a machine that
had other work. Its only run (plain, seed 0: 28.6 % balanced accuracy, no image right in five classes) ended before
this design was made, and is not counted.
"""
TEST = 300
"""Test images of each class: the first files of the test folder."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the data set and the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("imbalance_cifar.json"))
    options = parser.parse_args()
    run_arms(
        ARMS, SEEDS, TRAINING, data=make_data(options.images, options.work / "imbalanced"), work=options.work,
        out=options.out, row=row, summary=summary, about={"counts": COUNTS},
    )  # fmt: skip


def row(result: dict, seconds: float, cpu: float) -> dict:
    del cpu
    recalls = result["per_class"]
    return {"balanced_accuracy": statistics.fmean(recalls.values()), "recalls": recalls, "seconds": round(seconds, 1)}


def make_data(images: Path, folder: Path) -> Path:
    if not folder.exists():
        for name, count in COUNTS.items():
            files = sorted((images / "train" / name).iterdir())
            test = sorted((images / "test" / name).iterdir())
            for split, chosen in (("train", files[:count]), ("val", files[-VALIDATION:]), ("test", test[:TEST])):
                there = folder / split / name
                there.mkdir(parents=True)
                for file in chosen:
                    shutil.copy(file, there)
    return folder.resolve()


def summary(runs: list[dict]) -> dict:
    """Mean, standard deviation and 95 % t interval over seeds, and the difference from the plain arm seed by seed."""
    of = {arm: {row["seed"]: row for row in runs if row["arm"] == arm} for arm in ARMS}
    made = {}
    for arm, rows in of.items():
        if len(rows) < 2:
            continue
        values = [row["balanced_accuracy"] for row in rows.values()]
        by_count = {str(count): statistics.fmean(row["recalls"][name] for row in rows.values() for name in COUNTS
                                                 if COUNTS[name] == count) for count in (500, 100, 20)}  # fmt: skip
        gains = [row["balanced_accuracy"] - of["plain"][seed]["balanced_accuracy"] for seed, row in rows.items()
                 if seed in of["plain"]]  # fmt: skip
        made[arm] = {"balanced_accuracy": interval(values), "recall_by_training_images": by_count}
        if arm != "plain" and len(gains) > 1:
            made[arm]["gain_over_plain"] = interval(gains)
    return made


if __name__ == "__main__":
    main()
