"""Splits, columns and classes of tables that other libraries read."""

import numpy as np
import pytest
import torch
from data_helpers import memory

from senet.data import Subset, open_data
from senet.data.request import Request, with_absolute_path
from senet.data.split import SplitSpec
from senet.data.tables import class_numbers, divided, pick_column, pick_splits, place_and_options
from senet.errors import DataError


@pytest.mark.parametrize(
    ("available", "options", "picked"),
    [
        (["test", "train", "validation"], {}, {"train": "train", "val": "validation", "test": "test"}),
        (["test", "train"], {}, {"train": "train", "val": "test"}),
        (["all"], {}, {"train": "all"}),
        (["a", "b"], {"train": "b", "val": "a"}, {"train": "b", "val": "a"}),
        (["train", "dev", "test"], {"val": "test"}, {"train": "train", "val": "test"}),
    ],
)
def test_splits_by_their_usual_names(available, options, picked):
    assert pick_splits("x", available, options) == picked


def test_splits_and_columns_that_are_not_clear():
    with pytest.raises(DataError, match="splits a, b; choose"):
        pick_splits("x", ["a", "b"], {})
    with pytest.raises(DataError, match="no split 'c'; it has a, b"):
        pick_splits("x", ["a", "b"], {"train": "c"})
    with pytest.raises(DataError, match=r"several label columns \(fine, coarse\)"):
        pick_column("x", "label", None, ["fine", "coarse"], ["image", "fine", "coarse"])
    with pytest.raises(DataError, match="no column 'kind'; it has image, label"):
        pick_column("x", "label", "kind", ["label"], ["image", "label"])


def test_options_behind_a_place():
    request = Request("hf", "flowers:label=species,streaming")
    assert place_and_options(request, ("label", "streaming")) == ("flowers", {"label": "species", "streaming": ""})
    for path in ("flowers:labl=x", "flowers:label=", "flowers:label=a,label=b"):
        with pytest.raises(DataError, match="must be one of label, streaming"):
            place_and_options(Request("hf", path), ("label", "streaming"))
    with pytest.raises(DataError, match="needs a place"):
        place_and_options(Request("hf", ""), ())


def test_a_server_has_no_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert with_absolute_path("hf:here:label=x") == f"hf:{tmp_path}/here:label=x"
    for name in ("hf:user/set:label=x", "litdata:s3://bucket/set"):
        assert with_absolute_path(name) == name
    assert with_absolute_path("folder:what?") == f"folder:{tmp_path}/what?", "a folder has no options"


def test_classes_of_text_numbers_and_names():
    text = {"train": np.array(["b", "a", "b"]), "val": np.array(["a"])}
    classes, numbers = class_numbers("x", text)
    assert classes == ("a", "b")
    assert numbers["train"].tolist() == [1, 0, 1]
    assert class_numbers("x", {"train": np.array([7, 3])})[0] == ("3", "7")
    assert class_numbers("x", {"train": np.array([True, False])})[1]["train"].tolist() == [1, 0]
    assert class_numbers("x", {"train": np.array([0, 1])}, ["cat", "dog"])[0] == ("cat", "dog")
    for values, said in (([0.5], "whole numbers or text"), (["a", None], "none of them empty"), ([[1]], "whole")):
        with pytest.raises(DataError, match=said):
            class_numbers("x", {"train": np.array(values)})
    with pytest.raises(DataError, match="label c of 'val' doesn't occur in training"):
        class_numbers("x", text | {"val": np.array(["c"])})
    with pytest.raises(DataError, match="'train' has images without a label"):
        class_numbers("x", {"train": np.array([0, -1])}, ["cat", "dog"])


def test_undivided_tables_are_divided_as_folders_are():
    source = memory(60)
    data = divided(Request("hf", "x"), ("a", "b", "c"), {"train": source})
    assert 0 < len(data.val) < 30
    assert len(data.train) + len(data.val) == 60
    assert data.split_spec == SplitSpec(0.2, 0)
    folds = [divided(Request("hf", "x", folds=3, fold=n), ("a", "b", "c"), {"train": source}) for n in (1, 2, 3)]
    taken = sorted(fold.val.entry(i).path for fold in folds for i in range(len(fold.val)))
    assert taken == sorted(source.entry(i).path for i in range(60))
    with pytest.raises(DataError, match="--group a has no effect"):
        divided(Request("hf", "x", group="a"), ("a", "b", "c"), {"train": source})
    with pytest.raises(DataError, match="--split-seed 1 has no effect"):
        divided(Request("hf", "x", seed=1), ("a", "b", "c"), {"train": source, "val": source})
    with pytest.raises(DataError, match="one class only"):
        divided(Request("hf", "x"), ("a",), {"train": source})


def test_a_subset_keeps_the_order_that_is_fast_to_read():
    class Ordered:
        labels = np.arange(6)

        def order(self, seed, epoch):
            return torch.tensor([5, 1, 4, 0, 2, 3])

    subset = Subset(Ordered(), np.array([0, 4, 5]))
    assert subset.order(0, 0).tolist() == [2, 1, 0]
    assert Subset(memory(3), np.array([0, 1])).order is None


@pytest.mark.parametrize("kind", ["hf", "litdata"])
def test_without_the_library_the_extra_is_named(kind, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, {"hf": "datasets"}.get(kind, kind), None)
    with pytest.raises(ValueError, match=rf"pip install 'senet\[{kind}\]'"):
        open_data(f"{kind}:somewhere")
