from __future__ import annotations

import json
import shutil

import pytest
from data_helpers import memory, tree

from senet.data import Data, open_data, scan


@pytest.fixture
def messy(tmp_path):
    for part, count in (("train", 40), ("val", 20)):
        tree(tmp_path / part, {"a": count, "b": count})
    (tmp_path / "train/a/000.png").write_bytes(b"")
    (tmp_path / "val/b/003.png").write_text("text")
    shutil.copy(tmp_path / "train/a/001.png", tmp_path / "val/a/zz.png")  # leaks
    shutil.copy(tmp_path / "train/b/001.png", tmp_path / "train/b/zz.png")  # repeats
    shutil.copy(tmp_path / "val/a/001.png", tmp_path / "val/b/zz.png")  # contradicts
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_report_of_a_messy_folder(messy, workers):
    steps = []
    data = open_data(f"folder:{messy}")
    report = scan(data, workers=workers, progress=lambda done, total: steps.append((done, total)))
    train, val = report.splits["train"], report.splits["val"]
    assert train.per_class == {"a": 40, "b": 41}
    assert val.per_class == {"a": 21, "b": 21}
    assert (train.images, val.images) == (81, 42)
    assert (train.width, train.height, train.modes) == ((24, 24), (20, 20), {"RGB": 80})
    assert train.corrupt == [(str(messy / "train/a/000.png"), "empty file (0 bytes)")]
    assert report.corrupt == [*train.corrupt, (str(messy / "val/b/003.png"), "not an image")]
    assert report.leaks == [(str(messy / "train/a/001.png"), str(messy / "val/a/zz.png"))]
    assert report.duplicates == [(str(messy / "train/b/001.png"), str(messy / "train/b/zz.png"))]
    assert report.label_conflicts == [(str(messy / "val/a/001.png"), str(messy / "val/b/zz.png"))]
    assert steps == [(done, 123) for done in range(1, 124)]
    assert json.loads(json.dumps(report.to_dict()))["splits"]["val"]["images"] == 42


def test_images_in_memory_are_scanned_too():
    report = scan(Data("noise", ("x", "y", "z"), memory(6), memory(3)), workers=0)
    assert report.splits["train"].per_class == {"x": 2, "y": 2, "z": 2}
    assert report.leaks[2] == ("noise image 2", "noise image 2")
    assert len(report.leaks) == 3
    assert report.corrupt == []


def test_nothing_readable(tmp_path):
    tree(tmp_path, {"a": 2, "b": 2})
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"x")
    report = scan(open_data(f"folder:{tmp_path}", val_fraction=0.5))
    assert report.splits["train"].width is None
    assert len(report.corrupt) == 4
