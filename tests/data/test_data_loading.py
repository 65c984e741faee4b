from __future__ import annotations

import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from data_helpers import files, memory

from senet.data import (
    Augmentation,
    FileSource,
    ImageDataset,
    Shard,
    default_workers,
    eval_loader,
    eval_transform,
    train_loader,
    train_transform,
)
from senet.data.corrupt_images import CorruptImageReport
from senet.data.dataset import RefusedImage
from senet.errors import DataError
from senet.preprocessing import CIFAR

VARIED = train_transform(CIFAR, Augmentation(color_jitter=0.3, rotation=10, random_erasing=0.5))


def dataset(source=None, transform=VARIED, **options) -> ImageDataset:
    return ImageDataset(source or memory(20), transform, **options)


def batches(data: ImageDataset, *, epoch: int = 0, start: int = 0, workers: int = 0) -> list:
    loader = train_loader(data, batch_size=4, workers=workers)
    loader.batch_sampler.resume_at(epoch, start)
    return list(loader)


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.key == b.key
        for a, b in zip(one, other, strict=True)
    )


def test_batches_do_not_depend_on_the_number_of_workers():
    loader = train_loader(dataset(), batch_size=4, workers=2)
    for epoch in (0, 1):  # the second epoch by the same, persistent workers
        loader.batch_sampler.set_epoch(epoch)
        assert same(list(loader), batches(dataset(), epoch=epoch))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_within_an_epoch_gives_the_rest_of_it(workers):
    whole = batches(dataset(), epoch=3)
    rest = batches(dataset(), epoch=3, start=2, workers=workers)
    assert len(rest) == 3
    assert same(rest, whole[2:])


def test_epochs_and_seeds_differ():
    first = batches(dataset())
    assert same(first, batches(dataset()))
    assert not same(first, batches(dataset(), epoch=1))
    assert not same(first, batches(dataset(seed=1)))


def test_one_image_is_varied_anew_each_epoch():
    data = dataset()
    assert torch.equal(data[0, 5].image, data[0, 5].image)
    assert not torch.equal(data[0, 5].image, data[1, 5].image)


@pytest.mark.parametrize("workers", [0, 1])
def test_global_randomness_is_left_alone(workers):
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    batches(dataset(), workers=workers)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_global_randomness_is_restored_after_an_error():
    def fails(image):
        torch.rand(1)
        raise RuntimeError("no")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no"):
        dataset(transform=fails)[0, 0]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_belongs_together():
    source = memory(20)
    plain = eval_transform(CIFAR)
    batch = next(iter(eval_loader(ImageDataset(source, plain), batch_size=6, workers=0)))
    assert batch.images.shape == (6, 3, 32, 32)
    assert batch.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert batch.indices.tolist() == list(range(6))
    assert batch.valid.all()
    assert batch.corrupt == []
    assert torch.equal(batch.images[4], plain(source[4][0]))


def test_evaluation_ends_with_a_smaller_batch():
    loader = eval_loader(dataset(), batch_size=6, workers=0)
    assert [len(batch.labels) for batch in loader] == [6, 6, 6, 2]
    assert len(loader) == 4


def test_evaluation_shares_cover_each_image_once():
    shares = [eval_loader(dataset(), batch_size=4, workers=0, shard=Shard(rank, 3)) for rank in range(3)]
    seen = [index for loader in shares for batch in loader for index in batch.indices.tolist()]
    assert sorted(seen) == list(range(20))


