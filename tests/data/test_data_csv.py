"""Lists of images: columns, odd files, and messages with a line."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from data_helpers import picture

from senet.data import ImageDataset, eval_loader, eval_transform, open_data
from senet.data.csv_source import listed_paths
from senet.errors import DataError, UnknownNameError
from senet.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Twelve images, some in a sub-folder."""
    folder = tmp_path_factory.mktemp("csv")
    (folder / "more").mkdir()
    for number in range(12):
        picture(number).save(folder / ("more" if number > 8 else ".") / f"{number}.png")
    return folder


def name(number: int) -> str:
    return f"more/{number}.png" if number > 8 else f"{number}.png"


def listed(root: Path, text: str | bytes, *, encoding: str = "utf-8") -> str:
    """Write a list beside the images and return its name for `--data`."""
    file = root / f"list{len(list(root.glob('list*')))}.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return f"csv:{file}"


def rows(header: str, line: str, count: int = 12) -> str:
    """A list whose lines are `line` with `{n}`, `{path}` and `{label}`."""
    return "\n".join([header, *(line.format(n=n, path=name(n), label="ab"[n % 2]) for n in range(count))]) + "\n"


LABELS = rows("path,label", "{path},{label}")


def by_path(data) -> dict[str, str]:
    every = data.split("all")
    return {every.entry(i).path: data.classes[every.labels[i]] for i in range(len(every))}


@pytest.mark.parametrize(
    ("header", "line", "options"),
    [
        ("path,label", "{path},{label}", ""),
        ("Image Path;Class Name", "{path};{label}", ""),
        ("n\tFILE_NAME\tclass", "{n}\t{path}\t{label}", ""),
        ('"file","label"', '"{path}","{label}"', ""),
        ('"file","label, or class"', '"{path}","{label}"', ':"label=label, or class"'),
        ("where,what", "{path},{label}", ":path=where,label=what"),
        ("path,label,", "./more/../{path},{label} ,", ""),
    ],
)
def test_columns_and_delimiters(root, header, line, options):
    data = open_data(listed(root, rows(header, line)) + options)
    assert by_path(data) == {name(n): "ab"[n % 2] for n in range(12)}
    assert data.classes == ("a", "b")
    assert [np.bincount(split.labels).tolist() for split in (data.train, data.val)] == [[5, 5], [1, 1]]


