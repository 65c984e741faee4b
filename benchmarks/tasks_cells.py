"""Train a detector and a segmentation network on microscope images, with and without SE, from scratch on CPU.

python benchmarks/tasks_cells.py detection    --data ../shared/data/bccd.tar   --out runs/cells
python benchmarks/tasks_cells.py segmentation --data ../shared/data/nuclei.tar --out runs/cells
python benchmarks/tasks_cells.py coco         --data ../shared/data/bccd.tar   --out runs/cells

Trains with `senet train` each network with each seed, evaluates its last epoch on the test split with `senet evaluate`,
and writes OUT/TASK.json and OUT/TASK.png: images with the ground truth beside the first SE network's prediction.
Finished runs are not repeated, so an interrupted command continues.

The last command writes some of the blood cells in COCO's format and runs the paper's Table 7 recipe on them for an
epoch. It shows that the recipe runs, not its accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
from datetime import date
from importlib import metadata
from pathlib import Path

SEEDS = (0, 1)

SMALL = ("--model-kwargs", "group_width=16", "--workers", "0")
COMMANDS = {
    "detection": [
        *("--task", "detection", "--head", "fcos:channels=32", "--size", "144x192", "--epochs", "12", "--batch-size"),
        *("4", "--optimizer", "adamw", "--lr", "0.001", "--weight-decay", "0.01", "--schedule", "one-cycle"),
        *("--warmup-epochs", "4", "--vflip", "0.5"),
    ],
    "segmentation": [
        *("--task", "segmentation", "--head", "unet:channels=64", "--size", "96", "--epochs", "10", "--batch-size"),
        *("8", "--lr", "0.002", "--schedule", "one-cycle", "--warmup-epochs", "2", "--vflip", "0.5"),
        *("--class-names", "background,nucleus", "--instances"),
    ],
}
KINDS = {"detection": "voc", "segmentation": "masks"}
NETWORKS = {"plain": "resnet18", "se": "se_resnet18"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[*COMMANDS, "coco"])
    parser.add_argument("--data", type=Path, required=True, help="the archive, or the folder that is in it")
    parser.add_argument("--out", type=Path, default=Path("runs/cells"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = unpacked(options.data, options.out)
    if options.task == "coco":
        run_the_papers(folder, options.out)
        return
    data = f"{KINDS[options.task]}:{folder}"
    rows = [
        one_run(options.task, data, options.out, kind, seed) for seed in options.seeds for kind in NETWORKS
    ]  # fmt: skip
    result = {
        "command": f"python benchmarks/tasks_cells.py {options.task} --data {options.data} --out {options.out}",
        "date": str(date.today()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in ("torch", "torchvision", "torchmetrics")},
        "runs": rows,
    }
    (options.out / f"{options.task}.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(options.task, folder, options.out, options.seeds[0])


def unpacked(data: Path, out: Path) -> Path:
    if data.is_dir():
        return data
    with tarfile.open(data) as archive:
        archive.extractall(out / "data", filter="data")
        return out / "data" / archive.getnames()[0].split("/")[0]


def one_run(task: str, data: str, out: Path, kind: str, seed: int) -> dict[str, object]:
    run = out / f"{task}-{kind}-{seed}"
    said = COMMANDS[task]
    if any((run / "states").glob("*.ckpt")) and not finished(run):
        senet("train", "--resume", str(run))
    elif not finished(run):
        model = ("--model", NETWORKS[kind], "--seed", str(seed), *SMALL)
        senet("train", "--data", data, *model, *said, "--out", str(run))
    tail = said[said.index("--class-names") :] if "--class-names" in said else ()
    args = ("--checkpoint", str(run / "last.safetensors"), "--data", data, "--split", "test", "--json", *tail)
    said_at_last = senet("evaluate", *args)  # before its JSON it may report skipped boxes
    found = json.loads(said_at_last[said_at_last.index("{\n") :])
    table = (run / "metrics.csv").read_text().splitlines()
    seconds = [float(line.split(",")[table[0].split(",").index("seconds")]) for line in table[1:]]
    return {"network": kind, "seed": seed, "test": found["scores"], "per_class": found["per_class"],
            "training_seconds": round(sum(seconds)), "epochs": len(seconds)}  # fmt: skip


def finished(run: Path) -> bool:
    table, job = run / "metrics.csv", run / "run.json"
    return (
        table.is_file() and len(table.read_text().splitlines()) - 1 == json.loads(job.read_text())["recipe"]["epochs"]
    )


def senet(*arguments: str) -> str:
    print("senet", *arguments, flush=True)
    done = subprocess.run([sys.executable, "-m", "senet", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def run_the_papers(folder: Path, out: Path, pictures: int = 16) -> None:
    """Run Table 7's recipe with SE-ResNet-50 on the first images of each split."""
    import torch

    from senet.data import open_data
    from senet.tasks.detection.results import coco_images, coco_results

    data, sample = open_data(f"voc:{folder}"), out / "coco-sample"
    for part in ("train", "val"):
        (sample / f"{part}2017").mkdir(parents=True, exist_ok=True)
        categories = range(1, len(data.classes) + 1)
        images, annotations = [], []
        for index in range(pictures):
            picture, target = data.split(part)[index]
            name = Path(data.split(part).locate(index)).name
            picture.save(sample / f"{part}2017" / name)
            found = {key: torch.as_tensor(value) for key, value in target.items()}
            images.append({"id": index, "file_name": name, "width": picture.width, "height": picture.height})
            annotations += coco_results(found | {"scores": torch.ones(len(found["labels"]))}, index, categories)
        file = sample / "annotations" / f"instances_{part}2017.json"
        file.parent.mkdir(exist_ok=True)
        content = coco_images(images, data.classes, categories) | {"annotations": annotations}
        file.write_text(json.dumps(content))
    print(senet("train", "--task", "detection", "--data", f"coco:{sample}", "--model", "se_resnet50", "--recipe",
                "coco", "--epochs", "1", "--batch-size", "4", "--size", "128x160", "--workers", "0",
                # The recipe starts from ImageNet's weights with frozen norms. With random weights the loss would
                # diverge.
                "--no-freeze-bn", "--freeze-stages", "0", "--out", str(out / "coco-se_resnet50")))  # fmt: skip


