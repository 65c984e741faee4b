"""File and class names of any kind: on the terminal, in JSON and in CSV."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import senet as package
from senet.cli.output import print_table
from senet.console import line_printer, plain_console, plain_progress, printable
from senet.inference import prediction
from senet.spreadsheet import text_cell

ODD = {
    b"new\nline.png": "new\\nline.png",
    b"a,b\"c'.png": "a,b\"c'.png",
    b"cat[old].png": "cat[old].png",
    b"x[.png": "x[.png",
    b":m:.png": ":m:.png",
    b"not utf-8 \xff.png": "not utf-8 \\udcff.png",
    b"red\x1b[31m.png": "red\\x1b[31m.png",
    b"tab\t.png": "tab\\t.png",
    b"=1+1.png": "=1+1.png",
    "line\u2028separator \u202e.png".encode(): "line\\u2028separator \\u202e.png",
    "ein Bär, 日本　語.png".encode(): "ein Bär, 日本　語.png",
}
"""A file's name, and how a person sees it."""

MARKUP = ["cat[old].png: not an image", "a[/x].png: not an image", "[bold]b[/bold] :m: \\[c]", "[link=x]y"]


@pytest.fixture
def odd(digit_folder, tmp_path) -> Path:
    picture = next((digit_folder / "test" / "5").iterdir())
    folder = tmp_path / "odd [folder]"
    folder.mkdir()
    for name in ODD:
        shutil.copy(picture, os.path.join(os.fsencode(folder), name))
    return folder


def test_json_names_each_file_exactly(senet, trained, odd):
    code, out, _ = senet("predict", odd, "--checkpoint", trained, "--json")
    assert code == 0
    rows = json.loads(out.encode().decode())  # UTF-8
    assert {os.fsencode(row["path"]) for row in rows} == {os.path.join(os.fsencode(odd), name) for name in ODD}
    assert all(row["error"] == "" and len(row["top"]) == 5 for row in rows)


def test_a_table_shows_names_as_they_are(senet, trained, odd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    code, out, _ = senet("predict", odd, "--checkpoint", trained)
    assert code == 0
    assert "\x1b" not in out
    for shown in ODD.values():
        assert f"{odd}/{shown} " in out


def test_a_csv_has_a_row_a_file_and_no_formula(senet, trained, odd, tmp_path, monkeypatch):
    monkeypatch.chdir(odd)
    names = [os.fsdecode(name) for name in ODD]
    assert senet("predict", *names, "--checkpoint", trained, "--out", tmp_path / "rows.csv")[0] == 0
    text = (tmp_path / "rows.csv").read_bytes().decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["path"] for row in rows] == [text_cell(name) for name in names]
    assert "'=1+1.png" in [row["path"] for row in rows]
    assert {row["error"] for row in rows} == {""}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "'=", "''@"])
def test_what_would_be_a_formula_is_text_and_can_be_had_back(start):
    cell = text_cell(f"{start}cmd|' /C calc'!A0")
    assert cell[0] == "'"
    assert cell[1:] == f"{start}cmd|' /C calc'!A0"


@pytest.mark.parametrize("text", ["", "a", "a=b", "'tis", "0", "é", "a\t", "12-3"])
def test_other_text_is_left_alone(text):
    assert text_cell(text) == text


def test_rows_are_written_as_they_come_and_a_failure_leaves_nothing(senet, trained, odd, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "rows.csv").write_text("the old rows")
    seen = []

    def failing(self, index):
        seen.extend(path.stat().st_size for path in out.glob(".*.tmp.csv"))
        if index == len(ODD) - 1:
            raise OSError(28, "No space left on device")
        return whole(self, index)

    whole = prediction._Files.__getitem__
    monkeypatch.setattr(prediction._Files, "__getitem__", failing)
    monkeypatch.setattr(io, "DEFAULT_BUFFER_SIZE", 1)
    code, _, err = senet("predict", odd, "--checkpoint", trained, "--out", out / "rows.csv", "--batch-size", 1,
                         "--workers", 0)  # fmt: skip
    assert code == 2, err
    assert "No space left" in err
    assert len(seen) == len(ODD), "the file is there while images are read"
    assert [path.name for path in out.iterdir()] == ["rows.csv"]
    assert (out / "rows.csv").read_text() == "the old rows"