def test_windows_and_absolute_paths_a_mark_and_other_line_ends(root, tmp_path):
    text = "\ufeffpath,label\r\n\r\nmore\\9.png,a\r\n" + f"{root}/0.png,b\r\n{root}/more/../1.png,a\r\n2.png,b\r\n"
    assert set(by_path(open_data(listed(root, text)))) == {"more/9.png", "0.png", "1.png", "2.png"}
    elsewhere = tmp_path / "list.csv"
    elsewhere.write_text("path,label\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(8)))
    data = open_data(f"csv:{elsewhere}:root={root},suffix=.png")
    assert set(by_path(data)) == {f"{n}.png" for n in range(8)}


def test_labels_are_text_and_sorted_as_folders(root):
    text = "path,label\n0.png,007\n1.png,7\n2.png,10\n3.png,007\n4.png,7\n5.png,10\n"
    assert open_data(listed(root, text)).classes == ("007", "10", "7")
    decomposed = "path,label\n0.png,cafe\u0301\n1.png,caf\u00e9\n2.png,z\n3.png,z\n"
    assert open_data(listed(root, decomposed)).classes == ("caf\u00e9", "z")


def test_a_column_of_splits(root):
    splits = ["Training", "val", "TEST"]
    text = "path,label,split\n" + "".join(f"{name(n)},{'ab'[n // 3 % 2]},{splits[n % 3]}\n" for n in range(12))
    data = open_data(listed(root, text))
    assert {key: len(split) for key, split in data.splits.items()} == {"train": 4, "val": 4, "test": 4}
    assert data.split_spec is None
    with pytest.raises(DataError, match="'split' divides it"):
        open_data(listed(root, text), val_fraction=0.3)
    moved = open_data(listed(root, text.replace("1.png,a,val", "1.png,a,test", 1)))
    assert moved.digest != data.digest
    undivided = open_data(f"{listed(root, text)}:split=")
    assert {key: len(split) for key, split in undivided.splits.items()} == {"train": 10, "val": 2}
    fold = open_data(listed(root, text), folds=4, fold=2)
    assert {key: len(split) for key, split in fold.splits.items()} == {"train": 6, "val": 2, "test": 4}


def test_a_test_list_is_enough_for_an_evaluation(root):
    text = "path,label,split\n0.png,a,test\n"
    data = open_data(listed(root, text), training=False)
    assert (len(data.train), len(data.val), data.test) == (0, 1, None)
    with pytest.raises(DataError, match="no training image"):
        open_data(listed(root, text))


def test_groups_stay_together(root):
    text = rows("path,label,group,patient", "{path},{label},{n},p{n}")
    grouped = "path,label,group\n" + "".join(f"{name(n)},{'ab'[n % 2]},{n // 3}\n" for n in range(12))
    for number, data in enumerate(
        [open_data(listed(root, grouped)), open_data(listed(root, grouped), folds=4, fold=4)]
    ):
        paths = {key: {split.entry(i).path for i in range(len(split))} for key, split in data.splits.items()}
        assert paths["val"] in [{name(3 * g + i) for i in range(3)} for g in range(4)], number
        assert data.split_spec.group == "group"
    alone = listed(root, "path,label,group\n0.png,a,x\n1.png,b,x\n")
    assert len(open_data(alone, training=False).split("all")) == 2
    with pytest.raises(DataError, match="1 groups can't make 2 folds"):
        open_data(alone)
    assert open_data(listed(root, text), group="patient").split_spec.group == "patient"
    assert open_data(f"{listed(root, text)}:group=").split_spec.group == ""


def test_a_group_in_two_splits_is_refused(root):
    text = "path,label,split,group\n0.png,a,train,x\n1.png,b,train,y\n2.png,a,val,z\n3.png,b,val,x\n"
    with pytest.raises(DataError, match="line 5: group 'x' is in val here and in train in line 2"):
        open_data(listed(root, text))
    assert len(open_data(f"{listed(root, text)}:group=").val) == 2


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("path,labels\n0.png,sea;sky\n1.png,\n2.png,sky\n3.png,sea|sun\n", ""),
        ("path,labels\n0.png,sea sky\n1.png,\n2.png,sky\n3.png,sun  sea\n", ":separator= "),
        ("path,sea,sky,sun\n0.png,1,1.0,0\n1.png,0,,False\n2.png,,1,0\n3.png,true,0,1\n", ":labels=sun,sea,sky"),
    ],
)
def test_several_labels(root, text, options):
    data = open_data(listed(root, text) + options, training=False)
    assert data.multi_label
    assert data.classes == ("sea", "sky", "sun")
    dataset = ImageDataset(data.split("all"), eval_transform(Preprocessing(size=(8, 8))))
    batch = next(iter(eval_loader(dataset, batch_size=4, workers=0)))
    found = {dataset.source.entry(i).path: batch.labels[i].tolist() for i in range(4)}
    assert found == {"0.png": [1, 1, 0], "1.png": [0, 0, 0], "2.png": [0, 1, 0], "3.png": [1, 0, 1]}


def test_an_option_for_splits_of_several_labels(root):
    text = rows("path,labels", "{path},{label};c")
    data = open_data(listed(root, text), folds=3, fold=1)
    assert data.task == "multi-label"
    assert data.val.labels.sum(axis=0).tolist() == [2, 2, 4]