def draw(task: str, folder: Path, out: Path, seed: int) -> None:
    """Draw ground truth on the left and prediction on the right, for the first images of the test split."""
    import torch
    from PIL import Image

    from senet.data import open_data
    from senet.inference import predict_dense
    from senet.tasks import load_model, task_named
    from senet.tasks.segmentation.drawing import draw_mask

    names = ("background", "nucleus") if task == "segmentation" else ()
    data = open_data(f"{KINDS[task]}:{folder}", classes=names, instances=task == "segmentation")
    loaded = load_model(out / f"{task}-se-{seed}" / "last.safetensors")
    source = data.split("test")
    chosen = [0, 1, 2] if task == "detection" else [0, len(source) // 4, len(source) // 2, len(source) - 1]
    rows = []
    for index, seen in zip(chosen, predict_dense(loaded, [source.locate(i) for i in chosen]), strict=True):
        picture, target = source[index]
        if task == "detection":
            truth = task_named(task).drawn(picture, {k: torch.as_tensor(v) for k, v in target.items()}, data.classes)
            answer = task_named(task).draw(picture, seen.prediction, data.classes, score_threshold=0.4)
        else:
            truth = draw_mask(picture, target["mask"], 2)
            answer = draw_mask(picture, seen.prediction.numpy(), 2)
        rows.append([image.resize((320, round(320 * picture.height / picture.width))) for image in (truth, answer)])
    sheet = Image.new("RGB", (648, sum(row[0].height + 8 for row in rows) - 8), "white")
    top = 0
    for row in rows:
        for left, image in zip((0, 328), row, strict=True):
            sheet.paste(image, (left, top))
        top += row[0].height + 8
    sheet.save(out / f"{task}.png", optimize=True)


if __name__ == "__main__":
    main()