def spoiled(tmp_path, *numbers: int, count: int = 8) -> FileSource:
    source = files(tmp_path / "images", count)
    for number in numbers:
        (tmp_path / "images" / f"{number:03d}.png").write_text("nonsense")
    return source


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_readable_image_stands_in(tmp_path, workers):
    source = spoiled(tmp_path, 2, 3, 7)
    data = ImageDataset(source, eval_transform(CIFAR))
    first, second = eval_loader(data, batch_size=4, workers=workers)
    assert first.images.shape == second.images.shape == (4, 3, 32, 32)
    assert first.labels.tolist() == [0, 1, 4 % 3, 4 % 3]
    assert first.indices.tolist() == [0, 1, 2, 3]
    assert first.valid.tolist() == [True, True, False, False]
    assert torch.equal(first.images[2], second.images[0])
    assert torch.equal(second.images[3], first.images[0])  # wraps around
    assert sorted({tuple(trouble) for trouble in first.corrupt}) == [
        (source.paths[2], "not an image"),
        (source.paths[3], "not an image"),
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_refuse_names_the_file_in_one_line(tmp_path, workers):
    source = spoiled(tmp_path, 2)
    loader = eval_loader(ImageDataset(source, VARIED, corrupt="raise"), batch_size=4, workers=workers)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert isinstance(caught.value, RefusedImage)
    assert str(caught.value) == f"corrupt image {source.paths[2]}: not an image"


def test_nothing_readable_at_all_ends(tmp_path):
    source = spoiled(tmp_path, 0, 1, 2, count=3)
    with pytest.raises(DataError, match=r"3 images in a row can't be read, the first: .*000.png: not an image"):
        ImageDataset(source, VARIED)[0, 0]


def test_unknown_policy():
    with pytest.raises(ValueError, match="'skip' or 'raise'"):
        dataset(corrupt="ignore")


def test_report_tells_each_broken_image_once():
    told = []
    report = CorruptImageReport(5000, report=lambda path, reason: told.append((path, reason)))
    assert report.summary() == ""
    report.add([("a", "empty")])
    assert report.summary() == "1 corrupt image skipped"
    report.add([["a", "empty"], ["b", "not an image"]])  # lists: what pin_memory may make of tuples
    assert told == [("a", "empty"), ("b", "not an image")]
    assert report.summary() == "2 corrupt images skipped"


@pytest.mark.parametrize(("total", "limit", "allowed"), [(50, None, 10), (5000, None, 50), (5000, 0, 0), (9, 3, 3)])
def test_report_ends_the_run_past_its_limit(total, limit, allowed):
    report = CorruptImageReport(total, limit=limit, data="folder:/flowers")
    report.add((f"{i}.jpg", "truncated") for i in range(allowed))
    with pytest.raises(DataError, match=r"the last: last\.jpg: empty.*\n`senet doctor --data folder:/flowers`"):
        report.add([("last.jpg", "empty")])


def test_too_few_images_for_a_batch():
    with pytest.raises(DataError, match=r"20 training images don't fill one batch of 32 on 1 process; .* at most 20"):
        train_loader(dataset(), batch_size=32)
    assert len(train_loader(dataset(), batch_size=32, drop_last=False, workers=0)) == 1


def test_default_workers_suit_the_machine(monkeypatch):
    for processors, workers in ((1, 0), (2, 2), (64, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=processors: set(range(n)), raising=False)
        assert default_workers() == workers


def test_dataset_travels_to_spawned_workers(tmp_path):
    data = pickle.loads(pickle.dumps(ImageDataset(files(tmp_path, 3), VARIED)))
    assert data[0, 1].image.shape == (3, 32, 32)


@pytest.mark.slow
def test_spawned_workers_under_python_c(tmp_path):
    files(tmp_path, 4)
    code = (
        "import glob, sys, torch\n"
        "from senet.data import *\n"
        "from senet.preprocessing import CIFAR\n"
        "source = FileSource(sorted(glob.glob(sys.argv[1] + '/*.png')), [0, 1, 0, 1])\n"
        "data = ImageDataset(source, train_transform(CIFAR, Augmentation()))\n"
        "torch.multiprocessing.set_start_method('spawn')\n"
        "b, = train_loader(data, batch_size=4, workers=1)\n"
        "a, = train_loader(data, batch_size=4, workers=0)\n"
        "print(torch.equal(a.images, b.images))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert run.stdout == "True\n", run.stderr


def test_lightning_sets_the_epoch_and_keeps_the_loader():
    lightning = pytest.importorskip("lightning")
    seen = []

    class Watch(lightning.LightningModule):
        def training_step(self, batch, batch_idx):
            assert isinstance(batch.key, tuple)
            seen.append((*batch.key, len(batch.labels)))

        def configure_optimizers(self):
            return None

    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", use_distributed_sampler=False, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, barebones=False,
    )  # fmt: skip
    trainer.fit(Watch(), train_loader(dataset(), batch_size=4, workers=0))
    expected = [(*batch.key, 4) for epoch in (0, 1) for batch in batches(dataset(), epoch=epoch)]
    assert seen == expected