def test_the_order_of_the_rows_and_repeated_rows_have_no_effect(root):
    header, *lines = LABELS.splitlines()
    data = open_data(listed(root, LABELS))
    again = open_data(listed(root, "\n".join([header, *lines[::-1], lines[0]])))
    assert again.digest == data.digest
    assert again.division == data.division
    assert [again.train.entry(i) for i in range(10)] == [data.train.entry(i) for i in range(10)]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", "", "is empty; its first line must name the columns"),
        ("path,label\n", "", "names no image"),
        ("0.png,cat\n1.png,dog\n", "", r"has no column for the path .* its first line are 0.png, cat"),
        ("path,kind\n0.png,cat\n", "", "has no column for the class"),
        ("path,label\n0.png,cat\n", ":label=kind", "has no column 'kind'; its columns are path, label"),
        ("path,label,labels\n0.png,a,b\n", "", "has the columns 'label' and 'labels'"),
        ("path,label,label\n0.png,a,b\n", "", "has 2 columns 'label'"),
        ("path,label\n0.png,cat\n1.png\n", "", "line 3: 1 cells, but the header names 2"),
        ('path,label\n0.png,"cat\n1.png,dog\n', "", "line 3: unexpected end of data"),
        ("path,label\n0.png,cat\n,dog\n", "", "line 3: column 'path' is empty"),
        ("path,label\n0.png,cat\n1.png,\n", "", "line 3: column 'label' names no class"),
        ("path,label,split\n0.png,cat,dev\n", "", "line 2: split 'dev' is unknown; use train, val or test"),
        ("path,label,group\n0.png,cat,\n", "", "line 2: column 'group' names no group"),
        ("path,label\n0.png,cat\n./0.png,dog\n", "", r"line 3: .*0.png was in line 2 with other values"),
        ("path,label\n0.png,cat\nno.png,dog\nnot.png,cat\n", "", r"line 3: no file .*no.png, and 1 more; paths are"),
        ("path,label\n0.png,cat\n1.png,cat\n", "", "has 1 class; a classifier needs at least two"),
        ("path,a,b\n0.png,1,0\n1.png,2,1\n", ":labels=a,b", "line 3: column 'a' is '2'; several columns"),
        ("path,a,b\n0.png,1,0\n1.png,0,0\n2.png,1,0\n", ":labels=a,b", "no image is left to train on of 'b'"),
        ("path,label,split\n0.png,a,train\n1.png,b,train\n2.png,c,val\n", "", "line 4: no training image .* 'c'"),
        (b"path,label\n0.png,caf\xe9\n", "", "line 2: no UTF-8 text"),
        ("path,label\n0.png,a\n", ":label=x,y", "label= takes one value"),
        ("path,label\n0.png,a\n", ":label=label,label=path", "label= is given twice"),
    ],
)
def test_errors_name_the_line(root, text, options, message):
    with pytest.raises(DataError, match=message):
        open_data(listed(root, text) + options)


def test_other_errors(root, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'label'"):
        open_data(listed(root, LABELS) + ":lable=x")
    with pytest.raises(DataError, match="doesn't exist; csv:FILE names a CSV file"):
        open_data(f"csv:{tmp_path / 'no.csv'}")
    with pytest.raises(DataError, match="is a file; write csv:"):
        open_data(listed(root, LABELS).removeprefix("csv:"))
    with pytest.raises(DataError, match="12 images can't make 13 folds"):
        open_data(listed(root, LABELS), folds=13, fold=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folds": 3}, "--folds 3 needs the fold"),
        ({"fold": 3}, "--fold 3 needs the number of folds"),
        ({"folds": 3, "fold": 4}, "must lie in 1..3"),
        ({"folds": 1, "fold": 1}, "must be at least 2"),
        ({"folds": 3, "fold": 1, "val_fraction": 0.1}, "exclude each other"),
    ],
)
def test_options_of_folds(root, given, message):
    with pytest.raises(DataError, match=message):
        open_data(listed(root, LABELS), **given)


def test_folds_and_groups_of_folders(tmp_path):
    for number in range(12):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        picture(number).save(tmp_path / "ab"[number % 2] / f"ann{number // 4}_{number}.png")
    for fold in (1, 2, 3):
        data = open_data(f"folder:{tmp_path}", folds=3, fold=fold, group=r"ann\d+")
        assert len({Path(data.val.locate(i)).name.partition("_")[0] for i in range(len(data.val))}) == 1
        assert len(data.val) == 4
    with pytest.raises(DataError, match=r"--group x\+ matches nothing in a/ann0_0.png"):
        open_data(f"folder:{tmp_path}", group="x+")
    with pytest.raises(DataError, match="is no regular expression"):
        open_data(f"folder:{tmp_path}", group="(")
    with pytest.raises(DataError, match="--folds 3 has no effect on digits"):
        open_data("digits", folds=3, fold=1)


def test_paths_alone(root):
    assert listed_paths(listed(root, "image\n3.png\nno.png\n")) == [str(root / "3.png"), str(root / "no.png")]


def test_a_long_list_is_read_in_seconds(root, tmp_path):
    """20,000 rows; a million take 50 times as long."""
    file = tmp_path / "long.csv"
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    file.write_text("path,label\n" + "".join(f"{n % 4}.png,{'ab'[n % 2]}\n" for n in range(20_000)))
    started = time.process_time()
    assert len(open_data(f"csv:{file}").split("all")) == 4
    assert time.process_time() - started < 5
