"""Which images are validated on follows from each image's own path; a data set's list has a digest."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from data_helpers import memory, picture, tree
from PIL import Image

from senet.data import Data, FileSource, hold_out, open_data, subsample, write_shards
from senet.data.listing import SAMPLED, count_sampled, path_hash, sample_of
from senet.data.split import SplitSpec, hash_fraction, hash_split
from senet.errors import DataError


def names(source, root: Path) -> set[str]:
    return {Path(source.locate(index)).relative_to(root).as_posix() for index in range(len(source))}


@pytest.fixture
def flowers(tmp_path):
    return tree(tmp_path / "flowers", {"daisy": 40, "rose": 60})


@pytest.mark.parametrize("added", [["daisy"], ["rose"], ["daisy"] * 10 + ["rose"] * 30])
def test_added_images_move_none(flowers, added):
    before = open_data(f"folder:{flowers}")
    train, val = names(before.train, flowers), names(before.val, flowers)
    for number, name in enumerate(added):
        picture(number).save(flowers / name / f"a-new{number}.png")
    after = open_data(f"folder:{flowers}")
    assert train <= names(after.train, flowers)
    assert val <= names(after.val, flowers)
    assert len(after.train) + len(after.val) == 100 + len(added)


def test_removed_images_and_classes_move_none(flowers):
    tree(flowers, {"tulip": 30})
    val = names(open_data(f"folder:{flowers}").val, flowers)
    shutil.rmtree(flowers / "daisy")
    for path in sorted((flowers / "rose").iterdir())[::3]:
        path.unlink()
    left = names(open_data(f"folder:{flowers}").val, flowers)
    assert left == {name for name in val if (flowers / name).is_file()}


def test_the_split_travels_with_the_folder(flowers, tmp_path):
    val = names(open_data(f"folder:{flowers}", seed=3).val, flowers)
    moved = flowers.rename(tmp_path / "elsewhere")
    assert names(open_data(f"folder:{moved}", seed=3).val, moved) == val
    assert names(open_data(f"folder:{moved}", seed=4).val, moved) != val


def test_a_larger_fraction_takes_the_same_and_more():
    paths = [f"a/{number}.png" for number in range(1000)]
    taken = [set(hash_split(paths, SplitSpec(fraction, 0))[1].tolist()) for fraction in (0.1, 0.2, 0.5)]
    assert taken[0] < taken[1] < taken[2]
    for share, found in zip((0.1, 0.2, 0.5), taken, strict=True):
        assert abs(len(found) - 1000 * share) < 4 * (1000 * share * (1 - share)) ** 0.5


def test_the_split_is_the_same_on_every_machine():
    paths = [f"{name}/{number:03d}.png" for name in "ab" for number in range(10)]
    stays, taken = hash_split(paths, SplitSpec(0.2, 3))
    assert sorted([*stays, *taken]) == list(range(20))
    assert taken.tolist() == [3, 12, 19], "changing this changes everybody's validation set"
    assert hash_fraction("é.png", 0) == hash_fraction(unicodedata.normalize("NFD", "é.png"), 0), (
        "macOS writes the second"
    )


@pytest.mark.parametrize(("fraction", "part"), [(0.01, "validate"), (0.99, "train")])
def test_a_part_is_never_silently_empty(tmp_path, fraction, part):
    tree(tmp_path, {"a": 3, "b": 3})
    with pytest.raises(DataError, match=f"none of its 6 images is left to {part} on.*--val-fraction"):
        open_data(f"folder:{tmp_path}", val_fraction=fraction)


def test_a_class_without_training_images_is_refused(tmp_path):
    tree(tmp_path, {"many": 40, "few": 2})
    seed = next(s for s in range(1000) if all(hash_fraction(f"few/00{n}.png", s) < 0.2 for n in range(2)))
    with pytest.raises(DataError, match=r"no image is left to train on of 'few'.*--split-seed"):
        open_data(f"folder:{tmp_path}", seed=seed)


def test_a_class_may_have_no_validation_images(tmp_path):
    tree(tmp_path, {"many": 40, "few": 2})
    seed = next(s for s in range(1000) if all(hash_fraction(f"few/00{n}.png", s) >= 0.2 for n in range(2)))
    assert set(open_data(f"folder:{tmp_path}", seed=seed).val.labels) == {1}


def test_the_digest_follows_the_list_not_the_place_nor_the_split(flowers, tmp_path):
    whole = open_data(f"folder:{flowers}")
    copy = open_data(f"folder:{shutil.copytree(flowers, tmp_path / 'copy')}", seed=7, val_fraction=0.5)
    assert whole.digest == copy.digest
    sampled = Data("x", whole.classes, subsample(whole.train, 5), whole.val, split_spec=whole.split_spec)
    assert sampled.digest == whole.digest
    digests = {whole.digest}
    (flowers / "rose" / "000.png").rename(flowers / "rose" / "renamed.png")
    digests.add(open_data(f"folder:{flowers}").digest)
    with (flowers / "rose" / "001.png").open("ab") as file:
        file.write(b"longer")
    digests.add(open_data(f"folder:{flowers}").digest)
    (flowers / "rose").rename(flowers / "roses")
    digests.add(open_data(f"folder:{flowers}").digest)
    picture(5).save(flowers / "daisy" / "added.png")
    digests.add(open_data(f"folder:{flowers}").digest)
    assert len(digests) == 5


def test_the_division_of_a_divided_folder_is_part_of_its_digest(tmp_path):
    tree(tmp_path / "one" / "train", {"a": 4, "b": 4})
    tree(tmp_path / "one" / "val", {"a": 2, "b": 2})
    before = open_data(f"folder:{tmp_path / 'one'}").digest
    assert open_data(f"folder:{shutil.copytree(tmp_path / 'one', tmp_path / 'two')}").digest == before
    moved = tmp_path / "two" / "train" / "a" / "003.png"
    moved.rename(tmp_path / "two" / "val" / "a" / "003.png")
    assert open_data(f"folder:{tmp_path / 'two'}").digest != before


def test_the_digest_of_shards(flowers, tmp_path):
    data = open_data(f"folder:{flowers}")
    write_shards(data, tmp_path / "one", workers=0)
    copy = open_data(f"folder:{shutil.copytree(flowers, tmp_path / 'copy')}")
    write_shards(copy, tmp_path / "two", workers=0)
    one, two = open_data(f"shards:{tmp_path / 'one'}"), open_data(f"shards:{tmp_path / 'two'}")
    assert one.digest == two.digest
    assert sample_of(one.train) == sample_of(data.train), "an image is known by its path and size in shards, too"


def test_the_digest_of_images_in_memory():
    digits = open_data("digits")
    assert digits.digest == open_data("digits").digest
    assert (
        Data("n", ("a", "b", "c"), memory(6), memory(3)).digest
        != Data("n", ("a", "b", "c"), memory(7), memory(3)).digest
    )


def test_record(flowers, monkeypatch):
    monkeypatch.chdir(flowers.parent)
    data = open_data("folder:flowers", val_fraction=0.3, seed=9)
    record = data.record()
    assert (record.name, record.val_fraction, record.split_seed) == (f"folder:{flowers}", 0.3, 9)
    assert (record.train, record.val, record.digest) == (len(data.train), len(data.val), data.digest)
    assert {one[:16] for one in record.sample} == {path_hash(data.train.entry(i)) for i in range(len(data.train))}
    assert open_data("digits").record().val_fraction is None, "its division is its own"


def test_half_of_the_validation_part_is_held_out(flowers, tmp_path):
    data = open_data(f"folder:{flowers}", val_fraction=0.5)
    held = hold_out(data)
    parts = [names(source, flowers) for source in held.splits.values()]
    assert parts[0] == names(data.train, flowers)
    assert parts[1] | parts[2] == names(data.val, flowers)
    assert abs(len(parts[1]) - len(parts[2])) < len(data.val) / 2
    assert held.digest == data.digest
    assert held.record().held_out
    picture(1).save(flowers / "rose" / "new.png")
    again = hold_out(open_data(f"folder:{flowers}", val_fraction=0.5))
    assert parts[2] <= names(again.test, flowers)
    assert hold_out(held) is held, "data with a test split keeps it"
    assert hold_out(Data("x", data.classes, data.train, subsample(data.val, 1))).test is None, (
        "too few to hold some out"
    )


def test_of_many_images_a_sample_is_kept():
    source = FileSource([f"/data/{n}.png" for n in range(3000)], root="/data")
    sample = sample_of(source)
    assert len(sample) == SAMPLED
    assert [one[:16] for one in sample] == sorted({path_hash(source.entry(n)) for n in range(3000)})[:SAMPLED]
    assert np.all([len(one) == 32 for one in sample])
    half = FileSource([f"/data/{n}.png" for n in range(1500, 4500)], root="/data")
    assert abs(count_sampled(half, sample) - 1500) < 150, "an estimate"


def test_equal_names_and_sizes_are_no_equal_images(tmp_path):
    """As in published sets, whose parts both count from 0."""
    tree(tmp_path / "train", {"a": 20, "b": 20})
    tree(tmp_path / "val", {"a": 10, "b": 10})
    data = open_data(f"folder:{tmp_path}")
    ours = {path_hash(data.train.entry(i)) for i in range(len(data.train))}
    assert any(path_hash(data.val.entry(i)) in ours for i in range(len(data.val)))
    record = data.record()
    assert count_sampled(data.val, record.sample) == 0
    assert count_sampled(data.train, record.sample) == 40
    (tmp_path / "val" / "a" / "000.png").write_bytes((tmp_path / "train" / "a" / "000.png").read_bytes())
    assert count_sampled(open_data(f"folder:{tmp_path}").val, record.sample) == 1


def test_class_names_are_the_same_on_every_system(tmp_path):
    """macOS writes an accent as a character of its own, which sorts elsewhere, too."""
    for form in ("NFC", "NFD"):
        for name in ("caf\u00e9", "cafz", "zoo"):
            folder = tmp_path / form / unicodedata.normalize(form, name)
            folder.mkdir(parents=True)
            for number in range(10):
                Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    one, other = (open_data(f"folder:{tmp_path / form}") for form in ("NFC", "NFD"))
    assert one.classes == other.classes == ("cafz", "caf\u00e9", "zoo")
    assert one.digest == other.digest
    assert one.train.labels.tolist() == other.train.labels.tolist()
    shutil.copytree(tmp_path / "NFD" / "cafe\u0301", tmp_path / "NFC" / "cafe\u0301")
    with pytest.raises(DataError, match="two normal forms"):
        open_data(f"folder:{tmp_path / 'NFC'}")
