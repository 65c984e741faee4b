"""Train on an imbalanced choice of CIFAR-10 in three ways: plain, with class weights, with balanced sampling.

    python benchmarks/imbalance_cifar.py --images CIFAR --work DIR

CIFAR has the folders train/CLASS and test/CLASS with JPEG files. The design below was committed before the runs. The
arms take turns within each seed. A run that is in the JSON file already is not repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import platform
import shutil
import statistics
import time
from pathlib import Path

import torch
from scipy.stats import t

from senet.cli import main as senet

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
TRAINING = ["se_cifar_resnet20", "--model-kwargs", "depth=1", "--model-kwargs", "widths=[8,16,32]", "--attention",
            "se:reduction=4", "--recipe", "cifar", "--epochs", "12", "--batch-size", "32", "--metric",
            "balanced-accuracy", "--logger", "none", "--workers", "0"]  # fmt: skip
"""The same for all arms. The network of the last epoch is measured on the test images."""
TEST = 300
"""Test images of each class: the first files of the test folder."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the data set and the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("imbalance_cifar.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = make_data(options.images, options.work / "imbalanced")
    found = json.loads(options.out.read_text()) if options.out.exists() else {"runs": []}
    done = {(row["arm"], row["seed"]) for row in found["runs"]}
    for seed in SEEDS:
        for arm, extra in ARMS.items():
            if (arm, seed) in done:
                continue
            folder = options.work / f"{arm.replace(' ', '-')}-{seed}"
            shutil.rmtree(folder, ignore_errors=True)
            started = time.time()
            run(["train", *TRAINING, *extra, "--seed", str(seed), "--data", f"folder:{data}", "--out", str(folder)])
            seconds = time.time() - started
            result = json.loads(run(["evaluate", "--checkpoint", str(folder / "last.safetensors"), "--data",
                                     f"folder:{data}", "--split", "test", "--workers", "0", "--json"]))  # fmt: skip
            recalls = result["per_class"]
            row = {"arm": arm, "seed": seed, "balanced_accuracy": statistics.fmean(recalls.values()),
                   "recalls": recalls, "seconds": round(seconds, 1)}  # fmt: skip
            found["runs"].append(row)
            print(row, flush=True)
            found |= {"date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, one thread of a shared CPU",
                      "torch": torch.__version__, "training": ["senet train", *TRAINING], "arms": ARMS,
                      "counts": COUNTS, "summary": summary(found["runs"])}  # fmt: skip
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["summary"], indent=1))


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


def run(arguments: list[str]) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = senet(arguments)
    assert code == 0, (arguments, output.getvalue())
    return output.getvalue()


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


def interval(values: list[float]) -> dict:
    mean, sd, n = statistics.fmean(values), statistics.stdev(values), len(values)
    half = float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}


if __name__ == "__main__":
    main()
