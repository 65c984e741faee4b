"""Train from each place of data, with SIGKILL in the middle, and compare with an uninterrupted training.

    pip install 'senet[hf,litdata]' 'moto[server]'
    python benchmarks/remote_resume.py IMAGES [--kills 2] [--out benchmarks/remote_resume.json]

`IMAGES` has `train` and `test` folders of class folders. A few of its images are written as parquet files and as
litdata chunks, the chunks also into an S3 server of this machine. Each training has an uninterrupted twin without
worker processes, while it has two of them itself. At the end weights, optimiser, tables and logs must be the same bits.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests" / name) for name in ("training", "")]
os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"

OPTIONS = [
    "--model", "se_cifar_resnet20", "--model-kwargs", "depth=8", "--recipe", "cifar", "--epochs", "3", "--batch-size",
    "10", "--save-every", "3",
]  # fmt: skip


def item(pair: tuple[str, int]) -> dict[str, Any]:
    """What `litdata.optimize` stores of an image file and its class number."""
    import litdata

    return {"image": litdata.types.Image(path=pair[0]), "label": pair[1]}


def write(images: Path, out: Path, per_class: dict[str, int]) -> None:
    """Write parquet files below `out/parquet` and chunks below `out/chunks`."""
    import datasets
    import litdata

    classes = sorted(path.name for path in (images / "train").iterdir())
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=classes))
    (out / "parquet").mkdir(parents=True)
    for split, count in per_class.items():
        rows = [(str(path), label) for label, name in enumerate(classes)
                for path in sorted((images / split / name).iterdir())[:count]]  # fmt: skip
        random.Random(0).shuffle(rows)
        for number in range(3):
            part = rows[number::3]
            table = {"image": [{"bytes": Path(path).read_bytes(), "path": Path(path).name} for path, _ in part]}
            table |= {"label": [label for _, label in part]}
            made = datasets.Dataset.from_dict(table, features=features)
            made.to_parquet(out / "parquet" / f"{split}-{number}.parquet")
        litdata.optimize(item, rows, str(out / "chunks" / {"test": "val"}.get(split, split)), chunk_size=10,
                         num_workers=1)  # fmt: skip


def serve(chunks: Path) -> str:
    """Put the chunks into a bucket of a local server, and return their address."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key",
                   "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for path in chunks.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "bucket", f"set/{path.relative_to(chunks)}")
    return "s3://bucket/set"


def killed(data: str, folder: Path, log: Path, kills: int) -> list[str]:
    """Train with two workers, killed soon after a new state was saved. Returns the states that were resumed from."""
    from processes import start

    from senet.training.states import TrainingStates

    rng = random.Random(data)
    saved: list[str] = []

    def newest() -> str:
        states = TrainingStates(folder).all() if folder.is_dir() else []
        return states[0].path.name if states else "nothing"

    while True:
        begun = (folder / "run.json").is_file()
        options = ["--resume", folder] if begun else ["--data", data, *OPTIONS, "--out", folder]
        child = start("train", *options, "--workers", 2, log=log)
        if len(saved) == kills:
            child.finish()
            return saved
        before = newest()
        while newest() == before:
            assert child.process.is_alive(), child.said
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.5))
        child.signal(signal.SIGKILL)
        child.process.join()
        saved.append(newest())


def compared(data: str, folder: Path, kills: int) -> dict[str, Any]:
    """Train with and without kills, and return the differences."""
    from equality import differences, rows, state
    from processes import start
    from safetensors.torch import load_file

    one, other = folder / "whole", folder / "killed"
    folder.mkdir()
    start("train", "--data", data, *OPTIONS, "--out", one, "--workers", 0, log=folder / "log").finish()
    saved = killed(data, other, folder / "killed.log", kills)
    weights = [{name: load_file(f / f"{name}.safetensors") for name in ("last", "best")} for f in (one, other)]
    different = differences(*weights) + differences(state(one), state(other))
    different += [] if rows(one) == rows(other) else ["metrics.csv"]
    return {"resumed_from": saved, "differences": different}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="places at the same time")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("remote_resume.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        there = Path(temporary)
        os.environ |= {"HF_HOME": str(there / "hf"), "LITDATA_CACHE_DIR": str(there / "litdata")}
        write(options.images, there, {"train": 10, "test": 5})
        parquet, chunks = f"hf:{there / 'parquet'}", there / "chunks"
        places = {
            "hf:FOLDER": parquet,
            "hf:FOLDER:streaming=20": f"{parquet}:streaming=20",
            "litdata:FOLDER": f"litdata:{chunks}",
            "litdata:s3://BUCKET/NAME": f"litdata:{serve(chunks)}",
        }
        jobs = {
            place: pool.submit(compared, data, there / str(number), options.kills)
            for number, (place, data) in enumerate(places.items())
        }
        found = {place: job.result() for place, job in jobs.items()}
    result = {
        "command": " ".join(["python", *sys.argv]),
        "training": f"senet train --data PLACE {' '.join(OPTIONS)}",
        "places": found,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "datasets", "litdata", "moto")},
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    sys.exit(any(one["differences"] for one in found.values()))


if __name__ == "__main__":
    main()
