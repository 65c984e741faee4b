"""Shards: what is written is read, in every order that is promised, and nothing that a file says leads elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import signal
import tarfile
import time

import numpy as np
import pytest
import torch
from data_helpers import memory, tree
from hypothesis import given
from hypothesis import strategies as st
from processes import start

from senet.data import (
    CorruptImage,
    Data,
    ImageDataset,
    Shard,
    TrainBatchSampler,
    eval_transform,
    open_data,
    train_loader,
    write_shards,
)
from senet.data.shards import LANES, shard_order
from senet.errors import DataError
from senet.preprocessing import CIFAR

COUNTS = {"cat": 30, "dog": 25, "emu": 20}


def size_of(folder):
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of pictures and its shards, about ten pictures each."""
    root = tmp_path_factory.mktemp("shards")
    data = open_data(f"folder:{tree(root / 'images', COUNTS)}")
    write_shards(data, root / "out", shard_mb=0.015, workers=0)
    return data, root / "out"


@pytest.fixture
def copied(made, tmp_path):
    """The shards again, to be spoiled."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in made[1].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def by_content(source):
    return sorted(
        (hashlib.sha256(source.stored(i).content).hexdigest(), int(source.labels[i])) for i in range(len(source))
    )


def test_every_image_is_there_once_byte_for_byte(made):
    data, folder = made
    again = open_data(f"shards:{folder}")
    assert again.classes == data.classes
    for part in ("train", "val"):
        assert by_content(again.split(part)) == by_content(data.split(part))
        assert len(list(folder.glob(f"{part}-*.tar"))) > 1
    image, label = again.train[3]
    assert image.size == (24, 20)
    assert label == again.train.labels[3]
    assert f" {again.classes[label]}/" in again.train.locate(3), "it is called as it was in the folder"


def test_the_archives_are_ordinary_ones(made):
    """Pairs of an image and its class number, under one key: what WebDataset's readers expect."""
    data, folder = made
    labels = []
    for path in sorted(folder.glob("train-*.tar")):
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            for image, label in zip(members[::2], members[1::2], strict=True):
                assert image.isfile()
                assert image.name.removesuffix(".png") == label.name.removesuffix(".cls")
                labels.append(int(archive.extractfile(label).read()))
    assert sorted(labels) == sorted(data.train.labels)
    assert labels != sorted(labels), "classes are mixed when shards are written"


def test_pictures_in_memory_become_files(tmp_path):
    source = memory(9)
    write_shards(Data("noise", ("a", "b", "c"), source, source), tmp_path, workers=0)
    again = open_data(f"shards:{tmp_path}").train
    pixels = sorted(again[i][0].tobytes() for i in range(9))
    assert pixels == sorted(source[i][0].tobytes() for i in range(9))


starts = (
    st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(sum).map(lambda n: torch.tensor([0, *np.cumsum(n)]))
)


@given(starts, st.integers(0, 9))
def test_an_order_is_a_permutation(starts, key):
    order = shard_order(starts, torch.Generator().manual_seed(key))
    assert sorted(order.tolist()) == list(range(int(starts[-1])))


