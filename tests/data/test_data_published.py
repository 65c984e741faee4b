"""Each published data set is read from small files of its real format, made here."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from data_helpers import tree
from torchvision import datasets

from senet.data import eval_transform, open_data, write_images
from senet.errors import DataError, UnknownNameError


def test_digits():
    data = open_data("digits")
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.val), data.test) == (1438, 359, None)
    assert np.bincount(data.val.labels).min() >= 34
    pixels = np.stack([np.asarray(data.train[i][0]) for i in range(len(data.train))])
    assert pixels.shape == (1438, 8, 8)
    assert (pixels.dtype, pixels.min(), pixels.max()) == (np.uint8, 0, 255)
    assert data.train[0][0].mode == "L"


def test_digits_are_divided_alike_for_everybody():
    one = open_data("digits").val
    with pytest.raises(DataError, match="--split-seed 2 has no effect on digits: its validation images are fixed"):
        open_data("digits", seed=2)
    assert one.indices[:5].tolist() == [1, 4, 5, 6, 7], "changing this changes everybody's validation set"


def test_digits_statistics():
    data = open_data("digits")
    transform = eval_transform(data.default_preprocessing)
    tensors = torch.stack([transform(data.train[i][0]) for i in range(len(data.train))])
    assert tensors.shape == (1438, 1, 16, 16)
    assert abs(tensors.mean()) < 0.01
    assert abs(tensors.std() - 1) < 0.01


def test_digits_take_no_path_and_no_fraction():
    with pytest.raises(DataError, match="takes no path"):
        open_data("digits:/x")
    with pytest.raises(DataError, match="no effect"):
        open_data("digits", val_fraction=0.5)


def test_written_images_are_read_back(tmp_path):
    data = open_data("digits")
    paths = write_images(data.val, tmp_path, classes=data.classes)
    assert len(paths) == 359
    again = open_data(f"folder:{tmp_path}")
    assert again.classes == data.classes
    whole = again.train.source
    image, label = whole[list(whole.paths).index(str(paths[7]))]
    assert np.array_equal(image, data.val[7][0])
    assert label == data.val.labels[7]


def test_unknown_name_and_bare_folder(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        open_data("cifar")
    with pytest.raises(UnknownNameError, match="known: cifar10, cifar100, coco, csv, digits, fashion_mnist, folder, "):
        open_data("zzz:/x")
    with pytest.raises(DataError, match=f"write folder:{tmp_path}"):
        open_data(str(tmp_path))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_absent_data_tells_of_download(tmp_path, name):
    for text, options in ((f"{name}:{tmp_path}", {}), (name, {"root": tmp_path})):
        with pytest.raises(DataError) as caught:
            open_data(text, **options)
        assert f"{name} isn't in {tmp_path}" in str(caught.value)
        assert "--download" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_failed_download_is_told(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    with pytest.raises(DataError, match=f"cifar10 can't be downloaded to {tmp_path}: no route to host"):
        open_data(f"cifar10:{tmp_path}", download=True)


def write_cifar(root, monkeypatch, reader, label_key: str, classes: list[str]) -> np.ndarray:
    """Real batch files; only the list of their md5 sums is replaced, for the sums of these."""
    folder = root / reader.base_folder
    folder.mkdir()
    pixels = np.random.RandomState(0).randint(0, 256, (6, 3072)).astype(np.uint8)

    def written(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    monkeypatch.setattr(reader, "train_list", [written("train", {"data": pixels[:4], label_key: [0, 1, 1, 0]})])
    monkeypatch.setattr(reader, "test_list", [written("test", {"data": pixels[4:], label_key: [1, 0]})])
    names = written("meta", {reader.meta["key"]: classes})
    monkeypatch.setattr(reader, "meta", {"filename": names[0], "key": reader.meta["key"], "md5": names[1]})
    return pixels


@pytest.mark.parametrize(
    ("name", "reader", "label_key"),
    [("cifar10", datasets.CIFAR10, "labels"), ("cifar100", datasets.CIFAR100, "fine_labels")],
)
def test_cifar(tmp_path, monkeypatch, name, reader, label_key):
    pixels = write_cifar(tmp_path, monkeypatch, reader, label_key, ["cat", "dog"])
    data = open_data(f"{name}:{tmp_path}")
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1, 1, 0]
    assert data.val.labels.tolist() == [1, 0]
    assert np.array_equal(data.val[1][0], pixels[5].reshape(3, 32, 32).transpose(1, 2, 0))
    assert eval_transform(data.default_preprocessing)(data.train[0][0]).shape == (3, 32, 32)
    assert data.val.locate(1) == f"{name} test image 1"
    with pytest.raises(DataError, match="has its own test images"):
        open_data(f"{name}:{tmp_path}", val_fraction=0.1)
    (tmp_path / reader.base_folder / "test").write_bytes(b"cut off")
    with pytest.raises(DataError, match="or not completely"):
        open_data(f"{name}:{tmp_path}")


def test_fashion_mnist(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 3), ("t10k", 2)):
        pixels = np.full((count, 28, 28), 7, np.uint8)
        files = {
            f"{part}-images-idx3-ubyte": struct.pack(">4i", 0x803, count, 28, 28) + pixels.tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">2i", 0x801, count) + bytes(range(count)),
        }
        for name, content in files.items():
            (raw / name).write_bytes(content)
            (raw / f"{name}.gz").write_bytes(gzip.compress(content))
    data = open_data("fashion_mnist", root=tmp_path)
    assert len(data.classes) == 10
    assert data.train.labels.tolist() == [0, 1, 2]
    assert len(data.val) == 2
    image, _ = data.train[0]
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("L", (28, 28), 7)
    assert eval_transform(data.default_preprocessing)(image).shape == (1, 28, 28)


def test_imagenet(tmp_path):
    wordnet = {"n02": ("crane", "bird"), "n01": ("tench", "Tinca tinca"), "n03": ("crane",)}
    torch.save((wordnet, ["n01", "n02", "n03"]), tmp_path / "meta.bin")
    tree(tmp_path / "train", {"n01": 3, "n02": 2, "n03": 2})
    tree(tmp_path / "val", {"n01": 1, "n02": 1, "n03": 1})
    data = open_data(f"imagenet:{tmp_path}")
    assert data.classes == ("tench, Tinca tinca", "crane, bird", "crane")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert data.val[2][1] == 2
    assert "n03" in data.val.locate(2)
    assert data.default_preprocessing is None


def test_absent_imagenet_tells_where_to_put_it(tmp_path):
    for text, options in ((f"imagenet:{tmp_path}", {}), ("imagenet", {"root": tmp_path, "download": True})):
        with pytest.raises(DataError, match=r"no program may download it; put ILSVRC2012_devkit.*folder:PATH"):
            open_data(text, **options)
