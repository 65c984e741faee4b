"""The main job on embedded data: train on real scanned digits, evaluate, predict on image files.

Run by `make demo`. It prints each command before running it, so that you can run them yourself. On two processor
cores it takes about a minute; it fails if the network gets less than 98.0% of the test digits right.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from senet.cli import main
from senet.data import Subset, open_data, write_images

FOLDER = Path("demo")
LEAST = 0.98


def senet(*arguments: str) -> None:
    """Run one command as a shell would, and stop at the first that fails."""
    print(f"\n$ senet {' '.join(arguments)}", flush=True)
    code = main(arguments)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    run = FOLDER / "digits"
    senet("train", "--data", "digits", "--model", "se_cifar_resnet20", "--out", str(run))
    senet("evaluate", "--checkpoint", str(run), "--data", "digits")
    images = FOLDER / "images"
    digits = open_data("digits")
    names = write_images(Subset(digits.val, np.arange(12)), images, classes=digits.classes)
    print(f"\nwrote {len(names)} test images into {images}, each into a folder named after the true digit")
    senet("predict", str(images), "--checkpoint", str(run))
    top1 = json.loads((run / "best.json").read_text())["metrics"]["top1"]
    print(
        f"\n{top1:.2%} of the test digits; the network is {run / 'best.safetensors'}, its curves {run / 'curves.png'}"
    )
    if top1 < LEAST:
        sys.exit(f"that is less than {LEAST:.1%}: something is wrong")
