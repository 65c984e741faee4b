"""Compare the guarantees of litdata, webdataset and Hugging Face datasets for an epoch.

    pip install litdata webdataset datasets
    python benchmarks/data_libraries.py PHOTOS [--images 1003] [--json FILE]

PHOTOS is a folder of JPEG files. Asked of each, with 3 processes x 2 workers on a number of images that neither
divides: is every image seen exactly once in an epoch? After an interruption in mid-epoch: is the rest the rest, with
as many workers as before, and with another number? How many images a second does one process read (bytes, not
decoded)?
"""

from __future__ import annotations

import argparse
import glob
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

WORLD, WORKERS, BATCH, SEED = 3, 2, 10, 7


def number(sample: Any) -> int:
    return int(sample["number"])


def numbers(samples: Any) -> list[int]:
    return [number(sample) for sample in samples]


class LitData:
    """`StreamingDataset` with `StreamingDataLoader`, used according to the manual."""

    def write(self, files: list[bytes], folder: Path) -> None:
        from litdata.streaming.writer import BinaryWriter

        writer = BinaryWriter(str(folder), chunk_bytes="4MB")
        for index, content in enumerate(files):
            writer[index] = {"number": index, "jpeg": content}
        writer.done()
        writer.merge()

    def loader(self, folder: Path, rank: int, world: int, workers: int, state: Any = None) -> Any:
        from litdata import StreamingDataLoader, StreamingDataset
        from litdata.utilities.env import _DistributedEnv

        data = StreamingDataset(str(folder), shuffle=True, seed=SEED, drop_last=False)
        data.distributed_env = _DistributedEnv(world, rank, 1)
        loader = StreamingDataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=numbers)
        if state is not None:
            loader.load_state_dict(state)
        return loader

    def state(self, loader: Any) -> Any:
        return loader.state_dict()


class WebDataset:
    """Tar shards, shuffled through a buffer, split by node and worker, according to the manual."""

    def write(self, files: list[bytes], folder: Path) -> None:
        import webdataset as wds

        with wds.ShardWriter(str(folder / "%05d.tar"), maxsize=4e6, verbose=0) as writer:
            for index, content in enumerate(files):
                writer.write({"__key__": f"{index:08d}", "jpg": content})

    def loader(self, folder: Path, rank: int, world: int, workers: int, state: Any = None) -> Any:  # noqa: ARG002 - there is none
        import webdataset as wds

        def by_rank(source: Iterator[Any], _group: Any = None) -> Iterator[Any]:
            for position, shard in enumerate(source):
                if position % world == rank:
                    yield shard

        data = wds.WebDataset(
            sorted(map(str, folder.glob("*.tar"))), shardshuffle=100, seed=SEED, nodesplitter=by_rank,
            workersplitter=wds.split_by_worker, empty_check=False,
        )  # fmt: skip
        data = data.shuffle(500, seed=SEED).map(lambda sample: {"number": sample["__key__"]})
        return DataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=numbers)

    state = None  # the shuffle buffer has no state to save


class HuggingFace:
    """Parquet, streamed, shuffled through a buffer, `split_dataset_by_node`, torchdata's stateful loader's protocol."""

    def write(self, files: list[bytes], folder: Path) -> None:
        from datasets import Dataset

        shards = max(1, sum(map(len, files)) // 4_000_000)
        whole = Dataset.from_dict({"number": list(range(len(files))), "jpeg": files})
        for index in range(shards):
            whole.shard(shards, index).to_parquet(str(folder / f"{index:05d}.parquet"))

    def loader(self, folder: Path, rank: int, world: int, workers: int, state: Any = None) -> Any:
        from datasets import load_dataset
        from datasets.distributed import split_dataset_by_node

        paths = sorted(map(str, folder.glob("*.parquet")))
        data = load_dataset("parquet", data_files=paths, split="train", streaming=True)
        data = split_dataset_by_node(data.shuffle(seed=SEED, buffer_size=500), rank, world)
        if state is not None:
            data.load_state_dict(state)
        loader = DataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=numbers)
        loader.data = data
        return loader

    def state(self, loader: Any) -> Any:
        return loader.data.state_dict()  # of this process: worker processes keep theirs


LIBRARIES: dict[str, Callable[[], Any]] = {
    "litdata": LitData,
    "webdataset": WebDataset,
    "datasets": HuggingFace,
}


def epoch(library: Any, folder: Path) -> dict[str, Any]:
    seen: Counter[int] = Counter()
    batches = []
    for rank in range(WORLD):
        mine = list(library.loader(folder, rank, WORLD, WORKERS))
        batches.append(len(mine))
        for batch in mine:
            seen.update(batch)
    return {"seen": len(seen), "twice": sum(n > 1 for n in seen.values()), "batches a process": batches}


def resumed(library: Any, folder: Path, before: int, after: int) -> str:
    """Compare the images after a saved state with an uninterrupted epoch."""
    if library.state is None:
        return "no state to save"
    whole = list(library.loader(folder, 0, 1, before))
    loader = library.loader(folder, 0, 1, before)
    batches, stop = iter(loader), len(whole) // 3
    for loader.seen in range(1, stop + 1):
        next(batches)
    state = library.state(loader)
    rest = list(library.loader(folder, 0, 1, after, state))
    if rest == whole[stop:]:
        return "exact"
    again = sorted(n for batch in [*whole[:stop], *rest] for n in batch)
    return "another order" if again == sorted(n for batch in whole for n in batch) else "images lost or repeated"


def speed(library: Any, folder: Path) -> float:
    loader = library.loader(folder, 0, 1, 0)
    started = time.perf_counter()
    count = sum(len(batch) for batch in loader)
    return count / (time.perf_counter() - started)


def tried(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--images", type=int, default=1003)
    parser.add_argument("--only", choices=LIBRARIES, nargs="+", default=list(LIBRARIES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    paths = sorted(glob.glob(f"{options.photos}/**/*.jpg", recursive=True))
    files = [Path(paths[index % len(paths)]).read_bytes() for index in range(options.images)]
    found = {}
    for name in options.only:
        library = LIBRARIES[name]()
        folder = Path(tempfile.mkdtemp())
        library.write(files, folder)
        found[name] = {
            "epoch": tried(lambda library=library, folder=folder: epoch(library, folder)),
            "resume, no workers": tried(lambda library=library, folder=folder: resumed(library, folder, 0, 0)),
            "resume, 2 -> 2 workers": tried(lambda library=library, folder=folder: resumed(library, folder, 2, 2)),
            "resume, 2 -> 0 workers": tried(lambda library=library, folder=folder: resumed(library, folder, 2, 0)),
            "images a second": tried(
                lambda library=library, folder=folder: round(sorted(speed(library, folder) for _ in range(3))[1])
            ),
        }
        print(name, json.dumps(found[name], indent=2), flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps({"images": options.images, "python": sys.version, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
