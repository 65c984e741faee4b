from __future__ import annotations

import os
import re
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from data_helpers import tree

from senet.data import find_images, open_data
from senet.data.sources import FileSource, PathList, Subset, missing_classes, subsample
from senet.data.split import stratified_split
from senet.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared"


def opened(root: Path, **options):
    return open_data(f"folder:{root}", **options)


def refused(root: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        opened(root, **options)
    message = str(caught.value)
    assert message.count("\n") <= 1
    return message


def test_single_tree_is_divided_by_class(tmp_path):
    data = opened(tree(tmp_path, {"rose": 100, "daisy": 200, "Tulip": 50}))
    assert data.classes == ("Tulip", "daisy", "rose")  # sorted as torchvision's ImageFolder sorts
    val, train = np.bincount(data.val.labels), np.bincount(data.train.labels)
    assert (val + train).tolist() == [50, 200, 100]
    assert np.abs(val - [10, 40, 20]).max() <= 10, "about a fifth of each class"
    assert data.test is None
    assert data.default_preprocessing is None


def test_division_has_no_overlap_and_depends_on_the_seed_only(tmp_path):
    tree(tmp_path, {"a": 15, "b": 15})

    def val_paths(seed: int) -> list[str]:
        val = opened(tmp_path, seed=seed).val
        return [val.locate(i) for i in range(len(val))]

    data = opened(tmp_path)
    train = {data.train.locate(i) for i in range(len(data.train))}
    assert len(train | set(val_paths(0))) == 30
    assert val_paths(0) == val_paths(0) != val_paths(1)


def test_labels_belong_to_their_folders(tmp_path):
    data = opened(tree(tmp_path, {"a": 4, "b": 4}))
    for source in (data.train, data.val):
        for i in range(len(source)):
            image, label = source[i]
            assert image.mode == "RGB"
            assert Path(source.locate(i)).parent.name == data.classes[label] == data.classes[source.labels[i]]


@pytest.mark.parametrize("val", ["val", "Valid", "validation", "TEST"])
@pytest.mark.parametrize("train", ["train", "Train"])
def test_own_division(tmp_path, train, val):
    tree(tmp_path / train, {"a": 3, "b": 2})
    tree(tmp_path / val, {"a": 1, "b": 1})
    data = opened(tmp_path)
    assert (len(data.train), len(data.val), data.test) == (5, 2, None)
    assert Path(data.val.locate(0)).parts[-3] == val


def test_test_folder_beside_val_is_the_test_set(tmp_path):
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        tree(tmp_path / part, {"a": count, "b": count})
    data = opened(tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (6, 2, 4)
    assert [data.split(name) for name in data.splits] == [data.train, data.val, data.test]


def test_part_that_is_not_there(tmp_path):
    data = opened(tree(tmp_path, {"a": 3, "b": 3}), val_fraction=0.5)
    with pytest.raises(DataError, match="has no 'test' split; it has train, val"):
        data.split("test")


def test_train_alone_is_divided(tmp_path):
    tree(tmp_path / "train", {"a": 20, "b": 20})
    data, inner = opened(tmp_path), opened(tmp_path / "train")
    assert data.classes == ("a", "b")
    assert len(data.train) + len(data.val) == 40
    assert data.val.indices.tolist() == inner.val.indices.tolist()


def test_hidden_and_foreign_files_are_ignored(tmp_path):
    tree(tmp_path, {"a": 3, "b": 3})
    for clutter in ("a/._000.png", "a/.DS_Store", "a/notes.txt", "a/Thumbs.db", ".git/x.png", "a/.cache/y.png"):
        (tmp_path / clutter).parent.mkdir(exist_ok=True)
        (tmp_path / clutter).write_bytes(b"not an image")
    data = opened(tmp_path, val_fraction=0.5)
    assert data.classes == ("a", "b")
    assert len(data.train) + len(data.val) == 6


def test_a_hidden_folder_above_the_data_hides_nothing(tmp_path):
    root = tree(tmp_path / ".cache" / "flowers", {"a": 3, "b": 3})
    data = opened(root, val_fraction=0.5)
    assert len(data.train) + len(data.val) == 6
    assert len(find_images(root.parent)) == 6


def test_images_at_any_depth_and_in_any_case(tmp_path):
    tree(tmp_path, {"a": 2, "b": 2})
    tree(tmp_path / "a", {"deep/er": 1}, suffix=".JPG")
    assert len(find_images(tmp_path)) == 5
    assert len(opened(tmp_path, val_fraction=0.5).train.source) == 5


def test_missing_folder(tmp_path):
    assert re.search(r"nowhere doesn't exist; expected one sub-folder", refused(tmp_path / "nowhere"))


def test_path_is_a_file(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    assert "x.zip is a file, not a folder" in refused(tmp_path / "x.zip")


def test_no_path():
    with pytest.raises(DataError, match="folder:PATH"):
        open_data("folder")


def test_no_class_folders(tmp_path):
    assert "no class sub-folders" in refused(tmp_path)
    tree(tmp_path, {".": 3})
    assert "3 images but no class sub-folders" in refused(tmp_path)


def test_empty_class_is_named(tmp_path):
    tree(tmp_path, {"a": 3, "b": 3, "hollow": 0})
    (tmp_path / "hollow" / "photo.heic").write_bytes(b"x")
    message = refused(tmp_path)
    assert "class 'hollow' without images" in message
    assert ".jpg" in message
    assert str(tmp_path) in message


def test_one_class_only(tmp_path):
    assert "one class only ('a')" in refused(tree(tmp_path, {"a": 3}))


def test_class_sets_that_differ(tmp_path):
    tree(tmp_path / "train", {"cat": 2, "dog": 2, "cow": 2})
    tree(tmp_path / "val", {"cat": 1, "dog": 1, "cows": 1})
    message = refused(tmp_path)
    assert "missing: 'cow'" in message
    assert "extra: 'cows'" in message
    assert str(tmp_path / "val") in message


def test_many_differences_are_cut_short(tmp_path):
    tree(tmp_path / "train", {f"c{i}": 1 for i in range(2)})
    tree(tmp_path / "val", {f"c{i}": 1 for i in range(9)})
    assert "and 2 more" in refused(tmp_path)


def test_a_validation_part_may_lack_classes(tmp_path):
    tree(tmp_path / "train", {"cat": 2, "dog": 2, "emu": 2})
    tree(tmp_path / "val", {"emu": 1, "dog": 0})
    tree(tmp_path / "test", {"dog": 3})
    data = opened(tmp_path)
    assert data.classes == ("cat", "dog", "emu")
    assert (data.val.labels.tolist(), data.test.labels.tolist()) == ([2], [1, 1, 1])
    assert missing_classes(data.val, data.classes) == ("cat", "dog")
    shutil.rmtree(tmp_path / "val" / "emu")
    assert "without images" in refused(tmp_path)


def test_to_evaluate_on_one_class_is_enough(tmp_path):
    data = opened(tree(tmp_path, {"dog": 1}), training=False)
    assert data.classes == ("dog",)
    assert len(data.split("all")) == 1
    empty = next(part for part, source in data.splits.items() if not len(source))
    with pytest.raises(DataError, match=f"the '{empty}' split of .* has no images"):
        data.split(empty)


def test_class_too_small_to_divide(tmp_path):
    message = refused(tree(tmp_path, {"a": 3, "lonely": 1}))
    assert "'lonely' (1 image each)" in message
    assert "train and val folders" in message


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1, 3])
def test_fraction_out_of_range(tmp_path, fraction):
    assert "between 0 and 1" in refused(tree(tmp_path, {"a": 3, "b": 3}), val_fraction=fraction)


def test_fraction_without_effect(tmp_path):
    tree(tmp_path / "train", {"a": 2, "b": 2})
    tree(tmp_path / "val", {"a": 1, "b": 1})
    assert "has its own val folder" in refused(tmp_path, val_fraction=0.3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path):
    tree(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "b").chmod(0)
    try:
        assert "permission denied" in refused(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o755)


def test_path_list_keeps_odd_names():
    names = ["a", "", "ü/日本.jpg", os.fsdecode(b"\xff\xfe.png"), "z" * 300]
    paths = PathList(names)
    assert list(paths) == names
    assert paths[-1] == names[-1]
    assert list(paths[1:3]) == names[1:3]
    with pytest.raises(IndexError):
        paths[5]
    assert list(PathList([])) == []


def test_labels_must_match_paths():
    with pytest.raises(ValueError, match="2 paths, but 1 labels"):
        FileSource(["a", "b"], [0])
    assert FileSource(["a", "b"]).labels.tolist() == [-1, -1]


def test_thin_takes_the_same_few():
    source = FileSource([str(i) for i in range(100)], [0] * 100)
    few = subsample(source, 10)
    assert isinstance(few, Subset)
    assert few.indices.tolist() == subsample(source, 10).indices.tolist() == sorted(set(few.indices.tolist()))
    assert subsample(source, 100) is source
    with pytest.raises(ValueError, match="limit=0"):
        subsample(source, 0)


def test_split_is_the_same_on_every_machine():
    stays, taken = stratified_split(np.array([0] * 10 + [1] * 10), 0.2, seed=3)
    assert sorted([*stays, *taken]) == list(range(20))
    assert taken.tolist() == [4, 5, 13, 18], "changing this changes everybody's validation set"


def test_listing_is_fast_and_decodes_nothing(tmp_path):
    for name in "abcd":
        (tmp_path / name).mkdir()
        for number in range(1500):
            (tmp_path / name / f"{number}.jpg").touch()  # empty: decoding any of them would fail
    start = time.perf_counter()
    data = opened(tmp_path)
    assert time.perf_counter() - start < 2
    assert len(data.train) + len(data.val) == 6000


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data/cifar10.tar.gz").exists(), reason="shared/data/cifar10.tar.gz is absent")
def test_real_cifar10_as_folders(tmp_path):
    with tarfile.open(SHARED / "data/cifar10.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    data = opened(tmp_path)
    assert len(data.classes) == 10
    assert (len(data.train), len(data.val)) == (50_000, 10_000)
    assert data.train[0][0].size == (32, 32)
