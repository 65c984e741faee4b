"""`hf:`: tables of `datasets`, at random and as a stream. Without this library the tests skip."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from data_helpers import picture, tree
from orders import assert_exact, batches

from senet.data import CorruptImage, ImageDataset, eval_transform, open_data, scan
from senet.data.balance import balanced_order
from senet.errors import DataError
from senet.preprocessing import CIFAR

datasets = pytest.importorskip("datasets")

CLASSES = ["cat", "dog", "emu"]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        datasets.disable_progress_bars()
        yield


def cells(count, folder, *, start=0):
    """Image files as bytes, and their classes."""
    found = []
    for number in range(start, start + count):
        path = folder / f"{number:03d}.png"
        picture(number).save(path)
        found.append({"bytes": path.read_bytes(), "path": path.name})
    return found


def by_content(source):
    return sorted((bytes(source.stored(i).content), int(source.labels[i])) for i in range(len(source)))


def table(images, labels, label=None):
    features = datasets.Features(image=datasets.Image(), label=label or datasets.ClassLabel(names=CLASSES))
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """41 training images in three parquet files, 9 for a test in one."""
    root = tmp_path_factory.mktemp("parquet")
    images = cells(50, tmp_path_factory.mktemp("images"))
    labels = [number % 3 for number in range(50)]
    for name, rows in (("train-0", slice(0, 15)), ("train-1", slice(15, 17)), ("train-2", slice(17, 41)),
                       ("test-0", slice(41, 50))):  # fmt: skip
        table(images[rows], labels[rows]).to_parquet(root / f"{name}.parquet")
    return root, images, labels


@pytest.mark.parametrize("options", ["", ":streaming", ":streaming=5"])
def test_every_image_is_there_once_byte_for_byte(made, options):
    root, images, labels = made
    data = open_data(f"hf:{root}{options}")
    assert data.classes == tuple(CLASSES)
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 41, "val": 9}
    assert data.train.labels.tolist() == labels[:41]
    for position in (0, 14, 15, 16, 17, 40, 3):
        assert bytes(data.train.stored(position).content) == images[position]["bytes"]
        assert data.train[position][1] == labels[position]
    assert "row 40 of train" in data.train.locate(40)
    report = scan(data, workers=0)
    assert report.splits["val"].width == (24, 24)
    assert report.corrupt == report.leaks == []
    assert data.digest == open_data(f"hf:{root}{options}").digest
    assert len(data.record().sample) == 41


@pytest.mark.parametrize("options", ["", ":streaming=6"])
def test_batches_are_the_same_for_any_workers_processes_and_interruptions(made, options):
    assert_exact(open_data(f"hf:{made[0]}{options}").train)


def test_a_table_of_save_to_disk_and_a_folder_of_images(tmp_path):
    folder = tree(tmp_path / "images", {"cat": 6, "dog": 6})
    images = open_data(f"hf:{folder}")
    assert images.classes == ("cat", "dog")
    assert images.split_spec is not None
    assert "cat/000.png" in {images.split("all").entry(index).path for index in range(12)}
    files = open_data(f"folder:{folder}")
    assert {files.val.entry(i).path for i in range(len(files.val))} == {
        images.val.entry(i).path for i in range(len(images.val))
    }, "divided as a folder"
    datasets.load_dataset(str(folder)).save_to_disk(tmp_path / "saved")
    for place in ("saved", "saved/train"):
        again = open_data(f"hf:{tmp_path / place}").split("all")
        assert by_content(again) == by_content(images.split("all"))
    with pytest.raises(DataError, match="memory-mapped already"):
        open_data(f"hf:{tmp_path / 'saved'}:streaming")


def test_labels_of_text_and_rows_without_a_label(made, tmp_path):
    _, images, labels = made
    for split, rows in (("train", slice(0, 20)), ("validation", slice(20, 30))):
        names = [CLASSES[label] for label in labels[rows]]
        table(images[rows], names, datasets.Value("string")).to_parquet(tmp_path / f"{split}-0.parquet")
    assert open_data(f"hf:{tmp_path}").classes == tuple(CLASSES)
    for split, own in (("train", labels[:20]), ("validation", labels[20:30]), ("test", [-1] * 5)):
        start = {"train": 0, "validation": 20, "test": 30}[split]
        rows = images[start : start + len(own)]
        table(rows, own).to_parquet(tmp_path / f"{split}-0.parquet")
    assert list(open_data(f"hf:{tmp_path}").splits) == ["train", "val"], "a contest's test images have no labels"
    with pytest.raises(DataError, match="'test' has images without a label"):
        open_data(f"hf:{tmp_path}:test=test")


def test_a_table_leads_to_no_other_file(tmp_path):
    secret = tmp_path / "elsewhere.png"
    picture(0).save(secret)
    folder = tmp_path / "table"
    folder.mkdir()
    picture(1).save(folder / "here.png")
    rows = [str(secret), f"{folder}/../elsewhere.png", "http://127.0.0.1:9/x.png", None, str(folder / "here.png")]
    features = datasets.Features(image=datasets.Image(decode=False), label=datasets.ClassLabel(names=CLASSES))
    images = [path and {"bytes": None, "path": path} for path in rows]
    made = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1, 0]}, features=features)
    made.cast_column("image", datasets.Image()).to_parquet(folder / "train-0.parquet", batch_size=10)
    for options in ("", ",streaming"):
        source = open_data(f"hf:{folder}:train=train{options}", training=False).train.source
        for index, said in ((0, "outside of the data"), (1, "outside"), (2, "outside"), (3, "no image")):
            with pytest.raises(CorruptImage, match=said):
                source.stored(index)
        assert source[4][0].size == (24, 20)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (":label=kind", "no column 'kind'; it has image, label"),
        (":image=label", "'label' holds no images"),
        (":val=dev", "no split 'dev'; it has test, train|no split 'dev'; it has train, test"),
        (":streaming=0", "streaming=0 must be a number of rows"),
        (":config=other", "can't be read by `datasets`: .*other"),
        (":labels=x", "must be one of config, revision"),
    ],
)
def test_wrong_options_in_one_line(made, options, said):
    with pytest.raises(DataError, match=said) as caught:
        open_data(f"hf:{made[0]}{options}")
    assert "\n" not in str(caught.value)


def test_wrong_places_in_one_line(tmp_path, made):
    (tmp_path / "a.txt").write_text("text")
    for name, said in (
        (f"hf:{tmp_path}/none", "doesn't exist"),
        (f"hf:{tmp_path}/a.txt", "is a file"),
        (f"hf:{tmp_path}", "is text; images are read from parquet"),
        ("hf:nobody/nothing", "add --download"),
        ("hf:", "needs a place"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            open_data(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="--download has no effect"):
        open_data(f"hf:{made[0]}", download=True)
    with pytest.raises(DataError, match="--data-root has no effect"):
        open_data(f"hf:{made[0]}", root=tmp_path)


def test_no_network_without_being_asked(made, monkeypatch):
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address) or 1 / 0)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where) or 1 / 0)
    open_data(f"hf:{made[0]}")
    with pytest.raises(DataError, match="add --download"):
        open_data("hf:nobody/nothing")
    assert not asked
    assert not datasets.config.HF_HUB_OFFLINE, "given back"


def test_a_stream_is_read_forwards(made, monkeypatch):
    """An epoch opens each file once. A resumed one opens only the files that are left."""
    source = open_data(f"hf:{made[0]}:streaming=4").train
    opened = []
    shard = datasets.IterableDataset.shard
    monkeypatch.setattr(
        datasets.IterableDataset, "shard", lambda self, **how: opened.append(how["index"]) or shard(self, **how)
    )
    assert len(batches(source)) == 10
    assert sorted(opened) == [0, 1, 2]
    before = list(opened)
    opened.clear()
    assert len(batches(source, start=8)) == 2
    assert opened == before[-len(opened) :]
    assert len(opened) < 3


def test_a_stream_takes_no_other_order(made):
    source = open_data(f"hf:{made[0]}:streaming").train
    with pytest.raises(DataError, match="leave out the sampler or streaming"):
        ImageDataset(source, eval_transform(CIFAR), order=balanced_order(source.labels))


def test_undivided_streams_keep_their_order(made, tmp_path):
    (tmp_path / "train-0.parquet").write_bytes((made[0] / "train-2.parquet").read_bytes())
    data = open_data(f"hf:{tmp_path}:streaming=4")
    assert data.split_spec is not None
    order = data.train.order(0, 0)
    windows = data.train.indices[order.numpy()] // 4
    assert (np.diff(windows) >= 0).all(), "one window after the other"
    assert_exact(data.train)
