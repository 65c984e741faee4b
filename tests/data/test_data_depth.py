"""12 bits in 16: what is white is told, said with `--white-level`, and travels with the network."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_masks import chunk

from senet.cli import main
from senet.data import Augmentation, eval_transform, load_image, open_data, train_transform
from senet.data.checks import report_data
from senet.data.depth import full_scale
from senet.data.images import Stored, to_8_bits
from senet.data.transforms import Normalise
from senet.errors import DataError, SenetError
from senet.preprocessing import IMAGENET, Preprocessing

GREY = Preprocessing(size=(32, 32), crop_fraction=1.0, mean=(0.5,), std=(0.5,), channel_order="L")


def deep(seed: int, bits: int, size: int = 32) -> np.ndarray:
    """Grey of so many bits, the largest value among them."""
    pixels = np.random.RandomState(seed).randint(0, 2**bits, (size, size)).astype(np.uint16)
    pixels[0, 0] = 2**bits - 1
    return pixels


def grey_folder(root: Path, bits: int, suffix: str = ".png", count: int = 5) -> Path:
    for label, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(deep(number + 10 * label, bits)).save(root / name / f"{number}{suffix}")
    return root


def colour_png(value: int) -> bytes:
    """16-bit colours, which Pillow doesn't write."""
    import struct
    import zlib

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0))
    rows = b"".join(b"\0" + struct.pack(">H", value) * 96 for _ in range(32))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("white", [1, 255, 1023, 4095, 16383, 50_000, 65_535])
def test_a_level_becomes_white(white: int) -> None:
    values = np.unique(np.array([0, 1, white // 3, white // 2, white - 1, white, min(65_535, white + 1), 65_535]))
    seen = np.asarray(to_8_bits(Image.fromarray(values.astype(np.uint16)[None]), white))[0]
    assert seen.tolist() == np.rint(np.minimum(values, white) * 255.0 / white).astype(int).tolist()


def test_8_bits_do_not_depend_on_it() -> None:
    for mode in ("L", "RGB"):
        image = Image.new(mode, (4, 4), "gray")
        assert np.array_equal(to_8_bits(image, 4095), image)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("order", ["L", "RGB"])
@pytest.mark.parametrize("crop", ["random-resized", "pad", "none"])
def test_training_and_evaluation_see_the_same_white(crop: str, order: str, suffix: str, tmp_path: Path) -> None:
    images = replace(GREY if order == "L" else replace(IMAGENET, size=(32, 32), crop_fraction=1.0), white_level=4095)
    content = io.BytesIO()
    Image.fromarray(deep(1, 12)).save(content, "PNG" if suffix == ".png" else "TIFF")
    (tmp_path / f"x{suffix}").write_bytes(content.getvalue())
    whole = (
        {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)} if crop == "random-resized" else {"pad": 0} if crop == "pad" else {}
    )
    transform = train_transform(images, Augmentation(crop=crop, hflip=0, **whole))
    trained = Normalise(images)(transform.decoded(Stored("x", bytearray(content.getvalue())))[None])[0]
    eight = Image.fromarray(np.rint(deep(1, 12) * 255.0 / 4095).astype(np.uint8))
    wanted = eval_transform(replace(images, white_level=65_535))(eight)
    assert torch.equal(trained, wanted)
    assert torch.equal(eval_transform(images)(load_image(tmp_path / f"x{suffix}", white_level=4095)), wanted)


def test_preprocessing_says_and_checks_it() -> None:
    twelve = replace(IMAGENET, white_level=4095)
    assert Preprocessing.from_dict(json.loads(json.dumps(twelve.to_dict()))) == twelve
    assert "16-bit white 4095" in str(twelve)
    assert "white" not in str(IMAGENET)
    for wrong in (0, -1, 65_536, 4095.5, "auto", True, None):
        with pytest.raises(SenetError, match="white_level"):
            replace(IMAGENET, white_level=wrong)


@pytest.mark.parametrize(
    ("largest", "white"),
    [(1, 1), (255, 255), (256, 511), (1000, 1023), (3000, 4095), (4095, 4095), (4096, 8191), (65_535, 65_535)],
)
def test_auto_takes_the_fewest_bits(largest: int, white: int) -> None:
    assert full_scale(largest) == white


def notes(data: object, images: Preprocessing = GREY) -> list[str]:
    told: list[str] = []
    report_data(data, images, told.append)
    return told


def test_training_tells_it_once(tmp_path: Path) -> None:
    for bits in (9, 10, 12, 14):
        data = open_data(f"folder:{grey_folder(tmp_path / str(bits), bits)}")
        (line,) = notes(data)
        assert f"16-bit images use {bits} bits" in line
        assert line.endswith(f"--white-level {2**bits - 1}")
        assert notes(data, replace(GREY, white_level=2**bits - 1)) == []
    (line,) = notes(open_data(f"folder:{grey_folder(tmp_path / 'all', 16)}"))
    assert line == "16-bit images become 8 bits; --channels 1 --bit-depth 16 keeps all of them"
    assert "become white" in notes(open_data(f"folder:{tmp_path / '14'}"), replace(GREY, white_level=4095))[0]


@pytest.mark.parametrize("white", [4095, "auto"])
def test_the_data_knows_its_white(white: int | str, tmp_path: Path) -> None:
    grey_folder(tmp_path, 12)
    assert open_data(f"folder:{tmp_path}").white_level is None
    assert open_data(f"folder:{tmp_path}", white_level=white).white_level == 4095


def test_white_without_effect_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(deep(number, 8).astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    for data in ("digits", f"folder:{tmp_path}"):
        for white in (4095, "auto"):
            with pytest.raises(DataError, match=f"--white-level {white} has no effect: no training image"):
                open_data(data, white_level=white)
    with pytest.raises(DataError, match="must be 1 to 65535"):
        open_data("digits", white_level=0)


def test_deep_colours_are_told_and_white_is_not_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(2 if "train" in name else 1):
            (tmp_path / name / f"{number}.png").write_bytes(colour_png(4000 + number))
    assert "16-bit colour images use 12 bits" in notes(open_data(f"folder:{tmp_path}"), IMAGENET)[0]
    with pytest.raises(DataError, match="16-bit colours, of which 8 bits are read"):
        open_data(f"folder:{tmp_path}", white_level=4095)
    main(["doctor", "--data", f"folder:{tmp_path}", "--workers", "0"])
    out = capsys.readouterr().out
    assert "RGB;16 4" in out
    assert "use 12 bits" in out


def test_doctor_reports_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--data", f"folder:{grey_folder(tmp_path, 12)}", "--workers", "0"])
    out = capsys.readouterr().out
    assert "use 12 bits (largest value 4,095)" in out
    assert "--white-level 4095" in out
    main(["doctor", "--data", f"folder:{tmp_path}", "--workers", "0", "--json"])
    assert "12 bits" in json.loads(capsys.readouterr().out)["data"]["splits"]["train"]["bit_depth"]
