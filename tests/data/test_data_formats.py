"""Which files of a folder are images: those that this Pillow reads; the others are named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_helpers import picture, tree
from PIL import Image, features

from senet.cli import main
from senet.data import find_images, load_image, open_data
from senet.data.checks import left_out_note, report_data
from senet.data.formats import list_images, readable_formats, readable_suffixes
from senet.data.images import CorruptImage, file_info, read_stored, upright_size
from senet.data.mask_files import read_mask
from senet.errors import DataError
from senet.preprocessing import CIFAR

WRITTEN = {
    ".jfif": "JPEG", ".jpe": "JPEG", ".gif": "GIF", ".webp": "WEBP", ".avif": "AVIF", ".jp2": "JPEG2000",
    ".tiff": "TIFF", ".bmp": "BMP", ".ppm": "PPM", ".apng": "PNG", "": "JPEG", ".PNG": "PNG",
}  # fmt: skip


def names(paths: list[str] | tuple[str, ...]) -> list[str]:
    return [Path(path).name for path in paths]


@pytest.mark.parametrize(("suffix", "form"), WRITTEN.items(), ids=[*map(repr, WRITTEN)])
def test_every_readable_file_is_read(suffix: str, form: str, tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(2 if "train" in name else 1):
            picture(number, (40, 30)).save(tmp_path / name / f"photo{number}{suffix}", form)
    data = open_data(f"folder:{tmp_path}")
    assert (len(data.train), len(data.val), data.left_out) == (4, 2, ())
    assert data.train[0][0].size == (40, 30)


def test_what_cannot_be_read_is_listed_once(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 10, "b": 10})
    for name in (
        "a/photo.heic",
        "a/x.svg",
        "b/notes.txt",
        "b/README",
        "loose.heic",
        "loose.png",
        "a/._x.heic",
        ".h/x.heic",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    data = open_data(f"folder:{tmp_path}")
    assert len(data.train) + len(data.val) == 20
    assert names(data.left_out) == ["loose.heic", "loose.png", "photo.heic", "x.svg", "README", "notes.txt"]
    told: list[str] = []
    report_data(data, CIFAR, told.append)
    (line,) = told
    assert line.startswith("6 files left out (unsupported format): ")
    assert line.endswith("photo.heic and 3 more")


def test_the_note_counts() -> None:
    assert left_out_note(()) == ""
    assert left_out_note(["x.heic"]).startswith("1 file left out")
    assert left_out_note(["a", "b", "c"]).endswith(": a, b, c")


def test_a_divided_folder_lists_those_of_all_parts(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        tree(tmp_path / part, {"a": 2, "b": 2})
        (tmp_path / part / "a" / f"{part}.heic").write_bytes(b"x")
    assert sorted(names(open_data(f"folder:{tmp_path}").left_out)) == ["test.heic", "train.heic", "val.heic"]


def test_a_plug_in_makes_heic_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(0).save(tmp_path / "x.heic", "PNG")  # stands for HEIC: the format is told from the content
    assert names(list_images(tmp_path).left_out) == ["x.heic"]
    monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["PNG"])
    assert names(list_images(tmp_path).images) == ["x.heic"]
    assert load_image(tmp_path / "x.heic").size == picture(0).size


def test_a_pillow_without_a_library_leaves_its_files_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(0).save(tmp_path / "x.avif")
    assert names(list_images(tmp_path).images) == ["x.avif"]
    real = features.check
    monkeypatch.setattr(features, "check", lambda name: name != "avif" and real(name))
    assert ".avif" not in readable_suffixes()
    assert names(list_images(tmp_path).left_out) == ["x.avif"]


def test_formats_that_run_programs_are_not_read() -> None:
    assert not {"EPS", "WMF", "PDF", "MPEG", "PSD", "FITS"} & set(readable_formats())


def test_files_without_suffix_are_told_by_their_content(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "n0001_0", "PNG")
    picture(0).save(tmp_path / "dot.", "JPEG")
    (tmp_path / "Makefile").write_text("all:\n")
    (tmp_path / "empty").touch()
    (tmp_path / "script").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    found = list_images(tmp_path)
    assert names(found.images) == ["dot.", "n0001_0"]
    assert names(found.left_out) == ["Makefile", "empty", "script"]
    assert names(find_images(tmp_path)) == ["dot.", "n0001_0"]


def test_masks_and_their_pictures(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number, suffix in enumerate((".jfif", ".gif", "", ".webp")):
        picture(number, (8, 8)).save(tmp_path / "images" / f"{number}{suffix}", "PNG")
        Image.fromarray(np.array([[0, 1]], np.uint8).repeat(8, 0).repeat(4, 1)).save(
            tmp_path / "masks" / f"{number}.png"
        )
    (tmp_path / "images" / "9.heic").write_bytes(b"x")
    (tmp_path / "masks" / "notes.txt").write_text("x")
    data = open_data(f"masks:{tmp_path}", classes=("background", "thing"))
    assert len(data.train) + len(data.val) == 4
    assert names(data.left_out) == ["9.heic", "notes.txt"]
    shutil.copy(tmp_path / "masks" / "0.png", tmp_path / "masks" / "0.bmp")
    with pytest.raises(DataError, match=r"0\.bmp and .*0\.png have the same name; keep one"):
        open_data(f"masks:{tmp_path}", classes=("background", "thing"))


def test_doctor_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path, {"a": 10, "b": 10})
    (tmp_path / "a" / "photo.heic").write_bytes(b"x")
    assert main(["doctor", "--data", f"folder:{tmp_path}", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "left out" in out
    assert "photo.heic" in out


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("x.jpg", "without_suffix"):
        os.mkfifo(tmp_path / name)
    for read in (load_image, upright_size, file_info, read_stored):
        with pytest.raises(CorruptImage, match="not a file that can be read"):
            read(tmp_path / "x.jpg")
    with pytest.raises(CorruptImage, match="not a file that can be read"):
        read_mask(tmp_path / "x.jpg", 2)
    found = list_images(tmp_path)
    assert (names(found.images), names(found.left_out)) == (["x.jpg"], ["without_suffix"])


def test_links_that_lead_in_circles_give_no_image_twice(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 3, "b": 3})
    for place, target in (
        ("a/self", "."),
        ("a/up", "../a"),
        ("a/top", ".."),
        ("a/across", "../b"),
        ("b/across", "../a"),
    ):
        (tmp_path / place).symlink_to(target, target_is_directory=True)
    found = list_images(tmp_path / "a")
    assert len(found.images) == 6  # its own, and those that it links from b
    assert {"self", "up", "top"} <= set(names(found.left_out))
    assert all(path.count("across") <= 2 for path in found.left_out)


def test_a_folder_that_is_linked_is_read(tmp_path: Path) -> None:
    tree(tmp_path / "elsewhere", {"a": 3})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    assert len(find_images(tmp_path / "data")) == len(find_images(tmp_path / "data" / "a")) == 3