def test_an_order_is_random_and_repeats(made):
    source = open_data(f"shards:{made[1]}").train
    orders = [tuple(source.order(seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert tuple(source.order(0, 1).tolist()) == orders[1]


@pytest.mark.parametrize("world", [2, 3, 8])
def test_processes_read_their_own_shards(world):
    starts = torch.arange(0, 96_001, 100)  # 960 shards
    order = shard_order(starts, torch.Generator().manual_seed(0))
    shards = [set((order[rank::world] // 100).tolist()) for rank in range(world)]
    assert sum(map(len, shards)) <= 960 + LANES, "only a shard on the border of two rows is read twice"
    batch = (order[: 256 * 4] // 100).unique()
    assert len(batch) >= LANES, "a batch is of many shards"


def test_processes_see_together_what_one_sees_and_interruptions_change_nothing(made):
    source = open_data(f"shards:{made[1]}").train

    def batches(size, rank=0, world=1, start=0):
        sampler = TrainBatchSampler(len(source), size, seed=5, shard=Shard(rank, world), order=source.order)
        sampler.resume_at(2, start)
        return [[index for _, index in batch] for batch in sampler]

    alone = batches(8)
    pair = zip(batches(4, 0, 2), batches(4, 1, 2), strict=True)
    assert [set(batch) for batch in alone] == [{*one, *other} for one, other in pair]
    assert batches(8, start=3) == alone[3:]


def test_the_loader_uses_the_order_with_any_number_of_workers(made):
    source = open_data(f"shards:{made[1]}").train
    found = []
    for workers in (0, 2):
        loader = train_loader(ImageDataset(source, eval_transform(CIFAR), seed=3), batch_size=5, workers=workers)
        found.append(list(loader))
    whole = len(source) // 5 * 5
    assert torch.cat([batch.indices for batch in found[0]]).tolist() == source.order(3, 0)[:whole].tolist()
    assert all(torch.equal(a.images, b.images) for a, b in zip(*found, strict=True))


def test_it_travels_to_spawned_workers(made):
    source = open_data(f"shards:{made[1]}").train
    source.stored(0)
    assert pickle.loads(pickle.dumps(source)).stored(0) == source.stored(0)


def test_broken_images_are_left_out_and_told(tmp_path):
    root = tree(tmp_path / "images", COUNTS)
    (root / "cat" / "003.png").write_bytes(b"nonsense")
    (root / "dog" / "004.png").write_bytes((root / "dog" / "004.png").read_bytes()[:90])
    told = []
    data = open_data(f"folder:{root}")
    made = write_shards(data, tmp_path / "out", report=lambda *it: told.append(it), workers=0)
    assert sorted(told) == sorted(made.corrupt)
    assert {os.path.basename(path) for path, _ in told} == {"003.png", "004.png"}
    again = open_data(f"shards:{tmp_path / 'out'}")
    assert len(again.train) + len(again.val) == sum(COUNTS.values()) - 2
    assert sorted(map(tuple, json.loads((tmp_path / "out" / "shards.json").read_text())["left_out"])) == sorted(told)


def test_too_many_broken_images_end_it(tmp_path):
    root = tree(tmp_path / "images", COUNTS)
    for path in (root / "cat").iterdir():
        path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="corrupt images, more than the limit"):
        write_shards(open_data(f"folder:{root}"), tmp_path / "out", workers=0)
    assert not (tmp_path / "out" / "shards.json").exists()


def test_a_damaged_image_is_broken_as_in_a_folder(copied):
    source = open_data(f"shards:{copied}").train
    shard = copied / source.shards[0]
    content = bytearray(shard.read_bytes())
    content[int(source.records.offsets[0]) + 200] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptImage, match=r"train-00000\.tar: .*png: damaged \(its checksum differs\)"):
        source[0]
    sample = ImageDataset(source, eval_transform(CIFAR))[0, 0]
    assert sample.corrupt
    assert sample.label == source.labels[1], "the next one stands in, as in a folder"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: os.truncate(d / "train-00000.tar", 5000), r"train-00000\.tar is 5,000 bytes long instead of"),
        (lambda d: (d / "val-00000.tar").unlink(), r"val-00000\.tar is missing"),
        (lambda d: (d / "train.npz").write_bytes(b"x"), r"train\.npz is damaged"),
        (lambda d: (d / "train.npz").unlink(), r"train\.npz is missing"),
        (lambda d: (d / "shards.json").unlink(), r"incomplete shards; senet shard .* continues"),
        (lambda d: (d / "shards.json").write_text("{"), r"shards\.json can't be read"),
        (lambda d: (d / "shards.json").write_text("[]"), r"isn't of the format"),
        (lambda d: (d / "shards.json").write_text('{"format": "senet shards 1"}'), r"isn't an index of `senet shard`"),
    ],
    ids=range(8),
)  # fmt: skip
def test_what_is_not_whole_is_refused_by_name(copied, spoil, says):
    spoil(copied)
    with pytest.raises(DataError, match=says):
        open_data(f"shards:{copied}")


def rewritten(folder, change):
    index = json.loads((folder / "shards.json").read_text())
    change(index)
    (folder / "shards.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["../secret.tar", "/etc/passwd", "a/b.tar", ".hidden.tar", "train.txt", 3, None])
def test_no_name_leads_out_of_the_folder(copied, name):
    rewritten(copied, lambda index: index["splits"]["train"]["shards"][0].update(name=name))
    with pytest.raises(DataError, match="lies in the index's own folder"):
        open_data(f"shards:{copied}")


def test_no_table_leads_out_of_the_folder(copied):
    rewritten(copied, lambda index: index["splits"]["train"].update(table="../train.npz"))
    with pytest.raises(DataError, match="lies in the index's own folder"):
        open_data(f"shards:{copied}")


def with_table(folder, **changed):
    """Another table, with the checksum that belongs to it: as somebody would make who means harm."""
    with np.load(folder / "train.npz") as table:
        arrays = dict(table) | changed
    content = io.BytesIO()
    np.savez(content, **arrays)
    (folder / "train.npz").write_bytes(content.getvalue())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    rewritten(folder, lambda index: index["splits"]["train"].update(sha256=digest))


class Evil:
    def __reduce__(self):
        return os._exit, (77,)


def test_nothing_is_unpickled(copied):
    with_table(copied, labels=np.array([Evil()] * 60, dtype=object))
    with pytest.raises(DataError, match=r"allow_pickle|Object arrays"):
        open_data(f"shards:{copied}")


@pytest.mark.parametrize("column", ["offsets", "sizes", "labels"])
@pytest.mark.parametrize("value", [-1, 2**40])
def test_rows_that_point_elsewhere_are_refused(copied, column, value):
    with np.load(copied / "train.npz") as table:
        values = table[column].copy()
    values[7] = value
    with_table(copied, **{column: values})
    with pytest.raises(DataError, match=r"lies outside|labels must be"):
        open_data(f"shards:{copied}")


def test_killed_and_gone_on_with_to_the_same_bytes(tmp_path, made):
    tree(tmp_path / "images", {"cat": 200, "dog": 200})
    out = tmp_path / "out"
    command = ("shard", f"folder:{tmp_path / 'images'}", "--out", out, "--shard-mb", "0.006", "--workers", "1")
    child = start(*command, log=tmp_path / "killed")
    while child.process.is_alive() and len(list(out.glob("*.tar"))) < 3:
        time.sleep(0.005)
    child.signal(signal.SIGKILL)
    child.process.join()
    assert not (out / "shards.json").exists(), "it was finished too soon for this test to mean anything"
    with pytest.raises(DataError, match="incomplete shards"):
        open_data(f"shards:{out}")
    assert "of an earlier call kept" in start(*command, log=tmp_path / "again").finish()
    data = open_data(f"folder:{tmp_path / 'images'}")
    write_shards(data, tmp_path / "whole", shard_mb=0.006, workers=0)
    for path in (tmp_path / "whole").iterdir():
        if path.name.startswith(("train-", "val-")):
            assert path.read_bytes() == (out / path.name).read_bytes()
    assert by_content(open_data(f"shards:{out}").train) == by_content(data.train)


def test_other_shards_are_not_overwritten(copied, tmp_path):
    data = open_data(f"folder:{tree(tmp_path / 'other', {'a': 5, 'b': 5})}")
    with pytest.raises(DataError, match="holds other shards"):
        write_shards(data, copied, workers=0)
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "mine.tar").write_bytes(b"")
    with pytest.raises(DataError, match="archives of another program than `senet shard`"):
        write_shards(data, tmp_path / "archives", workers=0)