def test_memory_holds_no_rows(trained, odd, tmp_path, monkeypatch, senet):
    """However many files: the row before is gone when the next one comes."""
    import gc

    alive = []

    def counted(self, index):
        alive.append(sum(type(thing) is prediction.Prediction for thing in gc.get_objects()))
        return whole(self, index)

    whole = prediction._Files.__getitem__
    monkeypatch.setattr(prediction._Files, "__getitem__", counted)
    many = [odd / "cat[old].png"] * 12
    senet("predict", *many, "--checkpoint", trained, "--out", tmp_path / "rows.csv", "--batch-size", 4, "--workers", 0)
    assert len(alive) == 12
    assert max(alive) <= 4


def test_where_rows_cannot_go(refused, trained, odd, tmp_path):
    image = odd / "cat[old].png"
    before = image.read_bytes()
    assert "one of the images" in refused("predict", odd, "--checkpoint", trained, "--out", image)
    assert image.read_bytes() == before
    assert "is a folder" in refused("predict", odd, "--checkpoint", trained, "--out", tmp_path)
    assert "use one of them" in refused("predict", odd, "--checkpoint", trained, "--out", "a.csv", "--json")


@pytest.mark.parametrize("text", MARKUP)
def test_every_console_shows_text_as_it_is(text, capsys):
    for console in (plain_console(), Console(stderr=True), Console(stderr=True, force_terminal=True, width=20)):
        line_printer(console)(text)
        shown = capsys.readouterr().err
        assert shown == f"{text}\n"
    print_table((text, "b"), [[text, "1"]], title=text, left=2)
    assert capsys.readouterr().out.count(text) == 3
    file = io.StringIO()
    bar = plain_progress("{task.description}", console=plain_console(stderr=False, file=file, width=200,
                                                                     force_terminal=True))  # fmt: skip
    with bar:
        bar.add_task(text)
    assert text in file.getvalue()


def test_a_broken_image_of_a_comparison_is_named(senet, digit_folder, tmp_path, monkeypatch):
    """`cat[old].png` lost its `[old]`, and `a[/x].png` ended the comparison."""
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        for label in "12":
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for image in sorted((digit_folder / part / label).iterdir())[:6]:
                shutil.copy(image, tmp_path / "data" / part / label)
    folder = tmp_path / "data" / "train" / "2"
    (folder / "cat[old].png").write_bytes(b"")
    (folder / "f[").mkdir()
    (folder / "f[" / "x].png").write_bytes(b"")  # its path holds `[/x]`
    quick = ["--seeds", 1, "--epochs", 1, "--batch-size", 4, "--timing-seconds", 0]
    code, _, err = senet(
        "compare", "--data", "folder:data", "--model", "cifar_resnet20", "--attention", "se", *quick, "--out", "runs"
    )
    assert code == 0, err
    assert "cat[old].png: empty file" in err
    assert "f[/x].png: empty file" in err


def test_consoles_are_made_in_one_place():
    """Rich's own defaults read text as markup, so nobody makes a console, a bar's text or a text of markup himself."""
    root = Path(package.__file__).parent
    for file in root.rglob("*.py"):
        if file == root / "console.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                assert called not in ("Console", "TextColumn", "Progress", "from_markup"), f"{file}:{node.lineno}"


def test_printable():
    assert printable("a\nb", keep="\n") == "a\nb"
    assert printable("a\r\nb\x00") == "a\\r\\nb\\x00"
    assert printable("\udcff") == "\\udcff"
    assert printable("👩\u200d👧 ü") == "👩\u200d👧 ü"
